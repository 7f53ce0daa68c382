"""The PRO-SCALE encoder: the token length grows with depth.

Source: PRO-SCALE, "Progressive Token Length Scaling in Transformer Encoders for Efficient Universal
Segmentation", section 3; official code abhishekaich27/proscale-pytorch, whose state-dict names and outputs
this module carries. Stage 1 runs p1 layers on the stride-32 tokens, stage 2 p2 layers on those and the
stride-16 ones, stage 3 p3 layers on all three levels. No layer shares weights with another.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segmeter.encoders.m2f import DIM, DeformablePixelDecoder
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.encoders.parts.recalibration import Recalibration

Stages = tuple[int, int, int]


class ProgressiveStack(nn.Module):
    """Layers over a growing prefix of the tokens, with optional recalibration of the coarse ones."""

    def __init__(self, stages: Stages, recalibration: str | None, recalibration_temperature: float) -> None:
        super().__init__()
        self.stages = stages
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(DIM, levels=stage)
            for stage, count in enumerate(stages, start=1)
            for _ in range(count)
        )
        self.token_excite = (
            Recalibration(recalibration, DIM, recalibration_temperature) if recalibration else None
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """(B, K, C) -> (B, K, C); a level that no stage reaches passes through."""
        parts = list(tokens.split(levels.tokens_per_level, dim=1))
        guide = parts[-1]
        first_layer = 0
        for stage, count in enumerate(self.stages, start=1):
            if self.token_excite is not None and stage < len(self.stages):
                # Level by level, before its first stage, by stride-8 tokens that no layer has updated.
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
    stages: Stages = (3, 3, 3),
    pixel_embedding: str = "lpe",
    recalibration: str | None = "linear",
    recalibration_temperature: float = 0.1,
) -> DeformablePixelDecoder:
    """PRO-SCALE (p1, p2, p3); the paper's stage 1 holds the coarsest tokens (stride 32)."""
    stack = ProgressiveStack(stages, recalibration, recalibration_temperature)
    return DeformablePixelDecoder(in_channels, stack, pixel_embedding)
