"""Tokens before and after each layer of an encoder, as maps per scale, handed on as the encoder runs.

Scales are the paper's: s1 is stride 4, s2 stride 8, s3 stride 16, s4 stride 32; s5 is the stride 64 of
systems that have one. A map's scale is told by its size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segmeter.encoders.interface import FEATURE_NAMES, FEATURE_STRIDES
from segmeter.harness.models import LayerCall, watch_token_layers

SCALES = ("s1", "s2", "s3", "s4")
EXTRA_SCALE = "s5"
SCALE_STRIDES = {**dict(zip(SCALES, FEATURE_STRIDES.values(), strict=True)), EXTRA_SCALE: 64}
Maps = dict[str, Tensor]


@dataclass(frozen=True)
class LayerTokens:
    """What one layer did to one image.

    Attributes:
        number: the layer's place, from 1.
        before: scale -> (C, H, W) tokens that go in and are updated.
        after: the same tokens when they come out.
        updated: number of tokens that the layer updates.
        seen: number of tokens that it attends to.
    """

    number: int
    before: Maps
    after: Maps
    updated: int
    seen: int


@contextmanager
def watch_layers(
    encoder: nn.Module, features: Mapping[str, Tensor], see: Callable[[LayerTokens], None]
) -> Iterator[None]:
    """While inside, call ``see`` after each layer of the encoder; maps are views and are not kept.

    Args:
        encoder: one whose layers tell their tokens.
        features: the encoder's input, batch 1.
        see: called with each layer's tokens, in order.
    """
    scales = scales_by_size(features)
    coarsest = features[FEATURE_NAMES[-1]].shape[-2:]
    sizes_of_one = ((coarsest[0], coarsest[1]),)

    def told(call: LayerCall) -> None:
        tokens = call.tokens
        levels = _levels_from(tokens.sizes or sizes_of_one, tokens.first)
        own = tokens.tokens[:, tokens.first : tokens.first + tokens.updated]
        before, after = _split(own, levels, scales), _split(call.output, levels, scales)
        see(LayerTokens(call.number, before, after, tokens.updated, tokens.tokens.shape[1]))

    with watch_token_layers(encoder, told):
        yield


def scales_by_size(features: Mapping[str, Tensor]) -> dict[tuple[int, int], str]:
    """(H, W) -> scale, of a backbone's maps and of a further one of half the coarsest's sides."""
    found: dict[tuple[int, int], str] = {}
    for scale, name in zip(SCALES, FEATURE_NAMES, strict=True):
        height, width = features[name].shape[-2:]
        found[(height, width)] = scale
    # Of a tiny image the two coarsest maps may be equal; then they are the backbone's.
    found.setdefault((-(-height // 2), -(-width // 2)), EXTRA_SCALE)
    return found


def _levels_from(sizes: tuple[tuple[int, int], ...], first: int) -> tuple[tuple[int, int], ...]:
    """The levels that begin at the token ``first`` or behind it."""
    start = 0
    for place, (height, width) in enumerate(sizes):
        if start >= first:
            return sizes[place:]
        start += height * width
    return ()


def _split(tokens: Tensor, sizes: tuple[tuple[int, int], ...], scales: Mapping[tuple[int, int], str]) -> Maps:
    """Tokens (1, Q, C) of the first of these levels as maps (C, H, W) by scale."""
    maps, start = {}, 0
    for height, width in sizes:
        if start == tokens.shape[1]:
            break
        end = start + height * width
        scale = scales[(height, width)]
        maps[scale] = tokens[0, start:end].t().unflatten(1, (height, width))
        start = end
    return maps


def feature_scales(features: Mapping[str, Tensor]) -> Maps:
    """A backbone's maps (1, C, H, W) by scale, without the batch."""
    return {scale: features[name][0] for scale, name in zip(SCALES, FEATURE_NAMES, strict=True)}


def output_scales(output: Any, features: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
    """An encoder's multi-scale maps and its pixel embeddings by scale, without the batch.

    Maps of another size than any scale's are left out, as are pixel embeddings that it does not make. One
    map alone is pixel embeddings.
    """
    scales = scales_by_size(features)

    def named(maps: Sequence[Tensor]) -> Maps:
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        return {scales[size]: level[0] for size, level in zip(sizes, maps, strict=True) if size in scales}

    if isinstance(output, Tensor):
        return {}, named([output])
    embedding = getattr(output, "mask_features", None)
    return named(output.multi_scale), named([] if embedding is None else [embedding])
