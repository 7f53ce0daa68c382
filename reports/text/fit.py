"""Tables at any width: no figure is ever cut.

A column without a figure in it goes; then texts wrap between words; and where even that is too wide, each row
becomes a block of its own, name by name.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from segmeter.plain import plain

EMPTY = ("", "-")
# Beside each column's text: a space on either side and a border; and the last border.
BESIDE, LAST = 3, 1
INDENT = "  "
# What follows of a long line stands this far in at most.
MOST_INDENT = 16
BETWEEN = "   "


def fitted(table: Table, width: int) -> RenderableType:
    """A table, or its rows as blocks, no line of it wider than ``width`` columns unless a word is."""
    if not table.columns:
        return table
    columns = [column for column in table.columns if _tells(column)] or table.columns
    alike = _alike(columns)
    # What is the same in every row is said once, below.
    told = Text(", ".join(f"{_flat(column.header)} {_flat(_first(column))}" for column in alike))
    fewer = [column for column in columns if column not in alike]
    if widths := _widths(columns, width - BESIDE * len(columns) - LAST):
        return _narrowed(table, columns, widths)
    if alike and (widths := _widths(fewer, width - BESIDE * len(fewer) - LAST)):
        return Group(_narrowed(table, fewer, widths), told)
    if widths := _widths(fewer, width - len(fewer)):
        bare = _narrowed(table, fewer, widths, bare=True)
        return Group(bare, told) if alike else bare
    return Group(*_blocks(table, fewer, width), told) if alike else Group(*_blocks(table, fewer, width))


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """A width for each column, ``room`` in all; empty where words or figures would have to be cut."""
    least = [_least(column) for column in columns]
    widths = [_natural(column) for column in columns]
    if sum(least) > room:
        return []
    while sum(widths) > room:
        # The widest gives way first: it is a sentence, or nearly one.
        widest = max(range(len(columns)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    return widths


def hanging(line: str, width: int) -> list[str]:
    """A line as lines of at most ``width``, what follows standing under its own beginning.

    >>> hanging("  5 calls: one and two", 14)
    ['  5 calls: one', '  and two']
    >>> hanging("weights     random, from one seed", 26)
    ['weights     random, from', '            one seed']
    """
    # A name with its value two spaces or more behind it, or spaces alone.
    found = re.match(r"\s*(?:\S+(?: \S+)?\s{2,})?", line)
    under = found.end() if found else 0
    if under > min(MOST_INDENT, width // 2):
        under = len(line) - len(line.lstrip())
    if _wide(line) <= width or under > width // 2:
        return [line]
    indent = " " * under
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def natural_width(table: Table) -> int:
    """Columns of the screen that the table takes where nothing wraps."""
    return sum(_natural(column) + BESIDE for column in table.columns) + LAST


def _tells(column: Column) -> bool:
    return any(_plain(cell) not in EMPTY for cell in column.cells)


def _alike(columns: Sequence[Column]) -> list[Column]:
    """Columns that say one thing in all rows, but the first, which names them."""
    found = [c for c in columns[1:] if len({_plain(cell) for cell in c.cells}) == 1]
    return found if len(list(columns[0].cells)) > 1 and len(found) < len(columns) - 1 else []


def _first(column: Column) -> object:
    return next(iter(column.cells))


def _flat(cell: object) -> str:
    return " ".join(_plain(cell).split())


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else plain(str(cell))


def _lines(cell: object) -> list[str]:
    return _plain(cell).split("\n")


def _is_figure(column: Column) -> bool:
    return column.justify == "right"


def _wide(text: str) -> int:
    return Text(text).cell_len


def _natural(column: Column) -> int:
    cells = [column.header, *column.cells]
    return max(1, *(_wide(line) for cell in cells for line in _lines(cell)))


def _least(column: Column) -> int:
    """A figure stays whole with its unit; a text may wrap between its words."""
    words = [word for line in _lines(column.header) for word in line.split()]
    for cell in column.cells:
        words += [part for line in _lines(cell) for part in ([line] if _is_figure(column) else line.split())]
    return max((_wide(word) for word in words), default=1)


def _narrowed(table: Table, columns: Sequence[Column], widths: Sequence[int], bare: bool = False) -> Table:
    """The table with these columns and widths; ``bare`` without lines between them."""
    new = Table(
        title=table.title,
        caption=table.caption,
        caption_justify=table.caption_justify,
        box=None if bare else table.box,
        collapse_padding=bare,
        pad_edge=not bare,
        padding=(0, 1),
        title_justify=table.title_justify,
        show_header=table.show_header,
        show_lines=table.show_lines,
    )
    for column, width in zip(columns, widths, strict=True):
        new.add_column(
            column.header, justify=column.justify, style=column.style, width=width, overflow="fold"
        )
    for row, cells in zip(table.rows, zip(*(column.cells for column in columns), strict=True), strict=True):
        new.add_row(*cells, style=row.style, end_section=row.end_section)
    return new


def _blocks(table: Table, columns: Sequence[Column], width: int) -> list[RenderableType]:
    """Each row under its name, the first text columns, with ``heading value`` pairs below."""
    keys = len(list(next((group for key, group in groupby(columns, _is_figure) if not key), ())))
    if _is_figure(columns[0]):
        keys = 0
    # One column names a row; of several, those that are short do.
    keys = max(1, min(keys, 3)) if keys else 0
    parts: list[RenderableType] = []
    if table.title:
        parts.append(Text(_plain(table.title), style="italic"))
    for cells in zip(*(column.cells for column in columns), strict=True):
        name = ", ".join(_flat(cell) for cell in cells[:keys] if _plain(cell) not in EMPTY)
        if name:
            parts.append(Text(name, style="bold"))
        pairs = [
            (_flat(column.header), _plain(cell))
            for column, cell in list(zip(columns, cells, strict=True))[keys:]
            if _plain(cell) not in EMPTY
        ]
        parts += _pairs(pairs, width)
    if table.caption:
        parts.append(Text(_plain(table.caption), style="italic"))
    return [*parts, Text("")]


def _pairs(pairs: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """``heading value`` pairs, as many on a line as fit; one that is a sentence has its own lines.

    A heading that comes again and again (a change, an interval) tells of the figure before it: then each
    figure has a line with what tells of it, and figures stand under each other.
    """
    pairs = [(heading, " ".join(value.split())) for heading, value in pairs]
    again = {heading for heading, number in Counter(heading for heading, _ in pairs).items() if number > 1}
    if lines := _under_each_other(pairs, again, width):
        return [Text(line) for line in lines]
    lines = []
    for heading, value in pairs:
        told = f"{heading} {value}"
        if lines and _wide(lines[-1]) + _wide(BETWEEN) + _wide(told) <= width:
            lines[-1] += BETWEEN + told
        else:
            lines.append(INDENT + told)
    return [Text(line, overflow="fold") for line in lines]


def _under_each_other(pairs: Sequence[tuple[str, str]], again: Collection[str], width: int) -> list[str]:
    """A line for each pair, with those behind it whose headings come again; none where one is too wide."""
    if not again or pairs[0][0] in again:
        return []
    heads = [pair for pair in pairs if pair[0] not in again]
    name, figure = (max(_wide(pair[i]) for pair in heads) for i in (0, 1))
    lines: list[str] = []
    for heading, value in pairs:
        if heading in again:
            lines[-1] += f"{BETWEEN}{heading} {value}"
        else:
            lines.append(f"{INDENT}{heading:<{name}} {value:>{figure}}")
    return lines if max(map(_wide, lines)) <= width else []
