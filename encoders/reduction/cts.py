"""CTS: a small network finds superpatches of 2x2 patches that show one class; a fixed number share a token.

Source: CTS (CVPR 2023); official code tue-mps/cts-segmenter.
"""

import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.patches import PATCH, PatchEmbedding
from segmeter.encoders.options import Option
from segmeter.encoders.reduction.interface import ReducerKind
from segmeter.encoders.reduction.superpatches import Policy, embed_superpatches
from segmeter.encoders.rules import NoneOr, WholeNumber

# ADE20K's published share of the superpatches: 103 of 256. Cityscapes has 336 of 576.
SHARED, CELLS = 103, 256
MAX_SHARED = 1 << 20


class Cts(nn.Module):
    """Chooses superpatches by their score; as many on every image.

    Args:
        shared: superpatches that share a token; None for ADE20K's share of all.
    """

    layers = ()

    def __init__(self, shared: int | None) -> None:
        super().__init__()
        self.shared = shared
        self.policy = Policy((2,))

    def embed(self, images: Tensor, embedding: PatchEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`.

        Raises:
            ValueError: a side that is no multiple of 32, or fewer superpatches than are to share.
        """
        height, width = images.shape[2:]
        if height % (2 * PATCH) or width % (2 * PATCH):
            raise ValueError(
                f"CTS takes images whose sides are multiples of {2 * PATCH}, got {height}x{width}"
            )
        (logits,) = self.policy(images)
        chosen = self.choose(logits)
        return embed_superpatches(images, embedding, positions, [(2, chosen)], [self.number(logits)])

    def number(self, logits: Tensor) -> int:
        """How many superpatches share, of those that the logits (B, 2, h, w) are for."""
        cells = logits.shape[2] * logits.shape[3]
        if self.shared is not None and self.shared > cells:
            raise ValueError(
                f"shared must be at most {cells}, the superpatches of the image, got {self.shared}"
            )
        return cells * SHARED // CELLS if self.shared is None else self.shared

    def choose(self, logits: Tensor) -> Tensor:
        """(B, 2, h, w) -> (B, h, w) bool, those of the highest score."""
        score = logits.softmax(1)[:, 1].flatten(1)
        best = score.topk(self.number(logits), dim=1).indices
        chosen = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
        return chosen.scatter_(1, best, value=True).view(len(logits), *logits.shape[2:])


def _build(shared: int | None) -> nn.Module:
    return Cts(shared)


CTS = ReducerKind(
    name="cts",
    title="CTS",
    summary="superpatches of 2x2 that a small network finds share a token; as many on every image",
    source="CTS (CVPR 2023)",
    build=_build,
    options=(
        Option(
            name="shared",
            default=None,
            check=NoneOr(WholeNumber(0, MAX_SHARED)),
            help="superpatches that share a token; none: 103 of 256, as on ADE20K",
        ),
    ),
)
