"""The plain vision transformer, with a place for a reducer of tokens inside its blocks.

Source: Segmenter (arXiv 2105.05633); official code rstrudel/segmenter, ``segm/model/vit.py`` and
``blocks.py``, whose state-dict names and outputs this module carries. The classifier ``head`` of its state
dict is never run and not here.

Legend: B batch, T tokens with the class token, N patches, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.patches import PATCH, PatchEmbedding
from segmeter.encoders.interface import LayerTokens
from segmeter.encoders.reduction.interface import PatchTokens, TokenSet, first_rows, sizes_of

MLP_RATIO = 4
HEAD_WIDTH = 64


@dataclass(frozen=True)
class ViTSize:
    """Width, number of blocks and the side of the images that the published model was trained on."""

    title: str
    dim: int
    depth: int
    train_size: int

    @property
    def heads(self) -> int:
        """Attention heads, of 64 channels each."""
        return self.dim // HEAD_WIDTH


VITS = {
    "vit-ti": ViTSize("ViT-Ti/16", 192, 12, 512),
    "vit-s": ViTSize("ViT-S/16", 384, 12, 512),
    "vit-b": ViTSize("ViT-B/16", 768, 12, 512),
    "vit-l": ViTSize("ViT-L/16", 1024, 24, 640),
}


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, sizes: Tensor | None = None, with_keys: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (B, T, C).
            sizes: (B, T) patches that each token stands for, to weigh it by; None to weigh all alike.
            with_keys: whether the keys are wanted.

        Returns:
            (B, T, C), and the mean of the keys over the heads (B, T, C / heads) or None.
        """
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        bias = None if sizes is None else sizes.log()[:, None, None].to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = self.proj(attended.transpose(1, 2).reshape(batch, tokens, dim))
        return out, k.mean(1) if with_keys else None


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class BlockParts(nn.Module):
    """Attention and MLP, each behind a norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.mlp = Mlp(dim)


class Block(BlockParts):
    """Attention and MLP with residual connections."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.norm1(x))[0]
        return x + self.mlp(self.norm2(x))


class ReducingBlock(BlockParts):
    """A block of the encoder, which hands its tokens to a reducer between attention and MLP."""

    def __init__(self, dim: int, heads: int, number: int) -> None:
        super().__init__(dim, heads)
        self.number = number

    def layer_tokens(
        self, x: Tensor, rows: Tensor, grid: tuple[int, int], reduction: nn.Module | None = None
    ) -> LayerTokens:
        """Its tokens without the class token; a map only while none has been merged."""
        sizes = (grid,) if x.shape[1] - 1 == grid[0] * grid[1] else ()
        return LayerTokens(x[:, 1:], sizes, x.shape[1] - 1)

    def forward(
        self, x: Tensor, rows: Tensor, grid: tuple[int, int], reduction: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: (B, T, C).
            rows: (B, N) row of ``x`` that holds each patch.
            grid: patches, (high, wide).
            reduction: the model's reducer.

        Returns:
            The tokens that are left, and the rows that go with them.
        """
        here = reduction if reduction is not None and self.number in blocks_of(reduction) else None
        weighed = getattr(reduction, "proportional", False)
        attended, keys = self.attn(
            self.norm1(x),
            sizes_of(rows, x.shape[1]) if weighed else None,
            with_keys=getattr(here, "reads_keys", False),
        )
        x = x + attended
        if here is not None:
            x, index = here(TokenSet(x, rows, grid, self.number, keys))
            rows = index.gather(1, rows)
        return x + self.mlp(self.norm2(x)), rows


def blocks_of(reduction: nn.Module | None) -> Iterable[int]:
    """Numbers of the blocks in which a reducer works."""
    return getattr(reduction, "layers", ())


class VisionTransformer(nn.Module):
    """Images to what is left of their patches.

    Args:
        size: one of :data:`VITS`.
        train_size: side of the images that its positions are for; others are resized bilinearly.
        reduction: the reducer of tokens, if any.
    """

    def __init__(self, size: ViTSize, train_size: int, reduction: nn.Module | None = None) -> None:
        super().__init__()
        side = train_size // PATCH
        self.patch_embed = PatchEmbedding(size.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side * side, size.dim))
        self.blocks = nn.ModuleList(
            ReducingBlock(size.dim, size.heads, number) for number in range(1, size.depth + 1)
        )
        self.norm = nn.LayerNorm(size.dim)
        self.position_resizing = PositionResizing()
        self.reduction = reduction
        initialise(self)

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return VIT_COMPONENTS

    def behind_decisions(self) -> tuple[nn.Module, list[nn.Module]]:
        """The last block that the number of tokens depends on, and the modules that run behind it.

        No value is read behind it: shapes alone say what those modules cost.
        """
        last = max(blocks_of(self.reduction), default=1)
        if hasattr(self.reduction, "halt"):
            # Tokens are halted between the block of an exit and the next one.
            last = max(last, 1 + max(getattr(self.reduction, "exits", (len(self.blocks),)), default=0))
        last = min(last, len(self.blocks))
        return self.blocks[last - 1], [*self.blocks[last:], self.norm]

    def forward(self, images: Tensor) -> PatchTokens | list[PatchTokens]:
        """Run the encoder.

        Args:
            images: (B, 3, H, W), both sides multiples of 16.

        Returns:
            The tokens of the whole batch, or one for each image where the reducer treats them one by one.
        """
        if not getattr(self.reduction, "batched", True):
            return [self.run(image) for image in images.split(1)]
        return self.run(images)

    def run(self, images: Tensor) -> PatchTokens:
        """As :meth:`forward`, all images together."""
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        x, rows = self.embed(images, grid)
        halt = getattr(self.reduction, "halt", None)
        canvas = None
        for block in self.blocks:
            x, rows = block(x, rows, grid, self.reduction)
            if halt is not None:
                x, rows, canvas = halt(x, rows, canvas, block.number)
        x = self.norm(x)[:, 1:]
        is_whole = self.reduction is None
        return PatchTokens(x, None if is_whole else (rows - 1).clamp(min=-1), grid, canvas)

    def embed(self, images: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The first tokens (B, T, C) with the class token and positions, and the rows of the patches."""
        positions = self.positions(grid)
        embed = getattr(self.reduction, "embed", None)
        if embed is None:
            patches = self.patch_embed(images) + positions
            rows = first_rows(len(images), patches.shape[1], images.device)
        else:
            patches, rows = embed(images, self.patch_embed, positions.unflatten(1, grid))
        classes = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        return torch.cat([classes, patches], 1), rows

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions of a grid's patches, (1, N, C)."""
        learned = self.pos_embed[:, 1:]
        side = int(learned.shape[1] ** 0.5)
        return learned if grid == (side, side) else self.position_resizing(learned, side, grid)


class PositionResizing(nn.Module):
    """Learned positions for another grid; the same for all images of a size."""

    def forward(self, positions: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
        """(1, side * side, C) -> (1, N, C)."""
        square = positions.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


VIT_COMPONENTS = {
    "patch_embed": "patch_embedding",
    "position_resizing": "position_resizing",
    "blocks.*.attn": "attention",
    "blocks.*.mlp": "ffn",
    "blocks.*.norm?": "norms",
    "norm": "norms",
    "reduction.policy": "policy",
    "reduction.matching": "matching",
    "reduction.gathering": "gathering",
    "reduction.heads.*": "exit_heads",
    "reduction": "reduction",
    "blocks": "residuals",
    "": "embedding",
}


def initialise(module: nn.Module) -> None:
    """Random weights as the official code's: a truncated normal distribution of 0.02, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for parameter in module.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
