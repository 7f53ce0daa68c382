"""What an encoder would cost with fewer tokens: its own count, repeated with shorter maps.

What is assumed: tokens leave a scale before the encoder, so everything that the encoder computes for them
goes, its input projection included; putting them back is free; nothing else changes. Maps of fewer columns
stand for maps of fewer tokens, so a convolution's cost falls with its tokens too, which on a real encoder
takes a sparse one. An encoder whose maps must fit together (RT-M2F's fusion) can only lose tokens inside
its attention layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from segmeter.encoders.interface import FEATURE_NAMES, FEATURE_STRIDES
from segmeter.encoders.rt_m2f import DIM, TransformerLayer
from segmeter.harness.counting import apply_convention, run_and_count
from segmeter.harness.inputs import Size
from segmeter.harness.models import ModelSpec, component_finder, encoder_on, find_token_layers
from segmeter.harness.records import GIGA
from segmeter.harness.tokens.layers import SCALES

# Shares of a scale's tokens at which the cost is counted, for a curve.
SHARES = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class ScaleCost:
    """Cost of an encoder against the share of one scale's tokens that is removed.

    Attributes:
        scale: s1 to s4.
        tokens: of the scale, in the padded input.
        removed: share of them that is removed, ascending.
        gmacs: the whole encoder's cost then, in GMACs; empty if the scale's tokens cannot be removed.
        note: why not, or what the count stands for.
    """

    scale: str
    tokens: int
    removed: tuple[float, ...]
    gmacs: tuple[float, ...]
    note: str

    def saved(self, share: float) -> float:
        """GMACs that go with a share of the scale's tokens, between counted points by straight lines."""
        import numpy as np

        if not self.gmacs:
            return 0.0
        # Beyond the last counted share its slope goes on.
        last = (self.gmacs[-1] - self.gmacs[-2]) / (self.removed[-1] - self.removed[-2])
        cost = float(np.interp(share, self.removed, self.gmacs))
        return self.gmacs[0] - cost - max(0.0, share - self.removed[-1]) * last


def encoder_cost(spec: ModelSpec, channels: Mapping[str, int], padded: Size) -> list[ScaleCost]:
    """Count an encoder with a share of each scale's tokens removed, scale by scale, on meta tensors.

    Args:
        spec: the encoder; its backbone name is not looked at.
        channels: of the backbone's maps.
        padded: (H, W) of the input.

    Returns:
        One for each scale, in the published convention.
    """
    with torch.device("meta"):
        encoder = encoder_on(spec, channels).eval()
    sizes = {name: (padded[0] // stride, padded[1] // stride) for name, stride in FEATURE_STRIDES.items()}
    full = _gmacs(encoder, channels, sizes)
    found = []
    for scale, name in zip(SCALES, FEATURE_NAMES, strict=True):
        height, width = sizes[name]
        tokens = height * width
        # Columns rather than rows: maps stay in the order of their heights, which own encoders are held to.
        columns = sorted({max(1, round(width * (1 - share))) for share in SHARES}, reverse=True)
        shares = tuple(1 - kept / width for kept in columns)
        try:
            costs = [
                full,
                *(_gmacs(encoder, channels, {**sizes, name: (height, kept)}) for kept in columns[1:]),
            ]
        except (RuntimeError, ValueError):
            found.append(_attention_alone(encoder, scale, sizes, full))
            continue
        if len(columns) < 2 or costs[-1] == full:
            found.append(ScaleCost(scale, tokens, (), (), "the encoder does not use this scale's tokens"))
            continue
        found.append(ScaleCost(scale, tokens, shares, tuple(costs), ""))
    return found


def matching_gmacs(tokens: float, channels: int, rule: str) -> float:
    """What finding the matches costs itself.

    Args:
        tokens: of the scale.
        channels: of a token.
        rule: "bipartite" (each token of one half with each of the other) or "windows" (pairs in 2x2 ones).
    """
    return (tokens / 2 * tokens / 2 if rule == "bipartite" else tokens / 4 * 6) * channels / GIGA


def _attention_alone(encoder: nn.Module, scale: str, sizes: Mapping[str, Size], full: float) -> ScaleCost:
    height, width = sizes[FEATURE_NAMES[SCALES.index(scale)]]
    tokens = height * width
    layer = next((m for m in find_token_layers(encoder).values() if isinstance(m, TransformerLayer)), None)
    if layer is None or scale != "s4":
        return ScaleCost(scale, tokens, (), (), "its maps must fit together: no token can leave one of them")
    kept = [tokens - round(tokens * share) for share in SHARES]
    costs = [_layer_gmacs(layer, number) for number in kept]
    shares = tuple(1 - number / tokens for number in kept)
    gmacs = tuple(full - costs[0] + cost for cost in costs)
    return ScaleCost(scale, tokens, shares, gmacs, "inside the attention layer only")


def _layer_gmacs(layer: nn.Module, tokens: int) -> float:
    inputs = torch.empty(2, 1, tokens, DIM, device="meta")
    return sum(work.macs for work in run_and_count(layer, inputs[0], inputs[1])[1].work) / GIGA


def _gmacs(encoder: nn.Module, channels: Mapping[str, int], sizes: Mapping[str, Size]) -> float:
    features = {name: torch.empty(1, channels[name], *size, device="meta") for name, size in sizes.items()}
    count = run_and_count(encoder, features)[1]
    find = component_finder(encoder)
    # Under its full name, so that the convention puts the published figure's parts where the papers do.
    return apply_convention(count, lambda path: f"encoder.{find(path)}", "published").of("encoder") / GIGA
