"""How SegFormer's attention merges its tokens: Segformer++'s presets, and a merging of one's own.

Loads no model: what is wrong with these options is told without one. :mod:`encoders.reduction.grid` merges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = {
    "none": "all tokens",
    "bsm": "the most alike tokens join the top left token of a cell",
    "n2d": "mean of each cell of the grid",
    "n1d": "mean of each run of the raster sequence",
}


@dataclass(frozen=True)
class GridMode:
    """How the queries or the keys of a stage are merged.

    Attributes:
        mode: a key of :data:`MODES`.
        rate: ``bsm``: share of the tokens that goes.
        stride: sides of a cell, (high, wide); ``n1d`` takes the first.
    """

    mode: str = "none"
    rate: float = 0.0
    stride: tuple[int, int] = (2, 2)


@dataclass(frozen=True)
class StageMerging:
    """The modes of a stage's queries and keys."""

    queries: GridMode = GridMode()
    keys: GridMode = GridMode()


def _stages(first: StageMerging, last: StageMerging) -> tuple[StageMerging, ...]:
    return (first, first, last, last)


_NONE = StageMerging()
_CELLS = StageMerging(queries=GridMode("n2d"))
PRESETS: dict[str, tuple[StageMerging, ...]] = {
    "none": _stages(_NONE, _NONE),
    "hq": _stages(
        StageMerging(keys=GridMode("bsm", 0.6, (2, 2))), StageMerging(queries=GridMode("bsm", 0.8, (4, 4)))
    ),
    "fast": _stages(
        StageMerging(keys=GridMode("bsm", 0.9, (4, 4))), StageMerging(queries=GridMode("bsm", 0.9, (4, 4)))
    ),
    "2x2": _stages(_CELLS, _CELLS),
    # The presets of create_model and torch.hub spell their modes in ways that the model does not know.
    "fast-as-released": _stages(_NONE, _NONE),
    "2x2-as-released": _stages(_NONE, _NONE),
}
PRESET_HELP: Mapping[str, str] = {
    "none": "all tokens",
    "hq": "60 % of the keys of stages 1 and 2, 80 % of the queries of stages 3 and 4 go",
    "fast": "90 % of the keys of stages 1 and 2, 90 % of the queries of stages 3 and 4 go",
    "2x2": "queries of all stages are means of 2x2 cells",
    "fast-as-released": "bsm_fast of the official create_model: its mode is misspelt, nothing merges",
    "2x2-as-released": "n2d_2x2 of the official create_model: its mode is misspelt, nothing merges",
    "custom": "as query_mode, query_rate, query_stride, key_mode, key_rate and key_stride say",
}


def merging_of(values: Mapping[str, Any]) -> tuple[StageMerging, ...]:
    """The merging of the four stages from SegFormer's options, each given once or for every stage.

    Raises:
        ValueError: an option that a preset does not take, or a value that is not allowed, in one line.
    """
    preset = values["merging"]
    given = {name: values[name] for name in CUSTOM if values[name] is not None}
    if preset in PRESETS:
        if given:
            raise ValueError(f"{next(iter(given))} goes with merging=custom, got merging={preset}")
        return PRESETS[preset]
    each = [_four(name, given.get(name, DEFAULTS[name.split("_")[1]])) for name in CUSTOM]
    return tuple(
        StageMerging(_mode("query", *stage[:3]), _mode("key", *stage[3:]))
        for stage in zip(*each, strict=True)
    )


CUSTOM = ("query_mode", "query_rate", "query_stride", "key_mode", "key_rate", "key_stride")
DEFAULTS: Mapping[str, Any] = {"mode": "none", "rate": 0.5, "stride": 2}
MAX_STRIDE = 1024


def _four(name: str, value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, tuple) else (value,) * 4
    if len(values) != 4:
        raise ValueError(f"{name} takes one value, or four for the stages, got {len(values)}")
    return values


def _mode(what: str, mode: Any, rate: Any, stride: Any) -> GridMode:
    mode = "none" if mode is None else mode
    if mode not in MODES:
        raise ValueError(f"unknown {what}_mode {mode!r}; choose from {', '.join(MODES)}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"{what}_rate must be a number from 0 to below 1, got {rate!r}")
    sides = str(stride).split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= MAX_STRIDE for side in sides):
        raise ValueError(
            f"{what}_stride must be whole numbers from 1 to {MAX_STRIDE} such as 4 or 2x4, got {stride!r}"
        )
    return GridMode(mode, float(rate), (int(sides[0]), int(sides[-1])))
