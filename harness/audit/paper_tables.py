"""The PRO-SCALE paper's tables as data, each figure measured beside the printed one."""

from collections.abc import Callable, Sequence
from typing import Any

from segmeter.harness.audit.cells import AuditedCell, audit_cells
from segmeter.harness.audit.findings.hosts import TYPICAL
from segmeter.harness.audit.means import FIRST_IMAGES, mean_total
from segmeter.harness.audit.tables import TABLES
from segmeter.harness.counting import CONVENTION, cost_model, count_model
from segmeter.harness.inputs import ImageSize, dataset_sizes, format_size
from segmeter.harness.models import ModelSpec, spec_of
from segmeter.harness.published import (
    CITYSCAPES_SIZE,
    DATASET_NAMES,
    METRIC_NAMES,
    MODIFIERS,
    PRO_SCALE,
    TITLES,
    PublishedRow,
    published_rows,
)
from segmeter.harness.records import GIGA

QUALITIES = ("pq", "miou", "ap", "mask_ap", "box_ap", "fps")
COSTS = {"gflops_total": "total", "gflops_encoder": "encoder"}
NOT_PRINTED = "not printed"
METHOD = (
    "Measured: GMACs in convention 'published', batch 1; = reproduced at the stated size (on COCO, the mean "
    "over the first 100 images of val2017), ~ consistent with the size in the last column or a mean over "
    "real images, which was solved for, ! not met. Change: as printed, against M2F."
)
METHOD_NOT_PRINTED = (
    "Without a mark: the row prints no cost; counted at 1024x2048, or on COCO the total as the mean over the "
    "first 100 images of val2017 and the encoder at the size in the last column."
)


def table_data(table: int, step: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """One table: blocks of rows as printed, with measured GFLOPs where segmeter has the model.

    A line is a row on one backbone: Table 8 prints detectors with R50 and segmenters with Swin-T in one row.

    Args:
        table: a key of :data:`TABLES`.
        step: called with what is measured next.

    Returns:
        {"table", "title", "method", "metrics", "costs", "blocks": [{"title", "rows"}]}. ``metrics`` are the
        table's qualities with their titles, ``costs`` which of "total" and "encoder" it has. A row has "row",
        "model", "backbone", "dataset", the qualities (None where not printed), and for each cost {"printed",
        "change", "measured", "size", "verdict", "note"}, or None. Where a row prints no cost, "printed" is
        None and the verdict "not printed".
    """
    audited = audit_cells([table], step=step)
    lines: dict[tuple[int, str], list[PublishedRow]] = {}
    for figure in published_rows():
        if figure.paper == PRO_SCALE and figure.table == table:
            lines.setdefault((figure.row, figure.backbone), []).append(figure)
    rows = [_row(line, audited) for line in lines.values()]
    metrics = _metrics(list(lines.values()))
    costs = [what for what in COSTS.values() if any(row[what] for row in rows)]
    unprinted = any(row[what] and row[what]["verdict"] == NOT_PRINTED for row in rows for what in costs)
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(row.pop("block"), []).append(dict.fromkeys(metrics) | row)
    return {
        "table": table,
        "title": TABLES[table],
        "source": f"PRO-SCALE, Table {table}",
        "method": f"{METHOD} {METHOD_NOT_PRINTED}" if unprinted else METHOD,
        "metrics": metrics,
        "costs": costs,
        "blocks": [{"title": title, "rows": found} for title, found in blocks.items()],
    }


def _metrics(lines: Sequence[Sequence[PublishedRow]]) -> dict[str, str]:
    """The table's qualities, and how a column of each is headed, in the papers' order."""
    found = {
        (QUALITIES.index(figure.metric), figure.dataset != line[0].dataset, figure.dataset): figure
        for line in lines
        for figure in line
        if figure.metric in QUALITIES
    }
    names: dict[str, str] = {}
    for (_, elsewhere, dataset), figure in sorted(found.items()):
        title = METRIC_NAMES[figure.metric]
        name = f"{figure.metric}_{dataset}" if elsewhere else figure.metric
        names[name] = f"{title}, {DATASET_NAMES.get(dataset, dataset)}" if elsewhere else title
    return names


def _row(line: Sequence[PublishedRow], audited: Sequence[AuditedCell]) -> dict[str, Any]:
    first = line[0]
    title = TITLES.get(first.model, first.model)
    variant = f"({first.variant})" if first.variant else ""
    words = (title, variant, MODIFIERS.get(first.modifier, first.modifier))
    row: dict[str, Any] = {
        "block": first.block,
        "row": first.row,
        "model": " ".join(word for word in words if word),
        "backbone": first.backbone,
        "dataset": first.dataset,
        **dict.fromkeys(COSTS.values()),
    }
    for figure in line:
        if figure.metric in QUALITIES:
            elsewhere = figure.dataset != first.dataset
            row[f"{figure.metric}_{figure.dataset}" if elsewhere else figure.metric] = figure.value
        elif figure.metric in COSTS:
            row[COSTS[figure.metric]] = _printed(figure, audited)
    if not any(figure.metric in COSTS for figure in line):
        spec = spec_of(first)
        row.update(_counted(spec, first.dataset) if spec else {})
    return row


def _printed(figure: PublishedRow, audited: Sequence[AuditedCell]) -> dict[str, Any]:
    place = (figure.row, figure.backbone, figure.dataset, COSTS[figure.metric])
    found = next(a for a in audited if (a.cell.row, a.cell.backbone, a.cell.dataset, a.cell.what) == place)
    modelled = found.measured is not None
    return {
        "printed": figure.value,
        "change": figure.percent,
        "measured": found.measured,
        "size": found.size if modelled else "",
        "verdict": found.verdict,
        "note": found.note,
    }


def _counted(spec: ModelSpec, dataset: str) -> dict[str, Any]:
    """Both costs of a model of which the row prints none."""
    if dataset == "cityscapes":
        at = CITYSCAPES_SIZE
        figures = count_model(spec, ImageSize(at, at), CONVENTION).figures
        total, encoder, mean = figures.total / GIGA, figures.of("encoder") / GIGA, format_size(at)
    else:
        at, sizes = TYPICAL, dataset_sizes(FIRST_IMAGES)
        model = cost_model(spec)
        total, encoder, mean = mean_total(model, sizes), model.encoder(at), "mean of first 100 images"
    note = f"counted with {spec.text}"
    alike = {"printed": None, "change": None, "verdict": NOT_PRINTED, "note": note}
    return {
        "total": {**alike, "measured": total, "size": mean},
        "encoder": {**alike, "measured": encoder, "size": format_size(at)},
    }
