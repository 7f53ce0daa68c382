"""Patches of several sizes that are one token each, and the small network that chooses them.

Source: CTS (CVPR 2023); official code tue-mps/cts-segmenter, ``segm/model/efficient.py``, for the network,
the pixels, the positions and the order; sizes above 2x2 (:mod:`encoders.reduction.step`) go on as 2x2 begins.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.patches import PATCH, PatchEmbedding

POLICY = "efficientnet_lite0"
POLICY_CHANNELS = 320
# The policy's maps are at stride 32: a place is a superpatch of 2x2 patches.
POLICY_PATCHES = 2


class Policy(nn.Module):
    """EfficientNet-Lite0 and, for each size of superpatch, whether its patches may share a token.

    Args:
        scales: sides of the superpatches, in patches.
    """

    def __init__(self, scales: Sequence[int]) -> None:
        super().__init__()
        import timm

        self.scales = tuple(scales)
        # The last stage alone is read: the layers behind it, and the maps before it, are not.
        self.network = timm.create_model(POLICY, features_only=True, out_indices=(4,), pretrained=False)
        self.heads = nn.ModuleList(nn.Conv2d(POLICY_CHANNELS, 2, 1) for _ in scales)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Scores of the superpatches.

        Args:
            images: (B, 3, H, W).

        Returns:
            For each scale, logits (B, 2, h, w) on the grid of its superpatches, the second is "may share";
            without entries where the image is smaller than one of them.
        """
        maps = self.network(images)[0]
        logits = []
        for scale, head in zip(self.scales, self.heads, strict=True):
            side = scale // POLICY_PATCHES
            if min(maps.shape[2:]) < side:
                logits.append(maps.new_zeros((len(maps), 2, 0, 0)))
            else:
                logits.append(head(maps if side == 1 else F.avg_pool2d(maps, side)))
        return logits


def first_places(chosen: Tensor, number: int) -> Tensor:
    """(B, n) bool, ``number`` of them true in each row -> (B, number) their places in order."""
    return (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :number]


def embed_superpatches(
    images: Tensor,
    embedding: PatchEmbedding,
    positions: Tensor,
    chosen: Sequence[tuple[int, Tensor]],
    numbers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Tokens of single patches and of superpatches.

    A superpatch of s x s patches is its pixels averaged s x s, taken as one patch; so is its position.

    Args:
        images: (B, 3, H, W).
        embedding: patches to tokens.
        positions: (1, h, w, C) of all patches.
        chosen: side s of the superpatches and (B, h // s, w // s) bool which there are; none overlap.
        numbers: how many there are of each, in every image.

    Returns:
        (B, T, C): single patches in raster order, then the superpatches of each size in raster order; and
        (B, N) the row of each patch, after a class token.
    """
    batch, _, height, width = images.shape
    grid = (height // PATCH, width // PATCH)
    single = torch.ones((batch, *grid), dtype=torch.bool, device=images.device)
    for scale, mask in chosen:
        single &= ~_spread(mask, scale, grid)
    total = grid[0] * grid[1] - sum(
        number * scale * scale for (scale, _), number in zip(chosen, numbers, strict=True)
    )
    parts, rows = [], torch.zeros((batch, *grid), dtype=torch.int64, device=images.device)
    start = 1
    for scale, mask, number in [
        (1, single, total),
        *((scale, mask, number) for (scale, mask), number in zip(chosen, numbers, strict=True)),
    ]:
        if not number:
            continue
        parts.append(_tokens(images, embedding, positions, scale, mask, number))
        numbered = (mask.flatten(1).cumsum(1) + (start - 1)).view(mask.shape) * mask
        rows += _spread(numbered, scale, grid)
        start += number
    return torch.cat(parts, 1), rows.flatten(1)


def _tokens(
    images: Tensor, embedding: PatchEmbedding, positions: Tensor, scale: int, mask: Tensor, number: int
) -> Tensor:
    rows, columns = mask.shape[1:]
    side = PATCH * scale
    pixels = images[:, :, : rows * side, : columns * side]
    pixels = F.avg_pool2d(pixels, scale) if scale > 1 else pixels
    patches = pixels.unflatten(3, (columns, PATCH)).unflatten(2, (rows, PATCH))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    places = first_places(mask.flatten(1), number)
    taken = patches.gather(1, places[..., None, None, None].expand(-1, -1, *patches.shape[2:]))
    here = positions[:, : rows * scale, : columns * scale].permute(0, 3, 1, 2)
    here = (F.avg_pool2d(here, scale) if scale > 1 else here).flatten(2).transpose(1, 2)
    here = here.expand(len(images), -1, -1)
    return embedding(taken) + here.gather(1, places[..., None].expand(-1, -1, here.shape[2]))


def _spread(values: Tensor, scale: int, grid: tuple[int, int]) -> Tensor:
    """(B, h // s, w // s) to every patch (B, h, w); 0 beyond the last whole cell."""
    spread = values.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return F.pad(spread, (0, grid[1] - spread.shape[2], 0, grid[0] - spread.shape[1]))
