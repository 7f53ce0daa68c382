"""A paper's macros and tables as LaTeX; every text is escaped, and a comment is one line."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import latex, plain

TITLES = {
    "backbone": "Backbone",
    "encoder": "Encoder",
    "decoder": "Decoder",
    "postprocess": "Post-processing",
    "total": "Total",
    "parameters": "Parameters",
    "latency_ms": "Latency",
    "images_per_s": "Speed",
}
UNITS = {"parameters": "M", "latency_ms": "ms", "images_per_s": "images/s"}
COUNTED = ("backbone", "encoder", "decoder", "postprocess", "total")


def macros_text(record: Mapping[str, Any], name: str) -> str:
    r"""The file of macros: one ``\newcommand`` a number, its unit and source in a comment beside it."""
    made_with = ", ".join(f"{each} {record['versions'].get(each)}" for each in ("segmeter", "torch"))
    lines = [f"% Written by segmeter from {plain(name)}: change that, not this.", f"% {plain(made_with)}"]
    for one in record["numbers"]:
        comment = f"{plain(one['unit'])}: {plain(one['source'])}"
        # A minus is one in text and in formulas.
        text = f"\\ensuremath{{{one['text']}}}" if one["value"] < 0 else latex(one["text"])
        lines.append(f"\\newcommand{{\\{one['macro']}}}{{{text}}}% {comment}")
    return "\n".join(lines) + "\n"


def figure_text(key: str, figure: Mapping[str, Any]) -> str:
    r"""A ``figure`` environment around the picture, as wide as the text.

    The picture itself says how its figures were counted and timed; without a caption of the author's, so does
    the caption.
    """
    told = (figure["caption"] or figure["shows"]).rstrip(". ")
    lines = [
        r"% Written by segmeter; needs \usepackage{graphicx}",
        r"\begin{figure}",
        r"\centering",
        rf"\includegraphics[width=\linewidth]{{figure-{key}}}",
        rf"\caption{{{_prose(told)}.}}",
        *([rf"\label{{{_label(figure['label'])}}}"] if figure["label"] else []),
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _prose(text: str) -> str:
    """Text of ours in a caption: sizes as formulas, a convention in curly quotes."""
    text = re.sub(r"(?<![\w.])(\d{2,5})x(\d{2,5})(?![\w.]*\d)", r"$\1\\times\2$", latex(text))
    return re.sub(r"(?<![\w'])'([\w-]+)'", r"`\1'", text)


def table_text(table: Mapping[str, Any]) -> str:
    r"""A ``table`` environment in the manner of booktabs, what was counted how in its caption."""
    columns = table["columns"]
    header = [(TITLES[column], f"({_unit(column, table['unit'])})") for column in columns]
    lines = [
        r"% Written by segmeter; needs \usepackage{booktabs}",
        *(f"% {plain(model)}: record {plain(run)}" for model, run in table["sources"].items()),
        r"\begin{table}",
        r"\centering",
        # Above a table most classes leave no room between the two.
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{_prose(caption(table))}}}",
        *([rf"\label{{{_label(table['label'])}}}"] if table["label"] else []),
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        _row(["Model", *(name for name, _ in header)]),
        _row(["", *(unit for _, unit in header)]),
        r"\midrule",
        *(_row([row["title"], *_cells(row, table)]) for row in table["rows"]),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def caption(table: Mapping[str, Any]) -> str:
    """The caption given, and how its figures were counted and timed."""
    parts = [table["caption"].rstrip(". ")] if table["caption"] else []
    if any(column in COUNTED for column in table["columns"]):
        how = f"{table['unit']} in the convention '{table['convention']}'"
        parts.append(f"{how}, counted on one image of {table['size']}")
    if table["timed_on"]:
        parts.append(f"Times on {table['timed_on']}, {table['timed_at']}")
    return ". ".join(parts) + "."


def _unit(column: str, counted: str) -> str:
    """A column's unit, which stands below its name, so that the table is narrow."""
    return counted if column in COUNTED else UNITS[column]


def _cells(row: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    cells = [row["cells"][column] for column in table["columns"]]
    digits = [_digits(column) if table["digits"] is None else table["digits"] for column in table["columns"]]
    return ["-" if cell is None else f"{cell:.{places}f}" for cell, places in zip(cells, digits, strict=True)]


def _digits(column: str) -> int:
    return 1 if column == "latency_ms" else 2


def _row(cells: Sequence[str]) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"


def _label(text: str) -> str:
    """A label is a name: what could end or open something in it is left out."""
    return "".join(letter for letter in plain(text) if letter.isalnum() or letter in ":-_. ")


def numbers_table(record: Mapping[str, Any]) -> Table:
    """The numbers on a terminal."""
    table = Table(title="Numbers", title_justify="left")
    table.add_column("macro")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("source")
    for one in record["numbers"]:
        table.add_row(f"\\{one['macro']}", one["text"], plain(one["unit"]), plain(one["source"]))
    return table


def check_lines(check: Mapping[str, Any]) -> list[str]:
    """The findings, as compilers tell theirs, and what was looked at."""
    lines = [
        f"{plain(one['file'])}:{one['line']}: {one['rule']}: {plain(one['text'])}"
        for one in check["findings"]
    ]
    number = len(check["findings"])
    told = f"{number} finding{'s' * (number != 1)}" if number else "nothing to mend"
    files = len(check["files"])
    return [
        *lines,
        f"{told}: {check['literals']} figures in {files} file{'s' * (files > 1)} held to {check['numbers']} "
        "numbers",
    ]
