"""Lite-DINO: DINO whose encoder updates the finest tokens rarely, and weighs samples by themselves.

Source: Lite DETR (arXiv 2303.07335), section 3; official code IDEA-Research/Lite-DETR, ``models/dino``, whose
state-dict names and outputs this system carries. Encoder layers come in blocks, ``H3L1-(2+1)x3`` being three
of two layers that update the three coarse levels and one that updates all four; all read all tokens. In a
block's last layer the fine tokens pass through a small FFN of their own.

Legend: B batch, K tokens, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import LayerTokens
from segmeter.encoders.m2f import DIM, MAX_LAYERS, DeformableEncoder
from segmeter.encoders.naming import Shapes
from segmeter.encoders.options import Option
from segmeter.encoders.parts.key_aware import lite_attention
from segmeter.encoders.parts.layers import NORM_EPS, Levels
from segmeter.encoders.parts.query_layers import QueryLayer
from segmeter.encoders.rules import WholeNumber, YesOrNo
from segmeter.encoders.systems import dino
from segmeter.encoders.systems.dino import BoxDecoder, QuerySelection, detector_stages

LEVELS = dino.LEVELS[4]


class LiteLayer(nn.Module):
    """An encoder layer that updates the coarse tokens, or all of them.

    Args:
        key_aware: whether the weights come from the samples.
        is_full: whether it updates the fine tokens too, by an FFN of their own.
    """

    def __init__(self, key_aware: bool, is_full: bool) -> None:
        super().__init__()
        self.is_full = is_full
        self.self_attn = lite_attention(DIM, len(LEVELS), key_aware)
        self.norm1 = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.linear1 = nn.Linear(DIM, dino.FFN_DIM)
        self.linear2 = nn.Linear(dino.FFN_DIM, DIM)
        self.norm2 = nn.LayerNorm(DIM, eps=NORM_EPS)
        if is_full:
            self.linear12 = nn.Linear(DIM, DIM)
            self.linear22 = nn.Linear(DIM, DIM)
            self.norm22 = nn.LayerNorm(DIM, eps=NORM_EPS)

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels, coarse: int) -> Tensor:
        """Update tokens from all tokens (B, K, C).

        Args:
            tokens: (B, K, C), fine to coarse.
            position: (1, K, C).
            levels: geometry of the K tokens.
            coarse: the first of the coarse tokens.

        Returns:
            The updated tokens: all, or the coarse ones.
        """
        first = 0 if self.is_full else coarse
        queries = tokens[:, first:]
        attended = self.self_attn(queries + position[:, first:], levels.centres[first:], tokens, levels)
        queries = self.norm1(queries + attended)
        fine, queries = queries[:, : coarse - first], queries[:, coarse - first :]
        queries = self.norm2(queries + self.linear2(F.relu(self.linear1(queries))))
        if not self.is_full:
            return queries
        fine = self.norm22(fine + self.linear22(F.relu(self.linear12(fine))))
        return torch.cat((fine, queries), dim=1)

    def layer_tokens(self, tokens: Tensor, position: Tensor, levels: Levels, coarse: int) -> LayerTokens:
        """The tokens of a call of :meth:`forward`."""
        first = 0 if self.is_full else coarse
        return LayerTokens(tokens, levels.sizes, tokens.shape[1] - first, first)


class BlockStack(nn.Module):
    """Blocks of layers; the last of each updates all tokens.

    Args:
        blocks: how many.
        high_level_layers: layers in a block besides its last.
        high_level_scales: coarse levels.
        key_aware: whether the weights come from the samples.
    """

    def __init__(self, blocks: int, high_level_layers: int, high_level_scales: int, key_aware: bool) -> None:
        super().__init__()
        self.high_level_scales = high_level_scales
        self.layers = nn.ModuleList(
            LiteLayer(key_aware, is_full=number == high_level_layers)
            for _ in range(blocks)
            for number in range(high_level_layers + 1)
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """(B, K, C) -> (B, K, C)."""
        coarse = sum(levels.tokens_per_level[: -self.high_level_scales])
        for layer in self.layers:
            updated = layer(tokens, position, levels, coarse)
            tokens = updated if layer.is_full else torch.cat((tokens[:, :coarse], updated), dim=1)
        return tokens


def build_encoder(in_channels: Mapping[str, int], options: Mapping[str, Any]) -> DeformableEncoder:
    """Lite-DINO's encoder."""
    stack = BlockStack(
        options["expansions"],
        options["high_level_layers"],
        options["high_level_scales"],
        options["key_aware"],
    )
    return DeformableEncoder(in_channels, stack, LEVELS, dino.POSITION_TEMPERATURE)


def stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, encoder, selection of queries, decoder, boxes in pixels."""
    classes, queries, key_aware = choice.num_classes, choice.num_queries, choice.options["key_aware"]

    def layers() -> list[QueryLayer]:
        return [
            QueryLayer(DIM, dino.FFN_DIM, lite_attention(DIM, len(LEVELS), key_aware))
            for _ in range(dino.DECODER_LAYERS)
        ]

    return detector_stages(
        choice,
        Stage(
            name="encoder",
            key=("Lite-DINO encoder", choice.backbone, tuple(sorted(choice.options.items()))),
            build=lambda built: build_encoder(built["backbone"].channels, choice.options),  # type: ignore[arg-type]
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
        ),
        Stage(
            name="selection",
            key=("Lite-DINO selection", classes, queries),
            build=lambda built: QuerySelection(classes, queries, boxes_of_all=False),
            call=lambda selection, encoded, sizes: selection(encoded.multi_scale),
        ),
        Stage(
            name="decoder",
            key=("Lite-DINO decoder", classes, key_aware),
            build=lambda built: BoxDecoder(classes, layers()),
            call=lambda decoder, selected, sizes: decoder(selected),
        ),
    )


def title(options: Mapping[str, Any]) -> str:
    """As the README of the official code writes it, e.g. "Lite-DINO H3L1-(2+1)x3"."""
    high = options["high_level_scales"]
    layers = f"({options['high_level_layers']}+1)x{options['expansions']}"
    plain = "" if options["key_aware"] else ", plain attention"
    return f"Lite-DINO H{high}L{len(LEVELS) - high}-{layers}{plain}"


def options_of(shapes: Shapes) -> dict[str, Any]:
    """The options that leave a trace in a checkpoint; which levels are coarse leaves none."""
    layer = "encoder.transformer.encoder.layers."
    numbers = {int(name.removeprefix(layer).partition(".")[0]) for name in shapes if name.startswith(layer)}
    blocks = sum(f"{layer}{number}.linear12.weight" in shapes for number in numbers)
    return {
        "expansions": max(1, blocks),
        "high_level_layers": len(numbers) // max(1, blocks) - 1,
        "key_aware": f"{layer}0.self_attn.attention_weights.weight" not in shapes,
    }


SYSTEM = System(
    name="lite-dino",
    title="Lite-DINO",
    summary="DINO whose encoder updates the finest tokens once a block; key-aware deformable attention",
    source="Lite DETR, arXiv 2303.07335",
    stages=stages,
    options=(
        Option(
            name="expansions", default=3, check=WholeNumber(1, MAX_LAYERS), help="Blocks of encoder layers."
        ),
        Option(
            name="high_level_layers",
            default=2,
            check=WholeNumber(0, MAX_LAYERS),
            help="Layers of a block over the coarse levels alone, before the one over all.",
        ),
        Option(
            name="high_level_scales",
            default=3,
            check=WholeNumber(1, len(LEVELS) - 1),
            help="Coarse levels, of the four.",
        ),
        Option(
            name="key_aware",
            default=True,
            check=YesOrNo(),
            help="Whether attention weights come from the sampled keys.",
        ),
    ),
    titled=title,
    default_backbone="r50",
    default_queries=lambda backbone: dino.QUERIES,
    default_classes=dino.CLASSES,
    size_divisor=1,
    naming=dino.naming(r"transformer\.encoder\.layers\.\d+\.self_attn\.query_proj\..*", options_of),
)
