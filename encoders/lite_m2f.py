"""The Lite-M2F encoder: coarse tokens are updated often, the finest scale rarely.

Source: Lite DETR (arXiv 2303.07335), section 3, as the PRO-SCALE paper (its Table 1) applies it to
Mask2Former's pixel decoder: plain deformable attention, FFN 1024, M2F's stride-4 path. ``(5+1)x1`` is five
layers whose queries are the stride-32 and stride-16 tokens alone, attending to all tokens, then one full
layer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import MASK2FORMER, EncoderKind, Host
from segmeter.encoders.m2f import DIM, MAX_LAYERS, DeformableEncoder, DeformablePixelDecoder, around
from segmeter.encoders.options import Option
from segmeter.encoders.parts import pixel_embedding
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.encoders.rules import NotAllZero, WholeNumber


def interleave(high_level_layers: int, full_layers: int) -> tuple[bool, ...]:
    """Order of the layers, True for a full one: each full layer closes a block of high-level ones.

    Layers that do not divide evenly go to the earlier blocks.

    >>> interleave(5, 1)
    (False, False, False, False, False, True)
    >>> interleave(4, 2)
    (False, False, True, False, False, True)
    """
    if full_layers == 0:
        return (False,) * high_level_layers
    share, rest = divmod(high_level_layers, full_layers)
    order: list[bool] = []
    for block in range(full_layers):
        order += [False] * (share + (block < rest)) + [True]
    return tuple(order)


class InterleavedStack(nn.Module):
    """Layers that update either the high-level tokens (all but the finest level's) or all tokens."""

    def __init__(self, order: tuple[bool, ...], host: Host = MASK2FORMER) -> None:
        super().__init__()
        self.order = order
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(DIM, host.ffn_dim, levels=len(host.levels)) for _ in order
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """(B, K, C) -> (B, K, C)."""
        high_level_tokens = sum(levels.tokens_per_level[:-1])
        for layer, is_full in zip(self.layers, self.order, strict=True):
            if is_full:
                tokens = layer(tokens, position, levels)
            else:
                updated = layer(tokens, position, levels, num_queries=high_level_tokens)
                tokens = torch.cat((updated, tokens[:, high_level_tokens:]), dim=1)
        return tokens


def build_lite_m2f(
    in_channels: Mapping[str, int],
    *,
    host: Host = MASK2FORMER,
    high_level_layers: int = 5,
    full_layers: int = 1,
    pixel_embedding: str = "conv",
) -> DeformablePixelDecoder | DeformableEncoder:
    """Lite-M2F with that many layers of either kind in all; (A+1)xB is A*B high-level, B full."""
    stack = InterleavedStack(interleave(high_level_layers, full_layers), host)
    return around(stack, in_channels, host, pixel_embedding)


_LAYERS = WholeNumber(0, MAX_LAYERS)
_OPTIONS = (
    Option(name="high_level_layers", default=5, check=_LAYERS, help="Layers over all but the finest level."),
    Option(name="full_layers", default=1, check=_LAYERS, help="Layers over all tokens."),
)


def hosted_options(host: Host) -> tuple[Option, ...]:
    """The options inside a host."""
    return (*_OPTIONS, pixel_embedding.OPTION) if host.has_masks else _OPTIONS


KIND = EncoderKind(
    name="lite-m2f",
    title="Lite-M2F",
    summary="5 layers update strides 32 and 16 only, then 1 layer updates all tokens",
    source="Lite DETR, arXiv 2303.07335, as PRO-SCALE's Table 1 applies it",
    build=build_lite_m2f,
    options=hosted_options(MASK2FORMER),
    hosted=hosted_options,
    together=NotAllZero(("high_level_layers", "full_layers")),
)
