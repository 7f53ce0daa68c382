r"""LaTeX tables into raw cells: every ``tabular`` with its caption and the notes of its float.

A cell that ``\multirow`` or ``\multicolumn`` stretches is every cell that it covers, and a table within a
cell (``\makecell``, ``\shortstack``, a nested ``tabular``) is the cell's text. Nothing is run.
"""

import re
from dataclasses import dataclass, field

# A span of more cells than that is no table of figures.
MOST_ACROSS, MOST_DOWN = 100, 1000
# Letters around a table without a float in which its caption is looked for, and in one that is damaged.
NEAR = 1500
# Letters of a macro that stands for a text.
MOST_OF_MACRO = 100
_KINDS = r"tabular[xy*]?|tabulary|longtable|supertabular|NiceTabular\*?|tblr"
_EDGE = re.compile(rf"\\(begin|end)\{{({_KINDS})\}}")
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot|endlastfoot|specialrule|addlinespace)"
    r"(?![A-Za-z])(?:\[[^\]]*\])?|\\c(?:mid)?(?:line|rule)(?:\[[^\]]*\])?(?:\([^()]*\))?\{[^{}]*\}"
    r"|\\(?:rowcolor|arrayrulecolor|noalign)(?:\[[^\]]*\])?\{(?:[^{}]|\{[^{}]*\})*\}"
)
_TOKEN = re.compile(r"\\\\\*?(?:\[[^\]]*\])?|\\tabularnewline(?![A-Za-z])|\\.|[{}&]", re.DOTALL)
# What stands between \begin{tabular} and the first cell: places, widths, column types.
_SHAPE = re.compile(r"(?:\s*\[[^\]]*\])?(?:\s*\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\})+")
_SPAN = re.compile(
    r"\\multicolumn\s*\{\s*(\d{1,3})\s*\}\s*\{(?:[^{}]|\{[^{}]*\})*\}\s*\{(.*)\}\s*", re.DOTALL
)
_DOWN = re.compile(
    r"(?P<before>.*?)\\multirow(?:\s*\[[^\]]*\])?\s*\{\s*(?P<down>-?\d{1,4})\s*\}(?:\s*\[[^\]]*\])?\s*"
    r"(?:\{[^{}]*\}|\*|=)\s*(?:\[[^\]]*\])?\s*\{(?P<text>.*)\}\s*",
    re.DOTALL,
)
_STACKED = re.compile(r"\\(?:makecell|shortstack|thead|Centerstack|specialcell)\*?(?:\[[^\]]*\])?(?=\{)")
_FLOAT = re.compile(r"\\(begin|end)\{(?:wrap|sideways|long)?table\*?\}")
_CAPTION = re.compile(
    r"\\caption(?:of\{[^{}]*\})?\*?(?:\[[^\]]*\])?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)


# A macro of the author's: a short text, or a way to print its one argument.
_MACRO = re.compile(
    r"\\(?:(?:re)?newcommand|providecommand|def)\*?\s*\{?\\(?P<name>[A-Za-z]+)\}?\s*(?P<takes>\[1\])?\s*"
    r"\{(?P<is>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\}){0,300})\}"
)


@dataclass
class LatexTable:
    """One table: rows of raw cells with their lines, its caption and what stands around it in its float."""

    rows: list[tuple[int, list[str]]]
    notes: list[str] = field(default_factory=list)


def latex_tables(text: str) -> list[LatexTable]:
    """The tables of a file, in order; a table within another's cell is the cell's text."""
    text = _with_macros(re.sub(r"(?<!\\)%.*", "", text))
    found = []
    floats = [(edge.start(), edge.end(), edge[1] == "begin") for edge in _FLOAT.finditer(text)]
    for start, inner, end, after in _outermost(text):
        shape = _SHAPE.match(text, inner, end)
        first = shape.end() if shape else inner
        line = text.count("\n", 0, first) + 1
        rows = _rows(text[first:end], line)
        found.append(LatexTable(rows, _notes(text, start, after, floats)))
    return found


def _with_macros(text: str) -> str:
    r"""The text with the author's own macros replaced: names of models, and bold under another name."""
    texts: dict[str, str] = {}
    bold: set[str] = set()
    for macro in _MACRO.finditer(text):
        if not macro["takes"] and "#" not in macro["is"] and len(macro["is"]) <= MOST_OF_MACRO:
            texts[macro["name"]] = macro["is"]
        elif macro["takes"] and re.search(r"\\(?:textbf|mathbf|bfseries|bm)(?![A-Za-z])", macro["is"]):
            bold.add(macro["name"])

    def replaced(found: re.Match[str]) -> str:
        if found[1] in bold:
            return r"\textbf"
        return f"{{{texts[found[1]]}}}" if found[1] in texts else found[0]

    if not texts and not bold:
        return text
    body = _MACRO.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return re.sub(r"\\([A-Za-z]+)(?:\{\})?", replaced, body)


def _outermost(text: str) -> list[tuple[int, int, int, int]]:
    """Where each table that lies in no other begins, its body begins and ends, and it ends."""
    found = []
    opened: list[tuple[int, int]] = []
    for edge in _EDGE.finditer(text):
        if edge[1] == "begin":
            opened.append((edge.start(), edge.end()))
        elif opened:
            start, inner = opened.pop()
            if not opened:
                found.append((start, inner, edge.start(), edge.end()))
    return found


def _notes(text: str, start: int, after: int, floats: list[tuple[int, int, bool]]) -> list[str]:
    """The caption, and the text behind the table up to its float's end."""
    before = next((edge for edge in reversed(floats) if edge[1] <= start), None)
    behind = next((edge for edge in floats if edge[0] >= after), None)
    if before and behind and before[2] and not behind[2]:
        near = text[before[1] : start] + text[after : behind[0]]
        notes = _CAPTION.sub(" ", text[after : behind[0]])
        lines = [line.strip() for line in re.split(r"\n|\\\\|\\item(?![A-Za-z])", notes) if line.strip()]
    else:
        near = text[max(0, start - NEAR) : start] + "\n" + text[after : after + NEAR]
        lines = []
    captions = _CAPTION.findall(near)
    return captions[:1] + lines[:20]


def _rows(body: str, line: int) -> list[tuple[int, list[str]]]:
    rows: list[tuple[int, list[str]]] = []
    # Column -> the rows that a cell still reaches down to, and with what.
    pending: dict[int, tuple[int, str]] = {}
    for part in _split(body, rows=True):
        shown = _RULES.sub(" ", part)
        at = line + part[: len(part) - len(part.lstrip())].count("\n")
        for rule in _RULES.finditer(part):
            # Rules before the first cell stand on lines of their own.
            if part[: rule.start()].strip() and _RULES.sub(" ", part[: rule.start()]).strip():
                break
            at = line + part[: rule.end()].count("\n")
            rest = part[rule.end() :]
            at += rest[: len(rest) - len(rest.lstrip())].count("\n")
        line += part.count("\n")
        cells = [_flat(cell) for cell in _split(shown, rows=False)]
        if any(cell.strip() for cell in cells):
            rows.append((at, _spread(cells, pending, rows)))
    return rows


def _spread(
    cells: list[str], pending: dict[int, tuple[int, str]], above: list[tuple[int, list[str]]]
) -> list[str]:
    """A row's cells with those that others reach over."""
    row: list[str] = []
    for cell in cells:
        cell = cell.strip()
        across, down = 1, 1
        span = _SPAN.fullmatch(cell)
        if span:
            across, cell = min(int(span[1]), MOST_ACROSS), span[2].strip()
        stretched = _DOWN.fullmatch(cell)
        if stretched:
            down, cell = int(stretched["down"]), f"{stretched['before']} {stretched['text']}".strip()
        for _ in range(across):
            column = len(row)
            left, text = pending.pop(column, (0, ""))
            if left > 1:
                pending[column] = (left - 1, text)
            if left and not cell:
                row.append(text)
                continue
            row.append(cell)
            if 1 < down <= MOST_DOWN:
                pending[column] = (down - 1, cell)
            for _, other in above[len(above) + down + 1 :] if -MOST_DOWN <= down < -1 else ():
                if column < len(other) and not other[column].strip():
                    other[column] = cell
    return row


def _split(text: str, rows: bool) -> list[str]:
    """A table's rows, or a row's cells: at the marks that stand in no braces and in no table within."""
    parts, begun, depth, inside = [], 0, 0, 0
    nested = [(edge.start(), 1 if edge[1] == "begin" else -1) for edge in _EDGE.finditer(text)]
    for token in _TOKEN.finditer(text):
        mark = token[0]
        while nested and nested[0][0] <= token.start():
            inside += nested.pop(0)[1]
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth = max(0, depth - 1)
        elif not depth and not inside and (mark.startswith(("\\\\", "\\tab")) if rows else mark == "&"):
            parts.append(text[begun : token.start()])
            begun = token.end()
    return [*parts, text[begun:]]


def _flat(cell: str) -> str:
    """A cell in one line: what is stacked in it, side by side."""
    if "\\" not in cell:
        return cell
    stacked = bool(_STACKED.search(cell))
    cell = _STACKED.sub("", cell)
    for edge in reversed(list(_EDGE.finditer(cell))):
        shape = _SHAPE.match(cell, edge.end()) if edge[1] == "begin" else None
        cell = cell[: edge.start()] + cell[shape.end() if shape else edge.end() :]
        stacked = True
    return re.sub(r"\\\\\*?(?:\[[^\]]*\])?", " ", cell) if stacked else cell
