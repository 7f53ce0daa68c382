"""Every printed percentage, recomputed: from the figures printed beside it, and from one common input."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from segmeter.harness.audit.cells import CONSISTENT, REPRODUCED, AuditedCell
from segmeter.harness.audit.means import FIRST_IMAGES, mean_total
from segmeter.harness.audit.subjects import subject_of
from segmeter.harness.counting import CostModel, cost_model
from segmeter.harness.inputs import ImageSize, Size, dataset_sizes, format_size
from segmeter.harness.published import (
    METRICS,
    PRO_SCALE,
    PublishedCell,
    PublishedRow,
    gflops_cells,
    published_rows,
)

# Printed to 0.01; a figure and its reference are rounded themselves.
AGREES = 0.011
# From here on a percentage of two sizes is wrong by more than the figures' rounding can explain.
TWO_SIZES = 0.5


@dataclass(frozen=True)
class Percentage:
    """One printed percentage.

    Attributes:
        row: the row it is printed in.
        reference: the row it is measured against.
        printed: as printed, percent.
        from_printed: recomputed from the two printed figures.
        one_size: recomputed from both models' measured figures on one input; None where one is not modelled.
        input: that input, in words.
        note: what explains a difference, or "".
    """

    row: PublishedRow
    reference: PublishedRow
    printed: float
    from_printed: float
    one_size: float | None
    input: str
    note: str

    @property
    def what(self) -> str:
        """Which figure: encoder or total."""
        return METRICS[self.row.metric]

    @property
    def agrees(self) -> bool:
        """Whether it follows from the printed figures."""
        return abs(self.printed - self.from_printed) <= AGREES

    @property
    def crosses_sizes(self) -> bool:
        """Whether its two figures belong to different inputs, by the percentage that one input gives."""
        return self.one_size is not None and abs(self.from_printed - self.one_size) > TWO_SIZES


def audit_percentages(tables: Collection[int], audited: Sequence[AuditedCell]) -> list[Percentage]:
    """Recompute every percentage of these tables.

    Args:
        tables: table numbers.
        audited: the cells of at least these tables; they say at which size an encoder was measured.
    """
    rows = [row for row in published_rows() if row.paper == PRO_SCALE and row.table in tables]
    by_place = {(a.cell.table, a.cell.row, a.cell.what): a for a in audited}
    models = {(c.table, c.row, c.what): c for c in gflops_cells(tables)}
    found = []
    for row in rows:
        if row.percent is None:
            continue
        reference = _reference(row, rows)
        pair = [models[r.table, r.row, METRICS[r.metric]] for r in (row, reference)]
        own = by_place[row.table, row.row, METRICS[row.metric]]
        one_size, text = (None, "") if _is_of_other_images(own) else _on_one_input(pair, own.padded)
        from_printed = 100 * (row.value / reference.value - 1)
        other = by_place[reference.table, reference.row, METRICS[reference.metric]]
        note = _note(row, from_printed, one_size, own.padded, other.padded, rows)
        found.append(Percentage(row, reference, row.percent, from_printed, one_size, text, note))
    return found


def _is_of_other_images(audited: AuditedCell) -> bool:
    """Whether another system's figure is its own paper's, or is not met: nothing follows from its size."""
    if audited.subject.scope != "other":
        return False
    return audited.cell.is_taken_over or audited.verdict not in (*REPRODUCED, *CONSISTENT)


def _reference(row: PublishedRow, rows: Sequence[PublishedRow]) -> PublishedRow:
    """The row a percentage is measured against: the last one above, of the same block, that has none."""
    return [
        r
        for r in rows
        if (r.table, r.block, r.metric, r.backbone) == (row.table, row.block, row.metric, row.backbone)
        and r.percent is None
        and r.row < row.row
    ][-1]


def _on_one_input(pair: Sequence[PublishedCell], padded: Size | None) -> tuple[float | None, str]:
    """Change in percent from the second cell's model to the first's, both measured on one input."""
    specs = [subject_of(cell).spec for cell in pair]
    models: list[CostModel] = [cost_model(spec) for spec in specs if spec is not None]
    if len(models) < len(pair):
        return None, ""
    cell = pair[0]
    if cell.what == "total" and cell.dataset == "coco":
        own, reference = (mean_total(model, dataset_sizes(FIRST_IMAGES)) for model in models)
        text = "first 100 images of val2017"
    else:
        assert padded is not None
        size = ImageSize(padded, padded)
        own, reference = (m.encoder(padded) if cell.what == "encoder" else m.total(size) for m in models)
        text = format_size(padded)
    return 100 * (own / reference - 1), text


def _note(
    row: PublishedRow,
    from_printed: float,
    one_size: float | None,
    size: Size | None,
    reference_size: Size | None,
    rows: Sequence[PublishedRow],
) -> str:
    assert row.percent is not None
    if abs(row.percent - from_printed) > AGREES:
        note = f"the printed figures give {from_printed:+.2f}"
        twins = [
            r
            for r in published_rows()
            if r.paper == PRO_SCALE
            and r.percent == row.percent
            and r.model == row.model
            and r.place != row.place
        ]
        if twins:
            note += f"; {row.percent:+.2f} is what {twins[0].place} prints for the same model"
        return note
    if one_size is not None and size and reference_size and size != reference_size:
        return f"{format_size(size)} against {format_size(reference_size)}; on one size it is {one_size:+.2f}"
    return ""


def percentage_records(found: Sequence[Percentage]) -> list[Mapping[str, object]]:
    """As plain data."""
    return [
        {
            "table": p.row.table,
            "row": p.row.row,
            "model": p.row.label,
            "backbone": p.row.backbone,
            "dataset": p.row.dataset,
            "what": p.what,
            "reference": p.reference.label,
            "printed": p.printed,
            "from_printed": p.from_printed,
            "agrees": p.agrees,
            "one_size": p.one_size,
            "input": p.input,
            "crosses_sizes": p.crosses_sizes,
            "note": p.note,
        }
        for p in found
    ]
