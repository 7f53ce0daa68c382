"""HTML tables, of a page or within Markdown, into raw cells: read by html.parser, nothing is run."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

# A span of more cells than that is no table of figures.
MOST_SPANNED = 200
# Cells in all, spans counted: a page that claims more is damaged, or made to be.
MOST_CELLS = 5_000_000
# Lines above and below a table that may be its notes.
NOTES = 3
MARKS = tuple("*†‡§¶")
_BREAKS = ("br", "p", "div", "li")
_SILENT = ("script", "style", "sup", "template")
_BOLD = ("b", "strong")
# What the parser looks for the end of: opening -> end. A page of openings alone would be read once for each.
_ENDS = {"<!--": "-->", "<script": "</script", "<style": "</style", "<!": ">", "<?": ">"}
_OPENING = re.compile(r"<!--|<script\b|<style\b|<!|<\?", re.IGNORECASE)
# Python makes no number of more than 4300 digits.
_LONG_REFERENCE = re.compile("&#x?[0-9a-f]{9,}+;?", re.IGNORECASE)


@dataclass
class WebTable:
    """One table: its rows of raw cells with their lines, and what stands right before and after it."""

    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Column -> cells below that a rowspan still fills, and with what.
    pending: dict[int, tuple[int, str]] = field(default_factory=dict)


class _Reader(HTMLParser):
    """Tables of a page; one within another's cell is read by itself, its text is not the cell's."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[WebTable] = []
        self.table: WebTable | None = None
        self.row: list[str] | None = None
        self.line = 0
        self.cell: list[str] | None = None
        self.spans = (1, 1)
        self.silent: list[str] = []
        self.outside = ""
        self.lines: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("table", "tr", "td", "th"):
            # What was not closed does not silence the rest of the page.
            self.silent = []
        if tag in _SILENT:
            self.silent.append(tag)
        elif tag == "table":
            self._end_row()
            self._end_line()
            self.table = WebTable(notes=self.lines[-NOTES:])
            self.tables.append(self.table)
        elif self.table is None:
            if tag in _BREAKS:
                self._end_line()
        elif tag == "tr":
            self._end_row()
            self._begin_row()
        elif tag in ("td", "th"):
            self._end_cell()
            if self.row is None:
                self._begin_row()
            given = dict(attrs)
            self.spans = (_span(given.get("colspan")), _span(given.get("rowspan")))
            self.cell = []
        elif self.cell is not None:
            if tag in _BOLD:
                self.cell.append("**")
            elif tag in _BREAKS:
                self.cell.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.silent:
            self.silent.remove(tag)
        elif tag == "table":
            self._end_row()
            self.table = None
            self.lines = []
        elif tag == "tr":
            self._end_row()
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag in _BOLD and self.cell is not None:
            self.cell.append("**")
        elif self.table is None and tag in _BREAKS:
            self._end_line()

    def handle_data(self, data: str) -> None:
        if self.silent and not (self.silent == ["sup"] and data.strip() in MARKS):
            return
        if self.cell is not None:
            self.cell.append(data)
        elif self.table is None:
            first, *others = data.split("\n")
            self.outside += first
            for line in others:
                self._end_line()
                self.outside = line

    def _end_line(self) -> None:
        """A line outside tables: of what is above the next one, and below the last one."""
        line, self.outside = self.outside.strip(), ""
        if not line:
            return
        if self.tables and len(self.lines) < NOTES:
            self.tables[-1].notes.append(line)
        self.lines.append(line)

    def _begin_row(self) -> None:
        self.row, self.line = [], self.getpos()[0]
        self._fill()

    def _fill(self) -> None:
        """Cells that rows above reach down to."""
        assert self.table is not None and self.row is not None
        while len(self.row) in self.table.pending:
            left, text = self.table.pending.pop(len(self.row))
            if left > 1:
                self.table.pending[len(self.row)] = (left - 1, text)
            self._add(text)

    def _add(self, text: str) -> None:
        assert self.row is not None
        self.cells += 1
        if self.cells > MOST_CELLS:
            raise ValueError(f"HTML with more than {MOST_CELLS} table cells")
        self.row.append(text)

    def _end_cell(self) -> None:
        if self.cell is None or self.row is None or self.table is None:
            self.cell = None
            return
        text = " ".join("".join(self.cell).split()).replace("****", "")
        across, down = self.spans
        self.cell = None
        for _ in range(across):
            at = len(self.row)
            self._add(text)
            if down > 1:
                self.table.pending[at] = (down - 1, text)
        self._fill()

    def _end_row(self) -> None:
        self._end_cell()
        if self.row is not None and self.table is not None and any(cell for cell in self.row):
            self.table.rows.append((self.line, self.row))
        self.row = None


def _span(text: str | None) -> int:
    text = (text or "").strip()
    return min(int(text), MOST_SPANNED) if text.isdecimal() and len(text) < 5 and int(text) else 1


def _bounded(text: str) -> str:
    """The page in as many lines, without comments, declarations, scripts, and tags that never end."""
    low, at = text.lower(), 0
    parts: list[str] = []
    missing: set[str] = set()
    for found in _OPENING.finditer(text):
        if found.start() < at:
            continue
        end = _ENDS[found[0].lower()]
        stop = -1 if end in missing else low.find(end, found.end())
        if stop < 0:
            missing.add(end)
            parts.append(f"{text[at : found.start()]}&lt;")
            at = found.start() + 1
            continue
        parts.append(text[at : found.start()] + "\n" * text.count("\n", found.start(), stop))
        # An element's end is a tag like any other.
        at = stop if end.startswith("<") else stop + len(end)
    kept = _LONG_REFERENCE.sub("\ufffd", "".join(parts) + text[at:])
    last = kept.rfind(">") + 1
    return kept[:last] + kept[last:].replace("<", "&lt;")


def web_tables(text: str) -> list[WebTable]:
    """The tables of a page with a header and a row.

    Args:
        text: HTML, or Markdown that holds HTML tables. Comments, scripts and styles are left out, bold is
            kept as ``**``.

    Raises:
        ValueError: more cells than any table has.
    """
    reader = _Reader()
    reader.feed(_bounded(text))
    reader.close()
    reader._end_row()
    reader._end_line()
    return [table for table in reader.tables if len(table.rows) > 1]
