"""Patches of 16x16 pixels to tokens, as Segmenter's vision transformer names it."""

from torch import Tensor, nn

PATCH = 16


class PatchEmbedding(nn.Module):
    """Patches of 16x16 pixels to tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), or patches of them (B, N, 3, 16, 16) -> (B, N, C) in their order."""
        if images.dim() == 5:
            return self.proj(images.flatten(0, 1)).flatten(1).unflatten(0, images.shape[:2])
        return self.proj(images).flatten(2).transpose(1, 2)
