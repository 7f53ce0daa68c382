"""Headers of several lines as one, units on a line of their own, tables that stand on their side."""

import re
from collections.abc import Callable, Sequence

from segmeter.harness.audit.comparisons.figures import EMPTY, clean, read_figure

Rows = list[tuple[int, list[str]]]
_ROWS = re.compile(r"(?:models?|methods?|networks?|name)", re.I)
# Lines of a header, at most; models of a table on its side, at most.
MOST_LINES, MOST_TURNED = 4, 200
_UNIT = re.compile(
    r"[(\[]?\s*(?:[#↑↓]|k|m|g|b|t|mi?b|gi?b|ms|s|sec|fps|hz|px|pixels?|%|j|w|[kmgt]?(?:flops?|macs?)|/s|im(?:g|age)?s?/s"
    r"|s/im(?:g|age)?|ms/im(?:g|age)?|x?10\^?[69])\s*[)\]]?",
    re.IGNORECASE,
)


def one_header(rows: Rows) -> Rows:
    """A header of several lines as one: what spans several columns stands before what is below it.

    >>> one_header([(1, ["model", "GMACs", "GMACs"]), (2, ["", "encoder", "all"]), (3, ["A", "1.5", "2"])])[0]
    (1, ['model', 'GMACs encoder', 'GMACs all'])
    """
    for _ in range(MOST_LINES - 1):
        if len(rows) < 3 or len(rows[0][1]) != len(rows[1][1]) or not _goes_on(rows[0][1], rows[1][1]):
            break
        rows = [(rows[0][0], _joined(rows[0][1], rows[1][1])), *rows[2:]]
    return rows


def _goes_on(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the second line belongs to the header: names below names that span, or units."""
    below = [clean(cell) for cell in second]
    spanning = len({clean(cell) for cell in first}) < len(first) or not all(clean(cell) for cell in first[1:])
    if spanning and _ROWS.fullmatch(below[0]) and not _ROWS.fullmatch(clean(first[0])):
        # What names the rows stands in the second line; batches or sizes may stand beside it.
        return True
    if any(read_figure(cell) for cell in below if cell):
        return False
    # A name that stands below itself was stretched over both lines.
    own = [
        cell
        for cell, name in zip(below, first, strict=True)
        if cell.lower() not in EMPTY and cell != clean(name)
    ]
    if len(own) > 1 and all(_UNIT.fullmatch(cell) for cell in own):
        return True
    # A line with one text is a group's title.
    return spanning and len(set(own)) > 1


def _joined(first: Sequence[str], second: Sequence[str]) -> list[str]:
    names: list[str] = []
    for above, below in zip(first, second, strict=True):
        # A spreadsheet leaves what is merged empty.
        merged = not clean(above) and clean(below) and names and not _UNIT.fullmatch(clean(below))
        names.append(names[-1] if merged else above)
    return [" ".join(dict.fromkeys((a, b))).strip() for a, b in zip(names, second, strict=True)]


def split(rows: Rows) -> Rows:
    """Columns of two figures a cell, "27.5/62.4" under "Params (M)/FLOPs (G)" or "mIoU (SS/MS)", as two."""
    found = (
        {at: names for at, cell in enumerate(rows[0][1]) if (names := _two_names(clean(cell)))}
        if rows
        else {}
    )
    for at in list(found):
        cells = [cells[at] for _, cells in rows[1:] if len(cells) == len(rows[0][1])]
        cells = [cell for cell in cells if clean(cell).lower() not in EMPTY]
        if not cells or not all(_two_figures(cell) for cell in cells):
            del found[at]
    if not found:
        return rows
    parted: Rows = []
    for line, cells in rows:
        own: list[str] = []
        for at, cell in enumerate(cells):
            two = (
                ()
                if at not in found
                else found[at]
                if cells is rows[0][1]
                else _two_figures(cell) or (cell, cell)
            )
            own += two or [cell]
        parted.append((line, own))
    return parted


def _two_names(header: str) -> tuple[str, str] | None:
    inside = re.fullmatch(r"(.*[(\[])([^()\[\]/]+)/([^()\[\]/]+)([)\]].*)", header)
    if inside and not _UNIT.fullmatch(f"{inside[2]}/{inside[3]}"):
        return f"{inside[1]}{inside[2]}{inside[4]}", f"{inside[1]}{inside[3]}{inside[4]}"
    first, mark, second = header.partition("/")
    return (first, second) if mark and "/" not in second else None


def _two_figures(cell: str) -> tuple[str, str] | None:
    first, mark, second = cell.partition("/")
    both = mark and "/" not in second and read_figure(clean(first)) and read_figure(clean(second))
    return (first, second) if both else None


def upright(rows: Rows, is_figure: Callable[[str], bool]) -> Rows:
    """A table whose first column names figures and whose header names models, turned; else as it is.

    Args:
        rows: the header first.
        is_figure: whether a header's text names a kind of figure.
    """
    width = len(rows[0][1]) if rows else 0
    if not 2 <= width <= MOST_TURNED or not 2 < len(rows) <= MOST_TURNED:
        return rows
    if any(is_figure(cell) for cell in rows[0][1][1:]):
        return rows
    whole = [cells for _, cells in rows if len(cells) == width]
    if sum(is_figure(cells[0]) for cells in whole[1:]) < max(2, len(whole) // 2):
        return rows
    turned = [list(cells) for cells in zip(*whole, strict=True)]
    turned[0][0] = turned[0][0] or "model"
    return [(rows[0][0], cells) for cells in turned]
