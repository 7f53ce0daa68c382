"""Findings on other systems that run M2F's or PRO-SCALE's encoder, and on the detectors of Table 8."""

from collections import defaultdict
from collections.abc import Sequence

from segmeter.harness.audit.cells import AuditedCell
from segmeter.harness.audit.findings.cost import row_pairs
from segmeter.harness.audit.findings.sentences import Finding, finding, listed, model, place
from segmeter.harness.counting import CONVENTION, cost_model, count_model
from segmeter.harness.inputs import ImageSize, Size, format_size
from segmeter.harness.models import model_spec, spec_of
from segmeter.harness.published import PRO_SCALE, PublishedCell, published_rows
from segmeter.harness.records import GIGA

# What photos of 640x427 pixels become: the size of most of the paper's R50 rows.
TYPICAL: Size = (800, 1216)


def host_findings(audited: Sequence[AuditedCell]) -> list[Finding]:
    """All findings on open-vocabulary systems, on MaskDINO and on detectors."""
    return [*_borrowed(audited), *_dropped_level(audited), *_missing_costs(audited)]


def _borrowed(audited: Sequence[AuditedCell]) -> list[Finding]:
    """Host systems' encoder figures that no input of their label gives, and the rows that print the same."""
    hosts = [a for a in audited if not a.subject.is_stated and a.cell.what == "encoder" and a.print]
    sentences = []
    for a in hosts:
        twins = [
            o.cell
            for o in audited
            if o.subject.scope == "family" and o.cell.what == "encoder" and o.cell.value == a.cell.value
        ]
        same = f" {place(twins[0])} prints the same figure for {model(twins[0])}." if twins else ""
        assert a.subject.spec is not None
        sentences.append(
            f"{place(a.cell)}, {model(a.cell)}: {a.cell.value:.2f} is what {a.subject.spec.title} costs at "
            f"{a.size} ({a.measured:.2f}).{same}"
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
    """A saving that can be read as partly a level left out: one fit of several, and told so."""
    cells = {
        bool(a.cell.modifier): a
        for a in audited
        if a.cell.model == "maskdino" and a.cell.what == "encoder" and a.print
    }
    if len(cells) < 2:
        return []
    whole, reduced = cells[False], cells[True]
    size = whole.padded
    if size is None or size != reduced.padded:
        return []
    backbone = whole.cell.backbone
    fewer = model_spec("maskdino", backbone, levels=3)
    four_stages = (*(int(p) for p in reduced.cell.variant.split(",")), 3)
    kept = model_spec("maskdino", backbone, encoder="pro-scale", stages=four_stages)
    alike, with_level = cost_model(fewer).encoder(size), cost_model(kept).encoder(size)
    assert whole.measured is not None and reduced.measured is not None
    printed = 100 * (reduced.cell.value / whole.cell.value - 1)
    return finding(
        "dropped-level",
        "A saving can be read as partly that of a level left out",
        [
            "One reading of several: neither figure is met at the stated size, both are at a size that was "
            "solved for, which wrong figures would often find as well.",
            f"{place(whole.cell)}, {model(whole.cell)}: {whole.cell.value:.2f} is what its four levels, "
            f"strides 8 to 64, cost at {format_size(size)} ({whole.measured:.2f}).",
            f"{place(reduced.cell)}, {model(reduced.cell)}: {reduced.cell.value:.2f} is what its label gives "
            f"there on three levels, without stride 64 ({reduced.measured:.2f}); with a stage for it, "
            f"{kept.encoder_title} costs {with_level:.2f}.",
            f"The printed figures differ by {printed:+.2f} %; against MaskDINO's own encoder on three levels "
            f"({alike:.2f}) it is {100 * (reduced.measured / alike - 1):+.2f} %.",
        ],
        (whole.cell.table, reduced.cell.table),
    )


def _missing_costs(audited: Sequence[AuditedCell]) -> list[Finding]:
    """Detectors of which a table prints the quality alone: what they cost, counted."""
    tables = {a.cell.table for a in audited}
    cells = {(a.cell.table, a.cell.row, a.cell.backbone) for a in audited}
    sentences, found = [], []
    for row in published_rows():
        spec = spec_of(row)
        if row.paper != PRO_SCALE or row.metric != "box_ap" or row.table not in tables or spec is None:
            continue
        if (row.table, row.row, row.backbone) in cells:
            continue
        size = ImageSize(TYPICAL, TYPICAL)
        figures = count_model(spec, size, CONVENTION).figures
        sentences.append(
            f"{place(row)}, {spec.title}: {figures.total / GIGA:.2f} in all, "
            f"{figures.of('encoder') / GIGA:.2f} of it the encoder's, at {format_size(TYPICAL)}."
        )
        found.append(row.table)
    return finding(
        "missing-costs",
        "Detectors stand without their cost, beside that of segmenters: counted",
        sentences,
        found,
    )
