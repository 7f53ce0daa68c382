"""Findings on other systems that run M2F's or PRO-SCALE's encoder."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from segmeter.harness.audit.cells import AuditedCell, print_ranges
from segmeter.harness.audit.findings.cost import row_pairs
from segmeter.harness.audit.findings.sentences import Finding, finding, listed, model, place
from segmeter.harness.audit.maskdino import encoder_cost, solve_structure
from segmeter.harness.inputs import format_size
from segmeter.harness.published import PublishedCell


def host_findings(audited: Sequence[AuditedCell]) -> list[Finding]:
    """All findings on open-vocabulary systems and on MaskDINO."""
    return [*_borrowed(audited), *_dropped_level(audited)]


def _borrowed(audited: Sequence[AuditedCell]) -> list[Finding]:
    """Host systems' figures that no input of their label gives, and the rows that print the same."""
    hosts = [a for a in audited if a.subject.scope == "host" and a.verdict == "not reproduced"]
    sentences = []
    for a in hosts:
        twins = [
            o.cell
            for o in audited
            if o.subject.scope == "family" and o.cell.what == "encoder" and o.cell.value == a.cell.value
        ]
        same = f" {place(twins[0])} prints the same figure for {model(twins[0])}." if twins else ""
        sentences.append(
            f"{place(a.cell)}, {model(a.cell)}: {a.cell.value:.2f} {a.note.split('; ', 1)[-1]}.{same}"
        )
    savings: defaultdict[float, list[PublishedCell]] = defaultdict(list)
    for row, reference in row_pairs(audited):
        savings[round(reference["total"].value - row["total"].value, 2)].append(row["total"])
    for saving, cells in savings.items():
        backbones = {c.backbone for c in cells}
        if any(a.cell.model == c.model for a in hosts for c in cells) and len(backbones) > 1:
            sentences.append(
                f"The total falls by the same {saving:.2f} in {listed([place(c) for c in cells])}; only "
                f"{listed([place(c) for c in cells if c.dataset != 'cityscapes'])} is no Cityscapes row."
            )
    return finding(
        "borrowed",
        "Figures of an open-vocabulary system are those of another backbone and data set",
        sentences,
        (a.cell.table for a in hosts),
    )


def _dropped_level(audited: Sequence[AuditedCell]) -> list[Finding]:
    """A saving that is partly a level left out: the two figures fit different numbers of levels."""
    cells = [a.cell for a in audited if a.cell.model == "maskdino" and a.cell.what == "encoder"]
    solved = {
        bool(c.modifier): (c, solve_structure(bool(c.modifier), c.backbone, *print_ranges(c)["rounded"]))
        for c in cells
    }
    if len(solved) < 2 or not all(found for _, found in solved.values()):
        return []
    (whole, [(base, size), *_]), (reduced, [(variant, other_size), *_]) = solved[False], solved[True]
    if base.extra_level == variant.extra_level or size != other_size:
        return []
    alike = replace(base, extra_level=variant.extra_level)
    cost = encoder_cost(alike, whole.backbone, size)
    return finding(
        "dropped-level",
        "A saving is partly that of a level left out",
        [
            f"{place(whole)}, {model(whole)}: {whole.value:.2f} fits {base.text} at "
            f"{format_size(size)} ({encoder_cost(base, whole.backbone, size):.2f}).",
            f"{place(reduced)}, {model(reduced)}: {reduced.value:.2f} fits {variant.text} there "
            f"({encoder_cost(variant, reduced.backbone, size):.2f}).",
            f"The printed figures differ by {100 * (reduced.value / whole.value - 1):+.2f} %; against "
            f"{alike.text} ({cost:.2f}) it is "
            f"{100 * (encoder_cost(variant, reduced.backbone, size) / cost - 1):+.2f} %.",
        ],
        (whole.table, reduced.table),
    )
