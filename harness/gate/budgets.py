"""Budget files: which models, at which size, may cost how much. Parsed as data; nothing is imported here.

.. code-block:: toml

    baseline = "baseline.json"      # for limits such as "+2 %"; next to this file

    [models.mine]
    model = "mine.py:MyEncoder@r50" # as on the command line; files are relative to this file
    size = "1024x2048"
    tolerance = "1 %"               # of the baseline, for the total and the parameters

    [models.mine.limits]
    total = "330 GMACs"
    "encoder.pixel_embedding" = "+2 %"
    params = "40 M"
    activations = "6 GB"
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmeter.words import nearest

CONVENTIONS = ("published", "macs", "flops")
FILE_KEYS = ("baseline", "models", "size", "convention", "tolerance", "num_classes", "num_queries")
MODEL_KEYS = (
    "model",
    "size",
    "convention",
    "tolerance",
    "num_classes",
    "num_queries",
    "options",
    "components",
    "allow_uncounted",
    "limits",
)
_PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = re.compile(r"(?P<plus>\+)?\s*(?P<number>\d[\d_]*(\.\d+)?)\s*(?P<unit>%|[A-Za-z]*)")


@dataclass(frozen=True)
class Limit:
    """At most ``amount``; or, if relative, at most ``amount`` percent above the baseline."""

    amount: float
    relative: bool

    def most(self, baseline: int | None) -> int | None:
        """The highest figure allowed; None where a relative limit has nothing to relate to."""
        if not self.relative:
            return math.floor(self.amount)
        return None if baseline is None else math.floor(baseline * (1 + self.amount / 100))


@dataclass(frozen=True)
class ModelBudget:
    """One model of a budget file; see the module's text. ``num_classes`` None follows the size."""

    name: str
    model: str
    size: str = "1024x2048"
    convention: str = "macs"
    tolerance: float | None = None
    num_classes: int | None = None
    num_queries: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, str] = field(default_factory=dict)
    allow_uncounted: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Budgets:
    """A whole budget file."""

    path: Path
    baseline: Path | None
    models: tuple[ModelBudget, ...]


def read_budgets(path: Path) -> Budgets:
    """Read a budget file.

    Raises:
        ValueError: missing, no TOML, an unknown key, or a limit that is no finite number with a known unit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no such budget file: {path}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    _check_keys(str(path), content, FILE_KEYS)
    tables = content.get("models")
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path} names no model; expected a table such as [models.m2f]")
    baseline = _text(f"{path}: baseline", content["baseline"]) if "baseline" in content else None
    shared = {key: value for key, value in content.items() if key not in ("baseline", "models")}
    models = tuple(
        _model(f"{path}: models.{name}", name, {**shared, **_table(f"{path}: models.{name}", table)})
        for name, table in tables.items()
    )
    return Budgets(path, path.parent / baseline if baseline else None, models)


def parse_limit(what: str, value: Any) -> Limit:
    """Read "281.2 GMACs", "47.5 M", "1.5 GiB", "+2 %" or a whole number.

    Raises:
        ValueError: anything else, NaN and infinity included.

    >>> parse_limit("total", "1.5 GMACs")
    Limit(amount=1500000000.0, relative=False)
    >>> parse_limit("total", "+2 %")
    Limit(amount=2.0, relative=True)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Limit(value, relative=False)
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f'{what} must be a limit such as "281 GMACs", "47 M", "2 GB" or "+2 %", got {value!r}'
        )
    number, unit = float(found["number"].replace("_", "")), found["unit"]
    if unit == "%":
        return Limit(number, relative=True)
    if found["plus"]:
        raise ValueError(f'{what}: an increase is given in percent, as in "+2 %", got {value!r}')
    return Limit(number * _factor(what, unit), relative=False)


def _factor(what: str, unit: str) -> int:
    if unit in _BINARY:
        return _BINARY[unit]
    if unit.lower() in ("b", "byte", "bytes", "macs", "flops"):
        return 1
    word = re.sub(r"(MACs?|FLOPs?|B)$", "", unit)
    if word in _PREFIXES:
        return _PREFIXES[word]
    raise ValueError(f"{what}: unknown unit {unit!r}; use GMACs, GFLOPs, M, kB, MB, GB, MiB, GiB or %")


def _model(where: str, name: str, table: Mapping[str, Any]) -> ModelBudget:
    _check_keys(where, table, MODEL_KEYS)
    if "model" not in table:
        raise ValueError(f'{where} lacks the key "model", e.g. model = "m2f@swin-t"')
    texts = {
        key: _text(f"{where}.{key}", table[key]) for key in ("model", "size", "convention") if key in table
    }
    if texts.get("convention", "macs") not in CONVENTIONS:
        raise ValueError(
            f"{where}: unknown convention {texts['convention']!r}{nearest(texts['convention'], CONVENTIONS)}"
        )
    numbers = {}
    for key in ("num_classes", "num_queries"):
        if key in table:
            if not isinstance(table[key], int) or isinstance(table[key], bool) or table[key] < 1:
                raise ValueError(f"{where}.{key} must be a whole number above 0, got {table[key]!r}")
            numbers[key] = table[key]
    components = _table(f"{where}.components", table.get("components", {}))
    for pattern, component in components.items():
        _text(f"{where}.components.{pattern}", component)
    allowed = table.get("allow_uncounted", [])
    if not isinstance(allowed, list) or not all(isinstance(each, str) for each in allowed):
        raise ValueError(f"{where}.allow_uncounted must be a list of operators' names, got {allowed!r}")
    limits = _table(f"{where}.limits", table.get("limits", {}))
    return ModelBudget(
        name=name,
        model=texts["model"],
        size=texts.get("size", ModelBudget.size),
        convention=texts.get("convention", ModelBudget.convention),
        num_classes=numbers.get("num_classes"),
        num_queries=numbers.get("num_queries"),
        tolerance=_tolerance(where, table["tolerance"]) if "tolerance" in table else None,
        options=_table(f"{where}.options", table.get("options", {})),
        components=components,
        allow_uncounted=tuple(allowed),
        limits={key: parse_limit(f"{where}.limits.{key}", value) for key, value in limits.items()},
    )


def _tolerance(where: str, value: Any) -> float:
    limit = parse_limit(f"{where}.tolerance", value)
    if not limit.relative:
        raise ValueError(f'{where}.tolerance must be a percentage such as "1 %", got {value!r}')
    return limit.amount


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(key, known)}")


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table, got {value!r}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be text, got {value!r}")
    return value
