"""The published cells beside what is measured, as tables, markdown, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import csv_text, markdown
from segmeter.reports.text.audit import FPS_HEADER, fps_rows, latex_table
from segmeter.reports.text.markdown import markdown_table
from segmeter.reports.units import giga, percent, printed

FORMATS = ("text", "md", "csv", "latex")
HEADER = (
    *("row", "model", "backbone", "data set", "figure", "published", "measured", "difference"),
    *("measured at", "verdict"),
)
FIGURES = ("published", "measured", "difference")
SPEEDS = "Images a second against M2F"
CSV_COLUMNS = (
    *("table", "row", "model", "backbone", "dataset", "what", "printed", "published_gmacs"),
    *("measured_gmacs", "difference_percent", "size", "verdict", "note"),
)

Rows = Sequence[Mapping[str, Any]]


def reproduction_tables(rows: Rows, speeds: Rows = ()) -> list[Table]:
    """The paper's tables, measured beside published, and its FPS."""
    tables = []
    for number, cells in _by_table(rows).items():
        table = Table(title=_title(number), title_justify="left")
        for name in HEADER:
            table.add_column(name, justify="right" if name in FIGURES else "left")
        for cell in cells:
            table.add_row(*_row(cell))
        tables.append(table)
    if speeds:
        table = Table(title=SPEEDS, title_justify="left")
        for name in FPS_HEADER:
            table.add_column(name)
        for row in fps_rows(speeds):
            table.add_row(*row)
        tables.append(table)
    return tables


def reproduction_notes(rows: Rows, verdicts: Mapping[str, str], speeds: Rows = ()) -> list[str]:
    """Counts by verdict, what a verdict means, and the notes on cells that are not reproduced."""
    lines = [f"{len(rows)} GFLOPs cells" + (f", {len(speeds)} FPS cells" if speeds else "")]
    for verdict, meaning in verdicts.items():
        number = sum(row["verdict"] == verdict for row in rows)
        if number:
            lines.append(f"  {number:3d} {verdict}: {meaning}")
    lines += [
        f"Table {row['table']}, row {row['row']} ({row['model']}, {row['what']}): {row['note']}"
        for row in rows
        if row["note"]
    ]
    return lines


def reproduction_text(rows: Rows, speeds: Rows, verdicts: Mapping[str, str], kind: str) -> str:
    """The cells as a document.

    Args:
        rows: of :func:`harness.audit.reproduce.reproduction_row`.
        speeds: of :func:`harness.audit.reproduce.reproduced_speeds`.
        verdicts: what each verdict means.
        kind: "md", "csv" (the GFLOPs cells alone) or "latex".
    """
    if kind == "csv":
        # Tables of FPS alone have no cells, and their file a header only.
        return csv_text([CSV_COLUMNS, *([row[name] for name in CSV_COLUMNS] for row in rows)])
    if kind == "latex":
        parts = [
            latex_table(f"{_title(number)}, measured.", HEADER, [_row(cell) for cell in cells])
            for number, cells in _by_table(rows).items()
        ]
        if speeds:
            # The last column's sentences are too long for a line.
            short = [row[:-1] for row in fps_rows(speeds)]
            parts.append(latex_table(f"{SPEEDS}.", FPS_HEADER[:-1], short))
        return "% needs \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"
    sections = []
    for number, cells in _by_table(rows).items():
        sections += [f"### {_title(number)}", markdown_table(HEADER, [_row(cell) for cell in cells])]
    if speeds:
        sections += [f"### {SPEEDS}", markdown_table(FPS_HEADER, fps_rows(speeds))]
    notes = reproduction_notes(rows, verdicts, speeds)
    sections.append("\n".join(f"- {markdown(line.strip())}" for line in notes))
    return "\n\n".join(sections) + "\n"


def _title(number: int) -> str:
    return f"Table {number} of the PRO-SCALE paper, GMACs (printed as GFLOPs)"


def _by_table(rows: Rows) -> dict[int, list[Mapping[str, Any]]]:
    tables: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        tables.setdefault(row["table"], []).append(row)
    return tables


def _row(row: Mapping[str, Any]) -> list[str]:
    measured, off = row["measured_gmacs"], row["difference_percent"]
    return [
        str(row["row"]),
        row["model"],
        row["backbone"],
        row["dataset"],
        row["what"],
        printed(row["printed"]),
        "-" if measured is None else giga(measured),
        "-" if off is None else percent(off, signed=True),
        row["size"],
        row["verdict"],
    ]
