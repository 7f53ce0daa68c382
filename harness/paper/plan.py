"""``numbers.toml``: which figures of a paper come from where. Read and checked here; needs no torch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmeter.files import MAX_SHOWN, read_toml
from segmeter.plain import shown
from segmeter.words import listed, nearest

DEFAULT_PREFIX = "num"
CONVENTIONS = ("published", "macs", "flops")
# How a number is made: from a count, from a record, from two other numbers, or said with its source.
WAYS = ("count", "record", "change", "ratio")
COUNTING = {"padded_size": str, "convention": str, "num_classes": int, "num_queries": int}
NUMBER = {
    "what": str,
    "digits": int,
    **dict.fromkeys(("count", "record"), str),
    "change": list,
    "ratio": list,
}
TABLE = {"models": list, "columns": list, "caption": str, "label": str, "records": list, "digits": int}
FIGURE = {"kind": str, "models": list, "caption": str, "label": str}
# Of a figure: what `segmeter plot` takes as options, each checked there.
DRAWN = {
    **dict.fromkeys(("x", "y", "gflops", "dataset", "add"), str),
    **dict.fromkeys(("backbone", "paper", "records"), str),
}
TOP = {"prefix": str, "defaults": dict, "numbers": dict, "tables": dict, "figures": dict}
COLUMNS = (
    *("backbone", "encoder", "decoder", "postprocess", "total", "parameters"),
    *("latency_ms", "images_per_s"),
)
TIMED = ("latency_ms", "images_per_s")
BREAKDOWN = "breakdown"
MAX_DIGITS, MAX_ENTRIES = 9, 2000
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,79}")
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


@dataclass(frozen=True)
class NumberPlan:
    """One number: ``way`` it is made, ``of`` what (a model, a record's file, or two keys), ``what`` of it."""

    key: str
    macro: str
    way: str
    of: tuple[str, ...]
    what: str
    digits: int | None
    at: Mapping[str, Any]


@dataclass(frozen=True)
class TablePlan:
    """One table of models; ``records`` are files or folders for its columns of time."""

    key: str
    models: tuple[str, ...]
    columns: tuple[str, ...]
    caption: str
    label: str
    records: tuple[str, ...]
    digits: int | None
    at: Mapping[str, Any]


@dataclass(frozen=True)
class FigurePlan:
    """One figure: a breakdown of models, or any other kind of `segmeter plot` with its options."""

    key: str
    kind: str
    models: tuple[str, ...]
    caption: str
    label: str
    options: Mapping[str, str]
    at: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The whole file; paths in it are relative to ``folder``."""

    path: Path
    prefix: str
    numbers: tuple[NumberPlan, ...]
    tables: tuple[TablePlan, ...] = ()
    figures: tuple[FigurePlan, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self.path.parent

    @property
    def macro_file(self) -> str:
        """The name of the file with the macros."""
        return f"{self.path.stem}.tex"


def macro_name(prefix: str, key: str) -> str:
    r"""A macro's name for a key: letters alone, digits as words.

    >>> macro_name("num", "m2f-encoder_total")
    'numMTwofEncoderTotal'
    """
    words = re.split(r"[-_]", key)
    spelled = (
        re.sub(r"\d", lambda digit: _DIGITS[int(digit[0])], word[:1].upper() + word[1:]) for word in words
    )
    return prefix + "".join(spelled)


def read_plan(path: Path) -> Plan:
    """Read ``numbers.toml``.

    Raises:
        ValueError: missing, no TOML, or something in it that is none; one line with the nearest valid choice.
    """
    content = read_toml(path)
    try:
        return _plan(path, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(path: Path, content: Mapping[str, Any]) -> Plan:
    _check(content, TOP, "")
    prefix = content.get("prefix", DEFAULT_PREFIX)
    if not re.fullmatch(r"[A-Za-z]{1,40}", prefix):
        raise ValueError(f"prefix must be letters, got {shown(prefix)}")
    defaults = content.get("defaults", {})
    _check(defaults, COUNTING, "defaults")
    numbers = []
    for key, given in _entries(content, "numbers"):
        numbers.append(_number(key, given, prefix, defaults))
    keys = {number.key for number in numbers}
    for number in numbers:
        if number.way in ("change", "ratio"):
            for other in number.of:
                if other not in keys or other == number.key:
                    raise ValueError(
                        f"numbers.{number.key}.{number.way}: no other number {shown(other)}"
                        f"{nearest(other, keys)}"
                    )
    by_macro: dict[str, str] = {}
    for number in numbers:
        if number.macro in by_macro:
            raise ValueError(
                f"numbers.{by_macro[number.macro]} and numbers.{number.key} are both \\{number.macro}; "
                "rename one"
            )
        by_macro[number.macro] = number.key
    tables = tuple(_table(key, given, defaults) for key, given in _entries(content, "tables"))
    figures = tuple(_figure(key, given, defaults) for key, given in _entries(content, "figures"))
    if not (numbers or tables or figures):
        raise ValueError("no [numbers.NAME], [tables.NAME] or [figures.NAME] in it")
    return Plan(path, prefix, tuple(numbers), tables, figures)


def _entries(content: Mapping[str, Any], part: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    entries = content.get(part, {})
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{part} has {len(entries):,} entries; at most {MAX_ENTRIES:,} are read")
    for key, given in entries.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{part}: {shown(key)} is no name; letters, digits, - and _, a letter first")
        if not isinstance(given, dict):
            raise ValueError(f"{part}.{key} must be a table, got {shown(given)}")
        yield key, given


def _number(key: str, given: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]) -> NumberPlan:
    where = f"numbers.{key}"
    _check(given, {**NUMBER, **COUNTING}, where)
    ways = [way for way in WAYS if way in given]
    if len(ways) != 1:
        raise ValueError(f"{where} needs one of {listed(WAYS)}, got {listed(ways) or 'none'}")
    way = ways[0]
    if way in ("change", "ratio"):
        of = _texts(given[way], f"{where}.{way}")
        if len(of) != 2:
            raise ValueError(f"{where}.{way} takes two names: of the figure before and after")
    else:
        of = (given[way],)
    if way == "record" and "what" not in given:
        raise ValueError(f'{where} needs what, e.g. what = "latency_ms"')
    return NumberPlan(
        key, macro_name(prefix, key), way, of, given.get("what", "total"), _digits(given, where),
        _at(given, defaults, where),
    )  # fmt: skip


def _table(key: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> TablePlan:
    where = f"tables.{key}"
    _check(given, {**TABLE, **COUNTING}, where)
    models = _texts(given.get("models", []), f"{where}.models")
    columns = _texts(given.get("columns", ["encoder", "total", "parameters"]), f"{where}.columns")
    records = _texts(given.get("records", []), f"{where}.records")
    if not models:
        raise ValueError(f"{where} names no models")
    for column in columns:
        if column not in COLUMNS:
            raise ValueError(f"{where}.columns: no column {shown(column)}{nearest(column, COLUMNS)}")
    if any(column in TIMED for column in columns) and not records:
        raise ValueError(f"{where} has a column of time and names no records")
    digits = _digits(given, where)
    return TablePlan(
        key, models, columns, given.get("caption", ""), given.get("label", ""), records,
        digits, _at(given, defaults, where),
    )  # fmt: skip


def _figure(key: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> FigurePlan:
    where = f"figures.{key}"
    kind = given.get("kind", BREAKDOWN)
    # Other kinds are drawn at the sizes of their own that `segmeter plot` has.
    _check(given, {**FIGURE, **(COUNTING if kind == BREAKDOWN else DRAWN)}, where)
    models = _texts(given.get("models", []), f"{where}.models")
    if not models and kind == BREAKDOWN:
        raise ValueError(f"{where} names no models")
    options = {name: given[name] for name in DRAWN if name in given}
    at = _at(given, defaults, where) if kind == BREAKDOWN else {}
    return FigurePlan(key, kind, models, given.get("caption", ""), given.get("label", ""), options, at)


def _at(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    at = {**defaults, **{name: given[name] for name in COUNTING if name in given}}
    convention = at.get("convention", "published")
    if convention not in CONVENTIONS:
        raise ValueError(f"{where}: unknown convention {shown(convention)}{nearest(convention, CONVENTIONS)}")
    return at


def _digits(given: Mapping[str, Any], where: str) -> int | None:
    digits: int | None = given.get("digits")
    if digits is not None and not 0 <= digits <= MAX_DIGITS:
        raise ValueError(f"{where}.digits must be from 0 to {MAX_DIGITS}, got {digits}")
    return digits


def _texts(values: Any, where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{where} must be a list of texts, got {shown(value)}")
    return tuple(values)


def _check(given: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for name, value in given.items():
        path = f"{where}.{name}" if where else name
        if name not in known:
            raise ValueError(f"{path[:MAX_SHOWN]} is unknown{nearest(name, known)}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise ValueError(f"{path} must be a {known[name].__name__}, got {shown(value)}")
