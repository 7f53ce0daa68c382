"""The PRO-SCALE encoder: the token length grows with depth.

Source: PRO-SCALE, "Progressive Token Length Scaling in Transformer Encoders for Efficient Universal
Segmentation", section 3; official code abhishekaich27/proscale-pytorch, whose state-dict names and outputs
this module carries. Stage 1 runs p1 layers on the stride-32 tokens, stage 2 p2 layers on those and the
stride-16 ones, stage 3 p3 layers on all three levels. No layer shares weights with another.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import EncoderKind
from segmeter.encoders.m2f import DIM, MAX_LAYERS, DeformablePixelDecoder
from segmeter.encoders.options import Option, is_integer
from segmeter.encoders.parts import pixel_embedding as embedding
from segmeter.encoders.parts import recalibration as trc
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels

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
            trc.Recalibration(recalibration, DIM, recalibration_temperature) if recalibration else None
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


def read_stages(text: str) -> tuple[int, ...]:
    """Read "3,3,3".

    Raises:
        ValueError: not whole numbers joined by commas.

    >>> read_stages("1,1,3")
    (1, 1, 3)
    """
    try:
        return tuple(int(part) for part in text.strip("()").split(","))
    except ValueError:
        raise ValueError(f"stages must be three whole numbers such as 3,3,3; got {text!r}") from None


def _check_stages(name: str, value: Any) -> Stages:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} must be three numbers p1,p2,p3, got {value!r}")
    stages = tuple(value)
    if len(stages) != 3 or not all(is_integer(p) and 0 <= p <= MAX_LAYERS for p in stages):
        raise ValueError(f"{name} must be three whole numbers p1,p2,p3 from 0 to {MAX_LAYERS}, got {value!r}")
    if not any(stages):
        raise ValueError(f"{name} must not all be 0: the encoder would have no layer")
    return stages


KIND = EncoderKind(
    name="pro-scale",
    title="PRO-SCALE",
    summary="p1, p2, p3 layers over one, two and three levels; light-weight pixel embedding",
    source="PRO-SCALE, Progressive Token Length Scaling",
    build=build_pro_scale,
    options=(
        Option(
            name="stages",
            default=(3, 3, 3),
            check=_check_stages,
            help="Layers p1,p2,p3 over one, two and three levels.",
            read=read_stages,
            title=lambda stages: f"({','.join(map(str, stages))})",
            in_title=True,
        ),
        embedding.OPTION.defaulting("lpe"),
        trc.OPTION,
        trc.TEMPERATURE,
    ),
)
