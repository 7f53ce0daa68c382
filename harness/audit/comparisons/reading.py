"""CSV, Markdown, LaTeX and HTML files into tables: markup taken away, context from headers and notes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segmeter.files import parse_toml, read_bytes, read_toml
from segmeter.harness.audit.comparisons.columns import KINDS, read_columns, read_context, said
from segmeter.harness.audit.comparisons.figures import (
    EMPTY,
    PREFIX,
    at_least,
    clean,
    is_bold,
    read_figure,
    scaled,
)
from segmeter.harness.audit.comparisons.grids import Grid, read_grids
from segmeter.harness.audit.comparisons.table import CONTEXTS, FIGURES, Column, Figure, Row, Table
from segmeter.harness.audit.comparisons.web_tables import MARKS
from segmeter.plain import shown
from segmeter.words import nearest

MAX_BYTES = 1 << 27
HEADER_KEYS = (*CONTEXTS, "unit", "baseline", "title", "citation", "columns", "models")
# The line that begins and ends a TOML header within a table's file.
FENCE = "+++"
_MARKED = re.compile(
    r"\d\}?\s*[%kKMGTB]?\s*(?:\$?\^?\{?\s*|\\(?:textsuperscript|tnote)\{\$?\^?\{?)\\?([*†‡§¶])\}?\$?"
)
_KEEP = "\u2063"
# TeX's names of footnote signs.
MARK_COMMANDS = {"ddagger": "‡", "dagger": "†", "ddag": "‡", "dag": "†", "ast": "*", "star": "*"}


def read_tables(path: Path, header: Mapping[str, Any] | None = None) -> list[Table]:
    """The tables of one file: Markdown by .md, LaTeX by .tex, HTML by .html, all else CSV.

    Args:
        path: the file; it may begin with a TOML header between two lines of ``+++``.
        header: context for all its tables, which the file's own header goes before.

    Raises:
        ValueError: no table in it, no text, an unknown key of the header; one line.
    """
    content = read_bytes(path, MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} cannot be read") from None
    own, text = _own_header(path, text)
    both = {**(header or {}), **own}
    suffix = path.suffix.lower()
    try:
        grids = read_grids(text, suffix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    read = [_table(path.name, n, grid, both) for n, grid in enumerate(grids, 1)]
    tables = [table for table in read if table is not None]
    if not tables:
        raise ValueError(f"{path} holds no table with a header and a row")
    known = [table for table in tables if any(True for _ in table.of(*FIGURES, "change"))]
    if not known:
        headers = ", ".join(repr(column.header) for column in tables[0].columns[:8])
        raise ValueError(
            f"{path} has no column of figures that is known, its columns are {headers}; "
            "name them under [columns] of a TOML header"
        )
    return known


def read_header(path: Path) -> dict[str, Any]:
    """A TOML header in a file of its own.

    Raises:
        ValueError: damaged, or an unknown key.
    """
    return _checked(read_toml(path), str(path))


def _own_header(path: Path, text: str) -> tuple[dict[str, Any], str]:
    if not text.startswith(FENCE):
        return {}, text
    lines = text.splitlines()
    if FENCE not in lines[1:]:
        raise ValueError(f"{path} begins a TOML header with {FENCE} and does not end it")
    end = lines.index(FENCE, 1)
    own = parse_toml("\n".join(lines[1:end]), f"the header of {path}")
    # Lines keep their numbers.
    return _checked(own, str(path)), "\n" * (end + 1) + "\n".join(lines[end + 1 :])


def _checked(header: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in header.items():
        if key not in HEADER_KEYS:
            raise ValueError(f"{where}: unknown key {shown(key)}{nearest(key, HEADER_KEYS)}")
        if key in ("columns", "models"):
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise ValueError(f"{where}: {key} must map text to text")
            found[key] = dict(value)
        elif key in CONTEXTS:
            found[key] = read_context(key, str(value))
        elif not isinstance(value, str):
            raise ValueError(f"{where}: {key} must be text, got {shown(value)}")
        else:
            found[key] = value
    for name, kind in found.get("columns", {}).items():
        if kind not in KINDS:
            raise ValueError(f"{where}: column {shown(name)} cannot be {shown(kind)}{nearest(kind, KINDS)}")
    if found.get("unit", "MACs") not in ("MACs", "FLOPs"):
        raise ValueError(f"{where}: unit must be MACs or FLOPs, got {shown(found['unit'])}")
    return found


def _table(source: str, number: int, grid: Grid, header: Mapping[str, Any]) -> Table | None:
    if len(grid.rows) < 2:
        return None
    notes, marks = _noted(grid.notes)
    names, of_columns = _footnoted(grid.rows[0][1])
    columns = read_columns(names, header.get("columns", {}))
    columns = tuple(
        replace(column, context={**marks.get(of_columns.get(column.index, ""), {}), **column.context})
        for column in _with_names(columns, grid)
    )
    table = Table(source, number, columns, [], header, notes, marks=marks)
    commas = _decimal_commas(columns, grid, table)
    widened = _appended_zeros(columns, grid)
    settled = tuple(_settled(column, grid.rows[1:]) for column in columns)
    table.columns = settled
    above = ""
    for at, (line, cells) in enumerate(grid.rows[1:], 1):
        if len(cells) != len(columns):
            if len([cell for cell in cells if cell.strip()]) > 1:
                table.ragged.append((at, line, len(cells)))
            continue
        if _is_title(cells):
            above = ""
            continue
        row = _row(table, at, line, cells, commas, widened, above)
        above = row.model if row.figures else ""
        table.rows.append(row)
    return table


def _is_title(cells: Sequence[str]) -> bool:
    """Whether a row is a group's title, over all columns."""
    same = len(cells) > 1 and cells[0].strip() and cells.count(cells[0]) == len(cells)
    return bool(same) and read_figure(clean(cells[0])) is None


