"""The inside of a run's record, checked as far as tables and plots read it: it may come from anywhere."""

import math
from collections.abc import Mapping
from typing import Any

from segmeter.plain import shown

# Statistics that tables print and ratios are made of; others may be words.
FIGURES = ("median", "low", "high", "q25", "q75", "p90", "p99", "samples")
# Parts of the environment that are tables of their own.
TABLES = ("versions", "git", "during", "clocks", "op_implementation")


def check_inside(content: Mapping[str, Any]) -> None:
    """Check the parts of a record whose outer types are known to be right.

    Raises:
        ValueError: a figure that is no number, or a part that is of another kind; it is named.
    """
    _check_figures("figures", content.get("figures", {}))
    for name, values in content.get("statistics", {}).items():
        where = f"statistics.{name}"
        _check_figures(where, {key: _table(where, values).get(key) for key in FIGURES})
    for name, values in content.get("components", {}).items():
        _check_figures(f"components.{name}", _table(f"components.{name}", values), words=True)
    for place, ratio in enumerate(content.get("ratios", [])):
        where = f"ratios[{place}]"
        kept = ("times_faster", "low", "high", "rounds")
        _check_figures(where, {key: _table(where, ratio).get(key) for key in kept})
    for name, samples in content.get("samples", {}).items():
        if not isinstance(samples, list):
            raise ValueError(f"samples.{name} must be a list, got {shown(samples)}")
    for name, note in content.get("notes", {}).items():
        if not isinstance(note, str):
            raise ValueError(f"notes.{name} must be a text, got {shown(note)}")
    environment = content.get("environment", {})
    for name in TABLES:
        if environment.get(name) is not None:
            _table(f"environment.{name}", environment[name])


def _check_figures(where: str, figures: Mapping[str, Any], words: bool = False) -> None:
    for name, value in figures.items():
        if value is None or (words and isinstance(value, str)):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where}.{name} must be a number or null, got {shown(value)}")


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {shown(value)}")
    return value
