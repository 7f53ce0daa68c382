"""The PRO-SCALE paper's tables 1, 2, 5, 6 and 7 as data, each figure measured beside the printed one."""

from collections.abc import Callable
from typing import Any

from segmeter.harness.audit.cells import audit_cells
from segmeter.harness.audit.tables import TABLES
from segmeter.harness.published import (
    MODIFIERS,
    PRO_SCALE,
    TITLES,
    PublishedRow,
    published_rows,
)

QUALITIES = ("pq", "miou", "ap")
COSTS = {"gflops_total": "total", "gflops_encoder": "encoder"}
METHOD = (
    "Measured: GMACs in convention 'published', batch 1; = reproduced at the stated size (on COCO, the mean "
    "over the first 100 images of val2017), ~ consistent with the size in the last column or a mean over "
    "real images, which was solved for, ! not met. Change: as printed, against M2F."
)


def table_data(table: int, step: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """One table: blocks of rows as printed, with measured GFLOPs where segmeter has the model.

    Args:
        table: a key of :data:`TABLES`.
        step: called with what is measured next.

    Returns:
        {"table", "title", "method", "blocks": [{"title", "rows"}]}; a row has "row", "model", "backbone", the
        qualities (None where not printed), and for "total" and "encoder" {"printed", "change", "measured",
        "size", "verdict", "note"}, None where nothing is printed.
    """
    audited = audit_cells([table], step=step)
    measured = {(a.cell.row, a.cell.dataset, a.cell.what): a for a in audited if a.measured is not None}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for cell in published_rows():
        if cell.paper != PRO_SCALE or cell.table != table:
            continue
        row = rows.setdefault((cell.row, cell.dataset), _empty(cell))
        if cell.metric in QUALITIES:
            row[cell.metric] = cell.value
        elif cell.metric in COSTS:
            what = COSTS[cell.metric]
            found = measured.get((cell.row, cell.dataset, what))
            row[what] = {
                "printed": cell.value,
                "change": cell.percent,
                "measured": found.measured if found else None,
                "size": found.size if found else "",
                "verdict": found.verdict if found else "not modelled",
                "note": found.note if found else "",
            }
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in rows.values():
        blocks.setdefault(row.pop("block"), []).append(row)
    return {
        "table": table,
        "title": TABLES[table],
        "source": f"PRO-SCALE, Table {table}",
        "method": METHOD,
        "blocks": [{"title": title, "rows": found} for title, found in blocks.items()],
    }


def _empty(cell: PublishedRow) -> dict[str, Any]:
    title = TITLES.get(cell.model, cell.model)
    variant = f"({cell.variant})" if cell.variant else ""
    return {
        "block": cell.block,
        "row": cell.row,
        "model": " ".join(
            part for part in (title, variant, MODIFIERS.get(cell.modifier, cell.modifier)) if part
        ),
        "backbone": cell.backbone,
        "dataset": cell.dataset,
        **dict.fromkeys(QUALITIES),
        **dict.fromkeys(COSTS.values()),
    }