def _with_names(columns: tuple[Column, ...], grid: Grid) -> tuple[Column, ...]:
    """Columns of which one names the rows: a first column of words, where none is called a model."""
    if not columns or any(column.kind == "model" for column in columns):
        return columns
    first = columns[0]
    cells = [cells[0] for _, cells in grid.rows[1:30] if len(cells) == len(columns)]
    words = sum(bool(cell.strip()) and read_figure(clean(cell)) is None for cell in cells)
    if first.kind not in ("source", "other") or words <= len(cells) / 2:
        return columns
    return (Column(0, first.header, "model"), *columns[1:])


def _footnoted(cells: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    """A header's texts without their footnote marks, and column -> its mark.

    >>> _footnoted(["Model", "FPS*", r"GFLOPs$^\\dagger$ (G)"])
    (['Model', 'FPS', 'GFLOPs (G)'], {1: '*', 2: '†'})
    """
    names, marks = [], {}
    for index, cell in enumerate(cells):
        bare = re.sub(r"^\s*([*_]{1,3})(.*)\1\s*$", r"\2", cell)
        # A letter behind it keeps a last star, which else goes with Markdown's own.
        text = clean(bare + _KEEP).replace(_KEEP, "")
        found = re.search(rf"(?<=[\w)\]])\s*\^?\\?([{''.join(MARKS)}])", text)
        if found:
            marks[index] = found[1]
            text = f"{text[: found.start()]} {text[found.end() :]}"
        names.append(clean(text))
    return names, marks


def _noted(notes: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What notes say of all figures, and of those that bear a mark; nothing where two of them disagree.

    >>> _noted(["FPS on an H100. \\* on a B200"])
    ({'device': 'H100'}, {'*': {'device': 'B200'}})
    """
    everywhere: list[str] = []
    marked: dict[str, list[str]] = {}
    for note in map(_signs, notes):
        first, *others = re.split(rf"\\?([{''.join(MARKS)}])", note.replace("**", ""))
        everywhere.append(first)
        for mark, text in zip(others[::2], others[1::2], strict=True):
            marked.setdefault(mark, []).append(text)
    agreed = {mark: _agreed(texts) for mark, texts in marked.items() if any(text.strip() for text in texts)}
    general = _agreed(everywhere)
    general.pop("form", None)
    return general, agreed


def _signs(text: str) -> str:
    """TeX's footnote signs as they are printed."""
    for command, sign in MARK_COMMANDS.items():
        text = re.sub(rf"\\{command}(?![A-Za-z])", sign, text)
    return text


def _agreed(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    clashing = set()
    for text in texts:
        for key, value in said(clean(text)).items():
            clashing |= {key} if found.setdefault(key, value) != value else set()
    return {key: value for key, value in found.items() if key not in clashing}


def _decimal_commas(columns: tuple[Column, ...], grid: Grid, table: Table) -> dict[int, bool]:
    """Column -> whether it has decimal commas; says which have both marks."""
    commas = {}
    for column in columns:
        if column.kind not in FIGURES and column.kind != "change":
            continue
        marks = set()
        for _, cells in grid.rows[1:]:
            if column.index < len(cells) and "," in cells[column.index]:
                printed = read_figure(clean(cells[column.index]))
                marks |= {printed.mark} if printed else set()
        if "," in marks:
            points = any(
                column.index < len(cells) and "." in cells[column.index] and "," not in cells[column.index]
                for _, cells in grid.rows[1:]
            )
            if points or "." in marks:
                table.mixed_marks.append(column.header)
        commas[column.index] = "," in marks or (grid.semicolons and "." not in marks)
    return commas


def _settled(column: Column, rows: list[tuple[int, list[str]]]) -> Column:
    """A column whose header gives no prefix: raw counts if its figures are that large, else the usual one."""
    if column.scale is not None:
        return column
    raw = False
    for _, cells in rows[:50]:
        text = clean(cells[column.index]) if column.index < len(cells) else ""
        printed = read_figure(text)
        raw = raw or bool(printed and not printed.unit and printed.figure.value >= 1e5)
    usual = {"cost": 1e-9, "params": 1e-6, "memory": 1e-6}.get(column.kind, 1.0) if raw else 1.0
    return Column(
        *(
            column.index,
            column.header,
            column.kind,
            column.part,
            column.unit,
            usual,
            column.name,
            column.ratio,
        ),
        context=column.context,
    )


_BASE = {"cost": 1e9, "params": 1e6, "memory": 1e6}


def _appended_zeros(columns: tuple[Column, ...], grid: Grid) -> dict[int, float]:
    """Column -> half of the last digit that is not a zero in every row: 188.00, 158.30 have one decimal."""
    halves = {}
    for column in columns:
        if column.kind not in FIGURES:
            continue
        decimals = []
        for _, cells in grid.rows[1:]:
            text = cells[column.index] if column.index < len(cells) else ""
            found = re.match(r"\D*\d+\.(\d+)(?!\d)", text)
            if found:
                decimals.append(found[1])
        zeros = min((len(text) - len(text.rstrip("0")) for text in decimals), default=0)
        if zeros and len(decimals) > 1:
            halves[column.index] = 0.5 * 10.0 ** -(max(map(len, decimals)) - zeros)
    return halves


def _row(
    table: Table,
    number: int,
    line: int,
    cells: list[str],
    commas: Mapping[int, bool],
    widened: Mapping[int, float],
    above: str,
) -> Row:
    texts = [clean(cell) for cell in cells]
    figures: dict[int, Figure] = {}
    context: dict[str, Any] = {}
    of_marks: dict[int, str] = {}
    label = []
    model = ""
    for column, text, raw in zip(table.columns, texts, cells, strict=True):
        kind = column.kind
        if kind in FIGURES or kind == "change":
            if text.lower() in EMPTY:
                continue
            bare = re.sub(r"^[(\[]([^()\[\]]*)[)\]]$", r"\1", text) if kind == "change" else text
            printed = read_figure(bare, commas.get(column.index))
            if printed is None:
                table.unread.append((number, line, column.header, text))
                continue
            scale = column.scale or 1.0
            if printed.unit[:1].lower() in PREFIX and kind in _BASE:
                binary = 1024 / 1000 if printed.unit[1:2] == "i" else 1.0
                scale = PREFIX[printed.unit[0].lower()] / _BASE[kind] * binary
            elif printed.unit == "s" and kind == "latency":
                scale = 1e3
            marked = raw != text and is_bold(raw)
            half = widened.get(column.index, 0.0)
            figures[column.index] = scaled(at_least(printed.figure, half), scale, marked)
            if not raw[-1:].isdigit():
                mark = _MARKED.search(_signs(raw).replace("**", ""))
                if mark:
                    of_marks[column.index] = mark[1]
            continue
        if kind == "model":
            # A macro that the file does not define is a name all the same.
            macro = re.search(r"\\([A-Za-z]{2,})", raw) if not text else None
            text = macro[1] if macro else text
            model = f"{model} {text}".strip()
            size = read_context("size", text) if "@" in text else None
            if isinstance(size, tuple):
                # "Net@384"
                context.setdefault("size", size)
        elif kind in CONTEXTS:
            value = read_context(kind, text)
            if value is not None:
                context.setdefault(kind, value)
        if kind != "source":
            label.append(text.lower())
    # A name that is printed once for a group of rows stands for all of them.
    if not model and above and figures and any(column.kind == "model" for column in table.columns):
        model = above
        label.append(model.lower())
    model = model or f"row {number}"
    backbones = [text for column, text in zip(table.columns, texts, strict=True) if column.kind == "backbone"]
    named = (text for text in backbones if text.lower() not in EMPTY and text.lower() not in model.lower())
    who = " ".join((model, *named))
    return Row(number, line, model, texts, figures, context, tuple(label), who, of_marks)
