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
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from segmeter.files import read_toml
from segmeter.plain import shown
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
# No model costs as much; figures are printed as floats, which end at 1e308.
BEYOND = 10**24
MAX_DIGITS = 24
# Classes or queries of a model.
MOST = 10**6
_NUMBER = re.compile(r"(?P<plus>\+)?\s*(?P<number>\d[\d_]*(\.\d+)?)\s*(?P<unit>%|[A-Za-z]*)")


@dataclass(frozen=True)
class Limit:
    """At most ``amount``; or, if relative, at most ``amount`` percent above the baseline."""

    amount: Fraction | float
    relative: bool

    def most(self, baseline: int | None) -> int | None:
        """The highest whole figure allowed; None where a relative limit has nothing to relate to.

        Exactly: one tenth of a percent more than 1000 is 1001.
        """
        amount = Fraction(self.amount)
        if not self.relative:
            return math.floor(amount)
        return None if baseline is None else math.floor(baseline * (1 + amount / 100))


@dataclass(frozen=True)
class ModelBudget:
    """One model of a budget file; see the module's text. ``num_classes`` None follows the size."""

    name: str
    model: str
    size: str = "1024x2048"
    convention: str = "macs"
    tolerance: Fraction | float | None = None
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
    if not path.exists():
        raise ValueError(f"no such budget file: {path}")
    content = read_toml(path)
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

    >>> parse_limit("total", "1.5 GMACs").most(None)
    1500000000
    >>> parse_limit("total", "+2 %").most(100)
    102
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < BEYOND:
        return Limit(value, relative=False)
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f'{what} must be a limit such as "281 GMACs", "47 M", "2 GB" or "+2 %", got {shown(value)}'
        )
    if len(found["number"]) > MAX_DIGITS:
        raise ValueError(f"{what} has {len(found['number'])} digits, more than any figure: {shown(value)}")
    number, unit = Fraction(found["number"].replace("_", "")), found["unit"]
    if unit == "%":
        return Limit(number, relative=True)
    if found["plus"]:
        raise ValueError(f'{what}: an increase is given in percent, as in "+2 %", got {shown(value)}')
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
            value = table[key]
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
                raise ValueError(f"{where}.{key} must be a whole number from 1 to {MOST}, got {shown(value)}")
            numbers[key] = value
    components = _table(f"{where}.components", table.get("components", {}))
    for pattern, component in components.items():
        _text(f"{where}.components.{pattern}", component)
    allowed = table.get("allow_uncounted", [])
    if not isinstance(allowed, list) or not all(isinstance(each, str) for each in allowed):
        raise ValueError(f"{where}.allow_uncounted must be a list of operators' names, got {shown(allowed)}")
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


def _tolerance(where: str, value: Any) -> Fraction | float:
    limit = parse_limit(f"{where}.tolerance", value)
    if not limit.relative:
        raise ValueError(f'{where}.tolerance must be a percentage such as "1 %", got {shown(value)}')
    return limit.amount


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {shown(key)}{nearest(key, known)}")


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table, got {shown(value)}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be text, got {shown(value)}")
    return value
