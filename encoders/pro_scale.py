"""The PRO-SCALE encoder: the token length grows with depth.

Source: PRO-SCALE, "Progressive Token Length Scaling in Transformer Encoders for Efficient Universal
Segmentation", section 3; official code abhishekaich27/proscale-pytorch, whose state-dict names and outputs
this module carries. Stage 1 runs p1 layers on the stride-32 tokens, stage 2 p2 layers on those and the
stride-16 ones, stage 3 p3 layers on all three levels. No layer shares weights with another.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import MASK2FORMER, EncoderKind, Host
from segmeter.encoders.m2f import DIM, MAX_LAYERS, DeformableEncoder, DeformablePixelDecoder, around
from segmeter.encoders.options import Option, read_stages
from segmeter.encoders.parts import pixel_embedding as embedding
from segmeter.encoders.parts import recalibration as trc
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.encoders.rules import Stages as StagesRule

Stages = tuple[int, ...]


class ProgressiveStack(nn.Module):
    """Layers over a growing prefix of the tokens, with optional recalibration of the coarse ones.

    Args:
        stages: layers of each stage; stage n is over the n coarsest levels.
        recalibration: a key of :data:`encoders.parts.recalibration.RECALIBRATIONS`, or None.
        recalibration_temperature: of it.
        ffn_dim: hidden channels of the FFN.
    """

    def __init__(
        self,
        stages: Stages,
        recalibration: str | None,
        recalibration_temperature: float,
        ffn_dim: int = MASK2FORMER.ffn_dim,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(DIM, ffn_dim, levels=stage)
            for stage, count in enumerate(stages, start=1)
            for _ in range(count)
        )
        self.token_excite = (
            trc.Recalibration(recalibration, DIM, recalibration_temperature) if recalibration else None
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """(B, K, C) -> (B, K, C); a level that no stage reaches passes through."""
        parts = list(tokens.split(levels.tokens_per_level, dim=1))
        guide = parts[-1]
        first_layer = 0
        for stage, count in enumerate(self.stages, start=1):
            if self.token_excite is not None and stage < len(self.stages):
                # Level by level, before its first stage, by the finest tokens, which no layer has updated.
                parts[stage - 1] = self.token_excite(
                    parts[stage - 1], guide, levels.sizes[stage - 1], levels.sizes[-1]
                )
            present = levels.first(stage)
            stage_tokens = torch.cat(parts[:stage], dim=1)
            stage_position = position[:, : stage_tokens.shape[1]]
            for layer in self.layers[first_layer : first_layer + count]:
                stage_tokens = layer(stage_tokens, stage_position, present)
            first_layer += count
            parts[:stage] = stage_tokens.split(present.tokens_per_level, dim=1)
        return torch.cat(parts, dim=1)


def build_pro_scale(
    in_channels: Mapping[str, int],
    *,
    host: Host = MASK2FORMER,
    stages: Stages = (3, 3, 3),
    pixel_embedding: str = "lpe",
    recalibration: str | None = "linear",
    recalibration_temperature: float = 0.1,
) -> DeformablePixelDecoder | DeformableEncoder:
    """PRO-SCALE (p1, p2, p3); the paper's stage 1 holds the coarsest tokens (stride 32).

    In a host of four levels, three stages leave out the one at stride 64, and four begin with it.
    """
    host = replace(host, levels=_levels(host, stages))
    stack = ProgressiveStack(stages, recalibration, recalibration_temperature, host.ffn_dim)
    return around(stack, in_channels, host, pixel_embedding)


def _levels(host: Host, stages: Stages) -> tuple[str, ...]:
    return host.levels[len(host.levels) - len(stages) :]


def hosted_options(host: Host) -> tuple[Option, ...]:
    """The options inside a host."""
    stages = Option(
        name="stages",
        default=(3, 3, 3),
        check=StagesRule(len(host.levels), MAX_LAYERS),
        help="Layers p1,p2,p3 over one, two and three levels.",
        read=read_stages,
        title=lambda stages: f"({','.join(map(str, stages))})",
        in_title=True,
    )
    path = (embedding.OPTION.defaulting("lpe"),) if host.has_masks else ()
    return (stages, *path, trc.OPTION, trc.TEMPERATURE)


KIND = EncoderKind(
    name="pro-scale",
    title="PRO-SCALE",
    summary="p1, p2, p3 layers over one, two and three levels; light-weight pixel embedding",
    source="PRO-SCALE, Progressive Token Length Scaling",
    build=build_pro_scale,
    options=hosted_options(MASK2FORMER),
    hosted=hosted_options,
    levels=lambda host, options: _levels(host, options["stages"]),
)
