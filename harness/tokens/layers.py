"""Tokens before and after each layer of an encoder, as maps per scale, handed on as the encoder runs.

Scales are the paper's: s1 is stride 4, s2 stride 8, s3 stride 16, s4 stride 32.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segmeter.encoders.interface import FEATURE_NAMES, FEATURE_STRIDES
from segmeter.harness.models import LayerCall, watch_token_layers

SCALES = ("s1", "s2", "s3", "s4")
SCALE_STRIDES = dict(zip(SCALES, FEATURE_STRIDES.values(), strict=True))
# Low to high resolution: the order of tokens in every layer.
LEVEL_SCALES = ("s4", "s3", "s2")
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
    coarsest = features[FEATURE_NAMES[-1]].shape[-2:]
    sizes_of_one = ((coarsest[0], coarsest[1]),)

    def told(call: LayerCall) -> None:
        tokens = call.tokens
        sizes = tokens.sizes or sizes_of_one
        before, after = _split(tokens.tokens[:, : tokens.updated], sizes), _split(call.output, sizes)
        see(LayerTokens(call.number, before, after, tokens.updated, tokens.tokens.shape[1]))

    with watch_token_layers(encoder, told):
        yield


def _split(tokens: Tensor, sizes: tuple[tuple[int, int], ...]) -> Maps:
    """Leading tokens (1, Q, C) as maps (C, H, W) of the leading scales."""
    maps, start = {}, 0
    for scale, (height, width) in zip(LEVEL_SCALES, sizes, strict=False):
        if start == tokens.shape[1]:
            break
        end = start + height * width
        maps[scale] = tokens[0, start:end].t().unflatten(1, (height, width))
        start = end
    return maps


def feature_scales(features: Mapping[str, Tensor]) -> Maps:
    """A backbone's maps (1, C, H, W) by scale, without the batch."""
    return {scale: features[name][0] for scale, name in zip(SCALES, FEATURE_NAMES, strict=True)}


def output_scales(output: Any, features: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
    """An encoder's multi-scale maps and its pixel embeddings by scale, without the batch."""
    multi_scale = {scale: level[0] for scale, level in zip(LEVEL_SCALES, output.multi_scale, strict=True)}
    embedding = output.mask_features[0]
    for scale, name in zip(SCALES, FEATURE_NAMES, strict=True):
        if features[name].shape[-2:] == embedding.shape[-2:]:
            return multi_scale, {scale: embedding}
    return multi_scale, {}
