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
HEADER = (
    *("model", "backbone", "PQ", "mIoU", "AP"),
    *("total printed", "change", "total measured"),
    *("encoder printed", "change", "encoder measured", "encoder at"),
)
LEFT = (0, 1, 11)
MISSING = "-"

Data = Mapping[str, Any]


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
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="left" if index in LEFT else "right")
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
        yield block["title"], [_cells(row) for row in block["rows"]]


def _cells(row: Mapping[str, Any]) -> list[str]:
    total, encoder = row["total"] or {}, row["encoder"] or {}
    return [
        row["model"],
        backbone_title(row["backbone"]),
        *(_number(row[key]) for key in ("pq", "miou", "ap")),
        *(_number(total.get("printed")), _change(total.get("change")), _measured(total)),
        *(_number(encoder.get("printed")), _change(encoder.get("change")), _measured(encoder)),
        encoder.get("size") or MISSING,
    ]


def _number(value: float | None) -> str:
    return MISSING if value is None else giga(value)


# Beside a measured figure, what the audit says of it; all others are not met.
MARKS = {"stated size": "=", "solved size": "~", "solved mean": "~"}


def _measured(figure: Mapping[str, Any]) -> str:
    if figure.get("measured") is None:
        return MISSING
    return f"{giga(figure['measured'])} {MARKS.get(figure.get('verdict', ''), '!')}"


def _change(percent: float | None) -> str:
    return MISSING if percent is None else f"{percent:+.2f} %"


def _markdown(data: Data) -> str:
    parts = [f"### {markdown(heading(data))}"]
    for block, rows in _blocks(data):
        parts += [f"**{markdown(block)}**", markdown_table(HEADER, rows)]
    return "\n\n".join([*parts, markdown(data["method"])]) + "\n"


def _csv(data: Data) -> str:
    """Plain numbers, one line a row, an empty cell for a missing figure."""
    names = ["table", "row", "block", "model", "backbone", "dataset", "pq", "miou", "ap"]
    parts = ("printed", "change", "measured", "size", "verdict")
    names += [f"{what}_{part}" for what in ("total", "encoder") for part in parts]
    rows: list[list[Any]] = [names]
    for block in data["blocks"]:
        for row in block["rows"]:
            known = {"table": data["table"], "block": block["title"], **row}
            for what in ("total", "encoder"):
                known.update({f"{what}_{part}": (row[what] or {}).get(part) for part in parts})
            rows.append([known[name] for name in names])
    return csv_text(rows)


def _latex(data: Data) -> str:
    r"""A ``table`` environment; the document needs ``\usepackage{booktabs}``."""
    columns = "".join("l" if index in LEFT else "r" for index in range(len(HEADER)))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{latex(heading(data))}. {latex(data['method'])}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        r" & & & & & \multicolumn{3}{c}{total} & \multicolumn{4}{c}{encoder} \\",
        r"\cmidrule(lr){6-8}\cmidrule(lr){9-12}",
        _latex_row([name.removeprefix("total ").removeprefix("encoder ") for name in HEADER]),
    ]
    for block, rows in _blocks(data):
        lines += [r"\midrule", rf"\multicolumn{{{len(HEADER)}}}{{l}}{{\textit{{{latex(block)}}}}} \\"]
        lines += [_latex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"


def _html(data: Data) -> str:
    """One ``<table>`` with caption and scoped headers."""

    def text(content: str) -> str:
        return html.escape(plain(content))

    lines = ["<table>", f"<caption>{text(heading(data))}</caption>", "<thead>", "<tr>"]
    lines += [f'<th scope="col">{text(name)}</th>' for name in HEADER]
    lines += ["</tr>", "</thead>"]
    for block, rows in _blocks(data):
        lines += [
            "<tbody>",
            f'<tr><th scope="rowgroup" colspan="{len(HEADER)}">{text(block)}</th></tr>',
        ]
        for model, *cells in rows:
            row = "".join(f"<td>{text(cell)}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{text(model)}</th>{row}</tr>')
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>", f"<p>{text(data['method'])}</p>"]) + "\n"
