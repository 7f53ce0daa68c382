"""Token recalibration (TRC) of PRO-SCALE: coarse tokens are gated by the stride-8 tokens.

Source: PRO-SCALE (Progressive Token Length Scaling), section 3.3; official code
abhishekaich27/proscale-pytorch. Released weights were trained with code that reads the (L, C) token buffer
as (C, h, w) without a transpose, so channels and places are mixed. ``linear`` and ``conv`` keep that
reading, because official weights need it; ``paper`` is what the text describes.

Legend: B batch, G guide tokens (stride 8), N tokens of the gated level, C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.options import Option
from segmeter.encoders.rules import Finite, NoneOr, OneOf

RECALIBRATIONS = {
    "linear": "one linear gate per token, over the official re-read token buffer (official weights)",
    "conv": "one 1x1-convolution gate map over the official re-read token buffer (official weights)",
    "paper": "one linear gate per token, from the guide resized in its true places",
}


OPTION = Option(
    name="recalibration",
    default="linear",
    check=NoneOr(OneOf((*RECALIBRATIONS, "none"))),
    help="How coarse tokens are gated by the stride-8 ones.",
    choices={**RECALIBRATIONS, "none": "no recalibration"},
    title=lambda value: "without TRC" if value is None else f"TRC {value}",
)
TEMPERATURE = Option(
    name="recalibration_temperature",
    default=0.1,
    check=Finite(1e6),
    help="Temperature of the recalibration.",
)


class Recalibration(nn.Module):
    """Gate one level's tokens by ``sigmoid(temperature * score(guide))``.

    Args:
        kind: a key of :data:`RECALIBRATIONS`.
        dim: channels C.
        temperature: multiplies the score (0.1 in the released configurations).
    """

    def __init__(self, kind: str, dim: int, temperature: float) -> None:
        super().__init__()
        self.kind, self.temperature = kind, temperature
        # The official name: transformer.encoder.token_excite.ops
        self.ops: nn.Module = nn.Conv2d(dim, 1, 1) if kind == "conv" else nn.Linear(dim, 1)

    def forward(
        self, tokens: Tensor, guide: Tensor, size: tuple[int, int], guide_size: tuple[int, int]
    ) -> Tensor:
        """Gate ``tokens`` (B, N, C) of a (h, w) map by ``guide`` (B, G, C) of a (H, W) map -> (B, N, C)."""
        if self.kind == "paper":
            maps = guide.transpose(1, 2).unflatten(2, guide_size)
            scores = self.ops(_resize(maps, size).flatten(2).transpose(1, 2))
            return tokens * (self.temperature * scores).sigmoid()
        # The buffer of (L, C) numbers taken for one of (C, h, w), as the official code does.
        channels = tokens.shape[-1]
        maps = _resize(guide.flatten(1).unflatten(1, (channels, *guide_size)), size)
        if self.kind == "conv":
            current = tokens.flatten(1).unflatten(1, (channels, *size))
            gated = current * (self.temperature * self.ops(maps)).sigmoid()
            return gated.flatten(1).unflatten(1, tokens.shape[1:])
        scores = self.ops(maps.flatten(1).unflatten(1, tokens.shape[1:]))
        return tokens * (self.temperature * scores).sigmoid()


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
