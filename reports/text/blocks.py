"""Tokens of each block of a system, as tables for the terminal, Markdown and CSV, and the figures by name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from segmeter.plain import csv_text, markdown, plain
from segmeter.reports.plots.blocks import left_figure, likeness_figure
from segmeter.reports.units import giga

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "tokens": "tokens",
    "image_cosine": "cosine, image",
    "window2_cosine": "2x2",
    "window2_alike": "2x2 alike",
    "window4_cosine": "4x4",
    "window4_alike": "4x4 alike",
    "window2_purity": "2x2 purity",
    "window4_purity": "4x4 purity",
    "purity": "token purity",
}
CSV_COLUMNS = ("place", "measure", "mean", "std_images", "min", "max")
TITLES = {
    "tokens-blocks": "Likeness and purity of tokens, block by block",
    "tokens-what-if": "What reducers leave of the cost",
}


def figures(record: Mapping[str, Any]) -> dict[str, "Figure"]:
    """Every figure of a record ``segmeter.token_blocks/1``."""
    drawn = {"tokens-blocks": likeness_figure(record)}
    if any("total_gmacs" in row for row in record["what_if"]):
        drawn["tokens-what-if"] = left_figure(record)
    return drawn


def blocks_tables(record: Mapping[str, Any]) -> list[Table]:
    """Likeness and purity block by block, and what reducers would leave of the cost."""
    table = Table(title=f"{plain(record['title'])} at {record['size']}", title_justify="left")
    header, rows = _block_rows(record)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    what_if = Table(title="what reducers leave", title_justify="left")
    header, rows = _what_if_rows(record)
    for number, name in enumerate(header):
        what_if.add_column(name, justify="right" if number else "left")
    for row in rows:
        what_if.add_row(*row)
    return [table, what_if] if record["what_if"] else [table]


def blocks_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the figures."""
    notes = [
        f"images      {len(record['images'])}; weights {record['weights']}",
        "cosine      mean over all pairs of tokens that enter a block, across the image and inside windows",
        f"alike       share of windows whose mean cosine is {record['threshold']:g} or more",
    ]
    counted = [row for row in record["what_if"] if "total_gmacs" in row]
    if counted:
        most = max(row["images"] for row in counted)
        notes.append(
            f"reducers    published settings, the same weights, mean over the first {most} of the images "
            "[published GMACs]"
        )
    return notes + [
        f"random      {plain(row['title'])}: {', '.join(row['random_parts'])} has no weights here"
        for row in counted
        if row["random_parts"]
    ]


def blocks_markdown(record: Mapping[str, Any]) -> str:
    """The tables and notes under one heading, with the figures."""
    lines = [f"# Tokens of {markdown(record['title'])} at {record['size']}", ""]
    lines += [f"- {markdown(' '.join(note.split()))}" for note in blocks_notes(record)] + [""]
    tables = [_block_rows(record)] + ([_what_if_rows(record)] if record["what_if"] else [])
    for header, rows in tables:
        lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        lines += [f"| {' | '.join(map(markdown, row))} |" for row in rows] + [""]
    return "\n".join(lines)


def blocks_csv(record: Mapping[str, Any]) -> str:
    """Every figure, one a line: place, measure, mean and deviation over images; a reducer's range too."""
    lines: list[tuple[Any, ...]] = [CSV_COLUMNS]
    for block in record["blocks"]:
        spread = block["std_images"]
        lines += [
            (block["layer"], name, block[name], spread.get(name, ""), "", "")
            for name in COLUMNS
            if name in block
        ]
    for row in record["what_if"]:
        if "total_gmacs" in row:
            lines.append(
                (f"what-if {row['model']}", "total_gmacs", row["total_gmacs"], "", *row["range_gmacs"])
            )
    return csv_text(lines)


def _block_rows(record: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    names = [name for name in COLUMNS if any(name in block for block in record["blocks"])]
    rows = [
        [plain(block["layer"]), *(_cell(name, block[name]) if name in block else "" for name in names)]
        for block in record["blocks"]
    ]
    return ["block", *(COLUMNS[name] for name in names)], rows


def _what_if_rows(record: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    whole = next((row["total_gmacs"] for row in record["what_if"] if "total_gmacs" in row), None)
    rows = []
    for row in record["what_if"]:
        if "total_gmacs" not in row:
            rows.append([plain(row["model"]), plain(row["error"]), "", ""])
            continue
        low, high = (giga(value) for value in row["range_gmacs"])
        rows.append(
            [
                plain(row["model"]),
                giga(row["total_gmacs"]),
                low if low == high else f"{low} to {high}",
                f"{100 * row['total_gmacs'] / whole:.1f} %" if whole else "",
            ]
        )
    return ("model", "GMACs", "range", "share"), rows


def _cell(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "tokens" else f"{value:.3f}"
