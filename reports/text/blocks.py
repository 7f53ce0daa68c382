"""Tokens of each block of a system, as a table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from segmeter.plain import plain
from segmeter.reports.units import giga

COLUMNS = {
    "tokens": "tokens",
    "image_cosine": "cosine, image",
    "window2_cosine": "2x2",
    "window2_alike": "2x2 alike",
    "window4_cosine": "4x4",
    "window4_alike": "4x4 alike",
    "window2_purity": "2x2 purity",
    "window4_purity": "4x4 purity",
    "purity": "purity, merged",
}


def blocks_tables(record: Mapping[str, Any]) -> list[Table]:
    """Likeness and purity block by block, and what reducers would leave of the cost."""
    names = [name for name in COLUMNS if any(name in block for block in record["blocks"])]
    table = Table(title=f"{plain(record['title'])} at {record['size']}", title_justify="left")
    table.add_column("block")
    for name in names:
        table.add_column(COLUMNS[name], justify="right")
    for block in record["blocks"]:
        cells = [_cell(name, block[name]) if name in block else "" for name in names]
        table.add_row(plain(block["layer"]), *cells)
    what_if = Table(title="what reducers leave, random weights", title_justify="left")
    what_if.add_column("model")
    what_if.add_column("GMACs", justify="right")
    for row in record["what_if"]:
        what_if.add_row(
            plain(row["model"]), giga(row["total_gmacs"]) if "total_gmacs" in row else row["error"]
        )
    return [table, what_if] if record["what_if"] else [table]


def blocks_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the figures."""
    return [
        f"images      {len(record['images'])}; weights {record['weights']}",
        f"alike       share of windows whose mean cosine is {record['threshold']:g} or more",
    ]


def _cell(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "tokens" else f"{value:.3f}"
