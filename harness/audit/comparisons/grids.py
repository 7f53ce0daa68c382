"""Files into raw grids of cells: CSV, tidy data, Markdown, LaTeX and HTML, cells still with their markup."""

import csv
import re
from dataclasses import dataclass, field

from segmeter.harness.audit.comparisons.columns import names_figures
from segmeter.harness.audit.comparisons.headers import one_header, split, upright
from segmeter.harness.audit.comparisons.latex_tables import latex_tables
from segmeter.harness.audit.comparisons.tidy import is_tidy, tidy_tables
from segmeter.harness.audit.comparisons.web_tables import web_tables

# A page, which is read sign by sign.
MAX_PAGE = 1 << 24
_RULE_LINE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")


@dataclass
class Grid:
    """Raw cells of one table: rows with their lines; the first is the header. Notes stand around it."""

    rows: list[tuple[int, list[str]]]
    notes: list[str] = field(default_factory=list)
    semicolons: bool = False


def read_grids(text: str, suffix: str) -> list[Grid]:
    """The tables of a file's text.

    Args:
        text: the file's.
        suffix: of its name: .md, .tex, .html; all else is CSV, or HTML copied from a page.

    Raises:
        ValueError: damaged; one line.
    """
    reader = READERS.get(suffix, _csv)
    if reader is _csv and text.lstrip().startswith("<"):
        reader = _web
    grids = reader(text)
    for grid in grids:
        # A header that names models may have them twice: it is turned before its lines are joined.
        turned = upright(grid.rows, names_figures)
        grid.rows = split(turned if turned is not grid.rows else upright(one_header(turned), names_figures))
    return grids


def _csv(text: str) -> list[Grid]:
    notes: list[str] = []
    kept: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") and not kept:
            notes.append(line.lstrip("# "))
        elif line.strip():
            kept.append((number, line))
    if len(kept) < 2:
        return []
    mark = max(",;\t", key=lambda m: (kept[0][1].count(m), m == ","))
    # A cell of several lines would shift the numbers; joined again, the reader keeps count itself.
    first = kept[0][0]
    body = "\n" * (first - 1) + "\n".join(text.splitlines()[first - 1 :])
    reader = csv.reader(body.splitlines(keepends=True), delimiter=mark, skipinitialspace=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is no CSV: {error}") from None
    if rows and is_tidy(rows[0][1]):
        return [Grid(table, [title]) for title, table in tidy_tables(rows)]
    return [Grid(rows, notes, mark == ";")]


def _web(text: str) -> list[Grid]:
    if len(text) > MAX_PAGE:
        raise ValueError(f"HTML of {len(text)} letters, read are {MAX_PAGE} at most")
    return [Grid(table.rows, table.notes) for table in web_tables(text)]


def _markdown(text: str) -> list[Grid]:
    lines = text.splitlines()
    grids: list[Grid] = _web(text) if "<table" in text.lower() else []
    at = 0
    while at < len(lines):
        starts = at + 1 < len(lines) and "|" in lines[at] and "-" in lines[at + 1]
        if not starts or not _RULE_LINE.fullmatch(lines[at + 1][:2000]):
            at += 1
            continue
        end = at + 2
        while end < len(lines) and "|" in lines[end]:
            end += 1
        rows = [(n + 1, _piped(lines[n])) for n in (at, *range(at + 2, end))]
        above = [line for line in lines[max(0, at - 3) : at] if line.strip() and "|" not in line]
        grids.append(Grid(rows, above))
        grids[-1].notes += [line for line in lines[end : end + 4] if line.strip() and "|" not in line]
        at = end
    return sorted(grids, key=lambda grid: grid.rows[0][0])


def _piped(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)]


def _latex(text: str) -> list[Grid]:
    return [Grid(table.rows, table.notes) for table in latex_tables(text)]


READERS = {".md": _markdown, ".markdown": _markdown, ".tex": _latex, ".html": _web, ".htm": _web}
