"""The audit: the PRO-SCALE paper's tables, every figure measured or recomputed, as one plain record."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmeter.harness.audit.cells import (
    CONSISTENT,
    PRINTS,
    REPRODUCED,
    VERDICTS,
    AuditedCell,
    audit_cells,
)
from segmeter.harness.audit.chance import accepted_share, wrong_figures_met
from segmeter.harness.audit.comparisons.run import audit_comparisons, read_comparisons
from segmeter.harness.audit.findings.citations import citation_findings
from segmeter.harness.audit.findings.cost import cost_findings
from segmeter.harness.audit.findings.counted import counted_findings
from segmeter.harness.audit.findings.hosts import host_findings
from segmeter.harness.audit.findings.printed import print_findings
from segmeter.harness.audit.means import images_by_id
from segmeter.harness.audit.percentages import audit_percentages, percentage_records
from segmeter.harness.audit.speeds import RECORD_FOLDERS, audit_fps, fps_records, profile_runs
from segmeter.harness.audit.subjects import SCOPES
from segmeter.harness.audit.tables import GFLOPS_TABLES, audit_tables, check_tables
from segmeter.harness.counting import CONVENTION, CONVENTIONS, versions
from segmeter.harness.published import PRO_SCALE, claims, published_rows

SCHEMA = "segmeter.audit/1"
PAPER = Path(__file__).parents[2] / "results" / "published" / "proscale.csv"


def run_audit(
    tables: Collection[int] = GFLOPS_TABLES,
    step: Callable[[str], None] = lambda what: None,
    *,
    annotations: Path | None = None,
    records: Sequence[Path] = RECORD_FOLDERS,
) -> dict[str, Any]:
    """Audit the tables.

    All tables are measured in any case, as findings compare them; ``tables`` chooses what is reported.

    Args:
        tables: table numbers; with all of 1 to 11, tables that hold FPS only are reported as well.
        step: called with what is audited next, :func:`audit_steps` times.
        annotations: a COCO-format file; its images by id take the place of val2017's first 100.
        records: folders of profile records to take measured speeds from.

    Returns:
        The audit record, ready for JSON.

    Raises:
        ValueError: a table that cannot be audited, or a damaged file; one line.
    """
    check_tables(tables)
    images = images_by_id(annotations) if annotations else None
    rows, statements = published_rows(), claims()
    audited = audit_cells(GFLOPS_TABLES, images, step)
    step("percentages")
    percentages = audit_percentages(GFLOPS_TABLES, audited)
    step("speeds")
    speeds = audit_fps(None, profile_runs(records))
    step("chance")
    chance = wrong_figures_met(audited)
    step("findings")
    found = [
        *cost_findings(audited, percentages),
        *host_findings(audited),
        *counted_findings(audited, statements),
        *citation_findings(rows),
        *print_findings(rows, statements, percentages, speeds),
    ]
    general = general_findings()
    chosen = set(audit_tables() if set(GFLOPS_TABLES) <= set(tables) else tables)
    cells = [a for a in audited if a.cell.table in chosen]
    return {
        "schema": SCHEMA,
        "paper": PRO_SCALE,
        "tables": sorted(chosen),
        "convention": CONVENTION,
        "convention_text": CONVENTIONS[CONVENTION],
        "images": str(annotations.name) if annotations else "first 100 images of val2017",
        "verdicts": VERDICTS,
        "prints": PRINTS,
        "scopes": SCOPES,
        "reproduced": REPRODUCED,
        "consistent": CONSISTENT,
        "chance": chance,
        "cells": [_cell_record(a, chance) for a in cells],
        "percentages": percentage_records([p for p in percentages if p.row.table in chosen]),
        "fps": fps_records([s for s in speeds if s.row.table in chosen]),
        "findings": [
            {
                "id": f.id,
                "title": f.title,
                "text": f.text,
                "sentences": list(f.sentences),
                "tables": list(f.tables),
            }
            for f in found
            if chosen & set(f.tables)
        ],
        # What the rules for anybody's tables say of the paper's: no model is run for them.
        "general": general if set(GFLOPS_TABLES) <= set(tables) else None,
        "counts": _counts(cells),
        "versions": versions(),
    }


def general_findings() -> dict[str, Any]:
    """The general rules, levels 0 to 2, on the paper's tables as they would judge anybody's."""
    record = audit_comparisons(read_comparisons([PAPER]), named=[])
    return {name: record[name] for name in ("rules", "findings", "left_out", "counts")}


def audit_steps() -> int:
    """How often :func:`run_audit` calls ``step``."""
    with_gflops = {row.table for row in published_rows() if row.paper == PRO_SCALE and "gflops" in row.metric}
    return len(with_gflops) + 5


def _cell_record(audited: AuditedCell, chance: Mapping[str, Any]) -> dict[str, Any]:
    cell, subject = audited.cell, audited.subject
    return {
        "table": cell.table,
        "row": cell.row,
        "model": cell.label,
        "backbone": cell.backbone,
        "dataset": cell.dataset,
        "what": cell.what,
        "printed": cell.printed,
        "published_gmacs": cell.value,
        "measured_gmacs": audited.measured,
        "difference_percent": audited.difference_percent,
        "size": audited.size,
        "padded_size": list(audited.padded) if audited.padded else None,
        "measured_as": subject.spec.text if subject.spec else None,
        "scope": subject.scope,
        "verdict": audited.verdict,
        "by_chance": accepted_share(chance, cell) if audited.verdict in CONSISTENT else None,
        "print": audited.print,
        "note": audited.note,
    }


def _counts(cells: Sequence[AuditedCell]) -> dict[str, Any]:
    """How many cells ended how; how many of the papers' own models are reproduced, each figure once."""
    family = [a for a in cells if a.subject.scope == "family"]
    # Tables repeat each other: the same figure of the same model is one.
    distinct = list({_what_is_printed(a): a for a in family}.values())
    verdicts = Counter(a.verdict for a in cells)
    prints = Counter(a.print for a in cells if a.print)
    reproduced = [a for a in family if a.verdict in REPRODUCED]
    return {
        "cells": len(cells),
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "prints": {name: prints[name] for name in PRINTS},
        "family_cells": len(family),
        "family_reproduced": len(reproduced),
        "family_consistent": sum(a.verdict in CONSISTENT for a in family),
        "family_share": len(reproduced) / len(family) if family else None,
        "family_distinct": len(distinct),
        "family_distinct_reproduced": sum(a.verdict in REPRODUCED for a in distinct),
        "family_distinct_consistent": sum(a.verdict in CONSISTENT for a in distinct),
        "family_reproduced_cut_off": sum(a.print == "cut off" for a in reproduced),
    }


def _what_is_printed(audited: AuditedCell) -> tuple[Any, ...]:
    cell, spec = audited.cell, audited.subject.spec
    return spec.text if spec else cell.label, cell.backbone, cell.dataset, cell.what, cell.value
