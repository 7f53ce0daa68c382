"""The visible table of encoders: a file and a line for each."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from segmeter.encoders import lite_m2f, m2f, pro_scale, rt_m2f
from segmeter.encoders.interface import EncoderKind
from segmeter.words import nearest

ENCODERS: dict[str, EncoderKind] = {
    kind.name: kind
    for kind in (
        m2f.KIND,
        lite_m2f.KIND,
        rt_m2f.KIND,
        pro_scale.KIND,
    )
}


def find_encoder(name: str) -> EncoderKind:
    """An encoder by its name.

    Raises:
        ValueError: no such encoder; the nearest name is given.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}{nearest(name, ENCODERS)}")
    return ENCODERS[name]


def encoder_options(name: str) -> dict[str, Any]:
    """Option names and defaults of an encoder.

    Raises:
        ValueError: no such encoder; the nearest name is given.

    >>> encoder_options("m2f")
    {'layers': 6, 'pixel_embedding': 'conv'}
    """
    return find_encoder(name).settings.defaults


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
    kind = find_encoder(name)
    return kind.build(in_channels, **kind.settings.check(options))
