"""The published GFLOPs and FPS cells beside what is measured: the audit's cells, no findings."""

from collections.abc import Callable, Collection
from typing import Any

from segmeter.harness.audit.cells import AuditedCell, audit_cells
from segmeter.harness.audit.speeds import audit_fps, fps_records, profile_runs


def reproduced_cells(
    tables: Collection[int], step: Callable[[str], None] = lambda what: None
) -> list[AuditedCell]:
    """The GFLOPs cells of these tables, as the audit judges them.

    Args:
        tables: numbers from 1 to 11; others hold no GFLOPs.
        step: called with what is measured next, :func:`reproduce_steps` times.
    """
    return audit_cells(tables, step=step)


def reproduced_speeds(tables: Collection[int]) -> list[dict[str, Any]]:
    """The FPS cells of these tables beside the ratios in the records that are there, as plain data."""
    return list(fps_records(audit_fps(tables, profile_runs())))


def reproduce_steps(tables: Collection[int]) -> int:
    """How often :func:`reproduced_cells` calls ``step``, at the most."""
    return 1 + len(tables)


def reproduction_row(audited: AuditedCell) -> dict[str, Any]:
    """One published cell and its measurement as plain data; GMACs in the published convention."""
    cell = audited.cell
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
        "verdict": audited.verdict,
        "note": audited.note,
    }
