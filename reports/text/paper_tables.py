"""The paper's tables with measured figures beside the printed ones: markdown, CSV, LaTeX, HTML, terminal."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from segmeter.plain import csv_text, latex, markdown, plain
from segmeter.reports.plots.common import backbone_title
from segmeter.reports.text.markdown import markdown_table
from segmeter.reports.units import giga

FORMATS = ("md", "csv", "latex", "html", "text")
# What is said of each cost; under "encoder" also where it was measured.
COLUMNS = {
    "total": ("total printed", "change", "total measured"),
    "encoder": ("encoder printed", "change", "encoder measured", "encoder at"),
}
WORDS = ("model", "backbone", "encoder at")
MISSING = "-"

Data = Mapping[str, Any]


def header(data: Data) -> tuple[str, ...]:
    """The names of a table's columns: the qualities and costs that it has."""
    named = (*data["metrics"].values(), *(name for what in data["costs"] for name in COLUMNS[what]))
    return ("model", "backbone", *named)


def render(data: Data, kind: str) -> str:
    """A table of :func:`harness.audit.paper_tables.table_data` as text in one of :data:`FORMATS` but "text".

    Raises:
        ValueError: another format.
    """
    makers = {"md": _markdown, "csv": _csv, "latex": _latex, "html": _html}
    if kind not in makers:
        raise ValueError(f"expected one of {', '.join(makers)}, got {kind!r}")
    return makers[kind](data)


def terminal_table(data: Data) -> Table:
    """The same as a rich table."""
    table = Table(title=heading(data), title_justify="left")
    for name in header(data):
        table.add_column(name, justify="left" if name in WORDS else "right")
    for block, rows in _blocks(data):
        table.add_section()
        table.add_row(Text(plain(block), style="bold"))
        for row in rows:
            table.add_row(*row)
    return table


def heading(data: Data) -> str:
    """Title with its source."""
    return f"{data['title']} ({data['source']}), GMACs (printed as GFLOPs)"


def _blocks(data: Data) -> Iterator[tuple[str, list[list[str]]]]:
    for block in data["blocks"]:
        yield block["title"], [_cells(data, row) for row in block["rows"]]


def _cells(data: Data, row: Mapping[str, Any]) -> list[str]:
    cells = [row["model"], backbone_title(row["backbone"])]
    cells += [_number(row[name]) for name in data["metrics"]]
    for what in data["costs"]:
        figure = row[what] or {}
        cells += [_number(figure.get("printed")), _change(figure.get("change")), _measured(figure)]
        if what == "encoder":
            cells.append(figure.get("size") or MISSING)
    return cells


def _number(value: float | None) -> str:
    return MISSING if value is None else giga(value)


# Beside a measured figure, what the audit says of it; all others are not met.
MARKS = {"stated size": " =", "solved size": " ~", "solved mean": " ~", "not printed": ""}


def _measured(figure: Mapping[str, Any]) -> str:
    if figure.get("measured") is None:
        return MISSING
    return giga(figure["measured"]) + MARKS.get(figure.get("verdict", ""), " !")


def _change(percent: float | None) -> str:
    return MISSING if percent is None else f"{percent:+.2f} %"


def _markdown(data: Data) -> str:
    parts = [f"### {markdown(heading(data))}"]
    for block, rows in _blocks(data):
        parts += [f"**{markdown(block)}**", markdown_table(header(data), rows)]
    return "\n\n".join([*parts, markdown(data["method"])]) + "\n"


def _csv(data: Data) -> str:
    """Plain numbers, one line a row, an empty cell for a missing figure."""
    names = ["table", "row", "block", "model", "backbone", "dataset", *data["metrics"]]
    parts = ("printed", "change", "measured", "size", "verdict")
    names += [f"{what}_{part}" for what in data["costs"] for part in parts]
    rows: list[list[Any]] = [names]
    for block in data["blocks"]:
        for row in block["rows"]:
            known = {"table": data["table"], "block": block["title"], **row}
            for what in data["costs"]:
                known.update({f"{what}_{part}": (row[what] or {}).get(part) for part in parts})
            rows.append([known[name] for name in names])
    return csv_text(rows)


def _latex(data: Data) -> str:
    r"""A ``table`` environment; the document needs ``\usepackage{booktabs}``."""
    names = header(data)
    columns = "".join("l" if name in WORDS else "r" for name in names)
    # Above the names of columns: whose costs they are.
    first = 3 + len(data["metrics"])
    above, rules = " & " * (first - 2), ""
    for what in data["costs"]:
        width = len(COLUMNS[what])
        above += rf" & \multicolumn{{{width}}}{{c}}{{{what}}}"
        rules += rf"\cmidrule(lr){{{first}-{first + width - 1}}}"
        first += width
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{latex(heading(data))}. {latex(data['method'])}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        above + r" \\",
        rules,
        _latex_row([name.removeprefix("total ").removeprefix("encoder ") for name in names]),
    ]
    for block, rows in _blocks(data):
        lines += [r"\midrule", rf"\multicolumn{{{len(header(data))}}}{{l}}{{\textit{{{latex(block)}}}}} \\"]
        lines += [_latex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"


def _html(data: Data) -> str:
    """One ``<table>`` with caption and scoped headers."""

    def text(content: str) -> str:
        return html.escape(plain(content))

    lines = ["<table>", f"<caption>{text(heading(data))}</caption>", "<thead>", "<tr>"]
    lines += [f'<th scope="col">{text(name)}</th>' for name in header(data)]
    lines += ["</tr>", "</thead>"]
    for block, rows in _blocks(data):
        lines += [
            "<tbody>",
            f'<tr><th scope="rowgroup" colspan="{len(header(data))}">{text(block)}</th></tr>',
        ]
        for model, *cells in rows:
            row = "".join(f"<td>{text(cell)}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{text(model)}</th>{row}</tr>')
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>", f"<p>{text(data['method'])}</p>"]) + "\n"
