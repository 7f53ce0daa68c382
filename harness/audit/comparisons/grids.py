"""Files into raw grids of cells: CSV, tidy data, Markdown, LaTeX and HTML, cells still with their markup."""

import csv
import re
from dataclasses import dataclass, field

from segmeter.harness.audit.comparisons.figures import clean, read_figure
from segmeter.harness.audit.comparisons.tidy import is_tidy, tidy_tables
from segmeter.harness.audit.comparisons.web_tables import web_tables

# A page, which is read sign by sign.
MAX_PAGE = 1 << 24
_TABULAR = re.compile(
    r"\\begin\{(?P<kind>tabular[xy*]?|longtable)\}(?P<body>.*?)\\end\{(?P=kind)\}", re.DOTALL
)
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|endhead|endfirsthead)\b|\\c(?:mid)?(?:line|rule)(?:\([^()]*\))?\{[^{}]*\}"
)
_SPAN = re.compile(r"\\multicolumn\{(\d{1,3})\}\{[^{}]*\}\{(.*)\}\s*", re.DOTALL)
_DOWN = re.compile(r"\\multirow(?:\[[^\]]*\])?\{-?\d{1,4}\}\{[^{}]*\}\{(.*)\}\s*", re.DOTALL)
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
    return reader(text)


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
    return [Grid(_one_header(table.rows), table.notes) for table in web_tables(text)]


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
    text = re.sub(r"(?<!\\)%.*", "", text)
    grids = []
    for found in _TABULAR.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        body = found["body"]
        body = re.sub(
            r"^(?:\s*\[[^\]]*\])?(?:\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})+", "", body, count=1
        )
        line += found["body"].count("\n") - body.count("\n")
        rows: list[tuple[int, list[str]]] = []
        for part in re.split(r"\\\\(?:\[[^\]]*\])?|\\tabularnewline", body):
            shown_part = _RULES.sub(" ", part)
            start = line + shown_part[: len(shown_part) - len(shown_part.lstrip())].count("\n")
            line += part.count("\n")
            cells = _ampersands(shown_part)
            if any(cell.strip() for cell in cells):
                rows.append((start, cells))
        near = text[max(0, found.start() - 1500) : found.end() + 1500]
        captions = re.findall(r"\\caption\{((?:[^{}]|\{[^{}]*\})*)\}", near)
        grids.append(Grid(_one_header(rows), captions[:1]))
    return grids


def _ampersands(text: str) -> list[str]:
    cells: list[str] = []
    for cell in re.split(r"(?<!\\)&", text):
        cell = cell.strip()
        span, down = _SPAN.fullmatch(cell), _DOWN.fullmatch(cell)
        if span:
            cells += [span[2]] * min(int(span[1]), 100)
        else:
            cells.append(down[1] if down else cell)
    return cells


def _one_header(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """A header of two lines as one: what spans several columns stands before what is below it."""
    if len(rows) < 3 or len(rows[0][1]) != len(rows[1][1]):
        return rows
    if any(read_figure(clean(cell)) for cell in rows[1][1]) or len(set(rows[0][1])) == len(rows[0][1]):
        return rows
    joined = [" ".join(dict.fromkeys((a, b))).strip() for a, b in zip(rows[0][1], rows[1][1], strict=True)]
    return [(rows[0][0], joined), *rows[2:]]


READERS = {".md": _markdown, ".markdown": _markdown, ".tex": _latex, ".html": _web, ".htm": _web}
