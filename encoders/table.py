"""The visible table of encoders, and the one function that builds them.

Options are checked here, before any module exists, and the checks need no torch: the command line uses
them too (:func:`encoder_options`).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from segmeter.encoders.interface import nearest
from segmeter.encoders.lite_m2f import build_lite_m2f
from segmeter.encoders.m2f import build_m2f
from segmeter.encoders.parts.pixel_embedding import PIXEL_EMBEDDINGS
from segmeter.encoders.parts.recalibration import RECALIBRATIONS
from segmeter.encoders.pro_scale import build_pro_scale
from segmeter.encoders.rt_m2f import build_rt_m2f

MAX_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """One row of the table: how to build an encoder, and what it is."""

    build: Callable[..., nn.Module]
    title: str
    summary: str
    source: str
    # Checks one option's value; None for the options of this repository's encoders.
    check: Callable[[str, Any], Any] | None = None


ENCODERS: dict[str, EncoderKind] = {
    "m2f": EncoderKind(
        build=build_m2f,
        title="M2F",
        summary="6 deformable layers over all tokens of three levels, 3x3 convolution at stride 4",
        source="Mask2Former, arXiv 2112.01527",
    ),
    "lite-m2f": EncoderKind(
        build=build_lite_m2f,
        title="Lite-M2F",
        summary="5 layers update strides 32 and 16 only, then 1 layer updates all tokens",
        source="Lite DETR, arXiv 2303.07335, as PRO-SCALE's Table 1 applies it",
    ),
    "rt-m2f": EncoderKind(
        build=build_rt_m2f,
        title="RT-M2F",
        summary="RT-DETR's hybrid encoder; pixel embeddings at stride 8",
        source="RT-DETR, arXiv 2304.08069, as PRO-SCALE's Table 1 applies it",
    ),
    "pro-scale": EncoderKind(
        build=build_pro_scale,
        title="PRO-SCALE",
        summary="p1, p2, p3 layers over one, two and three levels; light-weight pixel embedding",
        source="PRO-SCALE, Progressive Token Length Scaling",
    ),
}


def encoder_options(name: str) -> dict[str, Any]:
    """Option names and defaults of an encoder.

    Raises:
        ValueError: no such encoder; the nearest name is given.

    >>> encoder_options("m2f")
    {'layers': 6, 'pixel_embedding': 'conv'}
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}{nearest(name, list(ENCODERS))}")
    parameters = inspect.signature(ENCODERS[name].build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check an encoder's options and return them in their final types.

    Raises:
        ValueError: an unknown encoder, option or value; one line with the nearest valid choice.
    """
    known = encoder_options(name)
    for option in options:
        if option not in known and not (ENCODERS[name].check and option.startswith("components.")):
            if not known:
                raise ValueError(f"{name} has no options, got {option!r}")
            raise ValueError(f"{name} has no option {option!r}{nearest(option, list(known))}")
    checks = {option: ENCODERS[name].check or _CHECKS[option] for option in options}
    checked = {option: checks[option](option, value) for option, value in options.items()}
    complete = {**known, **checked}
    if name == "lite-m2f" and not complete["high_level_layers"] + complete["full_layers"]:
        raise ValueError("high_level_layers and full_layers must not both be 0")
    return checked


def build_encoder(name: str, in_channels: Mapping[str, int], **options: Any) -> nn.Module:
    """Build an encoder with random weights on the current default device.

    Args:
        name: a key of :data:`ENCODERS`.
        in_channels: channels of ``res2`` to ``res5``, e.g. ``{"res2": 256, ..., "res5": 2048}``.
        options: see :func:`encoder_options`.

    Returns:
        A module as :mod:`encoders.interface` describes it.

    Raises:
        ValueError: an unknown name, option or value.
    """
    checked = check_options(name, options)
    return ENCODERS[name].build(in_channels, **checked)


def _one_of(choices: Mapping[str, str]) -> Callable[[str, Any], str]:
    def check(option: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"unknown {option} {value!r}{nearest(str(value), list(choices))}")
        return str(value)

    return check


def _recalibration(option: str, value: Any) -> str | None:
    return None if value is None else _one_of({**RECALIBRATIONS, "none": ""})(option, value)


def _count(minimum: int) -> Callable[[str, Any], int]:
    def check(option: str, value: Any) -> int:
        if not _is_integer(value) or not minimum <= value <= MAX_LAYERS:
            raise ValueError(f"{option} must be a whole number from {minimum} to {MAX_LAYERS}, got {value!r}")
        return int(value)

    return check


def _stages(option: str, value: Any) -> tuple[int, int, int]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"{option} must be three numbers p1,p2,p3, got {value!r}")
    stages = tuple(value)
    if len(stages) != 3 or not all(_is_integer(p) and 0 <= p <= MAX_LAYERS for p in stages):
        raise ValueError(
            f"{option} must be three whole numbers p1,p2,p3 from 0 to {MAX_LAYERS}, got {value!r}"
        )
    if not any(stages):
        raise ValueError(f"{option} must not all be 0: the encoder would have no layer")
    return stages


def _temperature(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ValueError(f"{option} must be a finite number, got {value!r}")
    return float(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "layers": _count(minimum=1),
    "high_level_layers": _count(minimum=0),
    "full_layers": _count(minimum=0),
    "stages": _stages,
    "pixel_embedding": _one_of(PIXEL_EMBEDDINGS),
    "recalibration": _recalibration,
    "recalibration_temperature": _temperature,
}
