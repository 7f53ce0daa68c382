"""SegFormer's backbone, the Mix Transformer, with a place for merging inside its attention.

Source: SegFormer (arXiv 2105.15203); official code NVlabs/SegFormer; names and outputs are those of mmseg's
and Segformer++'s module. Merging: Segformer++ (:mod:`encoders.reduction.grid`).

Legend: B batch, N tokens of a stage, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.interface import LayerTokens
from segmeter.encoders.reduction.interface import TokenSet, take_rows

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4
NORM_EPS = 1e-6
# Kernel and stride of the convolution in front of each stage.
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))


@dataclass(frozen=True)
class MiTSize:
    """Widths and blocks of the four stages, and the paper's width of the head."""

    title: str
    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    head: int


_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
MITS = {
    "mit-b0": MiTSize("MiT-B0", _NARROW, (2, 2, 2, 2), 256),
    "mit-b1": MiTSize("MiT-B1", _WIDE, (2, 2, 2, 2), 256),
    "mit-b2": MiTSize("MiT-B2", _WIDE, (3, 4, 6, 3), 768),
    "mit-b3": MiTSize("MiT-B3", _WIDE, (3, 4, 18, 3), 768),
    "mit-b4": MiTSize("MiT-B4", _WIDE, (3, 8, 27, 3), 768),
    "mit-b5": MiTSize("MiT-B5", _WIDE, (3, 6, 40, 3), 768),
}
Merging = Callable[[int], tuple[nn.Module | None, nn.Module | None]]


class PatchEmbedding(nn.Module):
    """Overlapping patches to tokens."""

    def __init__(self, inputs: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(inputs, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) -> tokens (B, N, C') and their grid."""
        patches = self.projection(maps)
        return self.norm(patches.flatten(2).transpose(1, 2)), (patches.shape[2], patches.shape[3])


class Projections(nn.Module):
    """Attention of queries to keys; names as torch's ``MultiheadAttention`` has them."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, Q, C) and (B, K, C) -> (B, Q, C)."""
        dim = queries.shape[2]
        q = F.linear(queries, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        k, v = F.linear(keys, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, 2)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EfficientAttention(nn.Module):
    """Attention to fewer keys: reduced by a strided convolution, and merged, as the queries may be too.

    Args:
        dim, heads: of the attention.
        reduction: stride of the convolution; 1 for none.
        queries, keys: reducers of the queries and of the keys; None for none.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        reduction: int,
        queries: nn.Module | None = None,
        keys: nn.Module | None = None,
        number: int = 1,
    ) -> None:
        super().__init__()
        self.attn = Projections(dim, heads)
        self.number = number
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.reduction = reduction
        self.queries = queries
        self.keys = keys

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        keys, key_grid = x, grid
        if self.reduction > 1:
            maps = self.sr(x.transpose(1, 2).unflatten(2, grid))
            keys, key_grid = self.norm(maps.flatten(2).transpose(1, 2)), (maps.shape[2], maps.shape[3])
        if self.keys is not None:
            keys, _ = self.keys(_tokens(keys, key_grid, self.number))
        if self.queries is None:
            return self.attn(x, keys)
        queries, index = self.queries(_tokens(x, grid, self.number))
        attended = self.attn(queries, keys)
        restore = getattr(self.queries, "restore", None)
        return take_rows(attended, index) if restore is None else restore(attended, index, grid)


def _tokens(x: Tensor, grid: tuple[int, int], number: int) -> TokenSet:
    rows = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    return TokenSet(x, rows, grid, number, protected=0)


class MixFfn(nn.Module):
    """Two 1x1 convolutions with a 3x3 depthwise one and GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = MLP_RATIO * dim
        # Places 2 and 3, GELU and dropout, keep the official numbers.
        self.layers = nn.Sequential(
            nn.Conv2d(dim, inner, 1),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
            nn.GELU(),
            nn.Identity(),
            nn.Conv2d(inner, dim, 1),
        )

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.layers(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)


class MixBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and with a residual connection."""

    def __init__(self, dim: int, heads: int, reduction: int, merging: Merging, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = EfficientAttention(dim, heads, reduction, *merging(number), number)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.ffn = MixFfn(dim)

    def layer_tokens(self, x: Tensor, grid: tuple[int, int]) -> LayerTokens:
        """All tokens of the stage."""
        return LayerTokens(x, (grid,), x.shape[1])

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.attn(self.norm1(x), grid)
        return x + self.ffn(self.norm2(x), grid)


class MixTransformer(nn.Module):
    """Images to maps at strides 4, 8, 16 and 32.

    Args:
        size: one of :data:`MITS`.
        merging: a stage's number from 1 -> reducers of its queries and of its keys, made anew for each block.
    """

    def __init__(self, size: MiTSize, merging: Merging = lambda number: (None, None)) -> None:
        super().__init__()
        inputs: Sequence[int] = (3, *size.dims[:3])
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PatchEmbedding(inputs[i], size.dims[i], *PATCHES[i]),
                    nn.ModuleList(
                        MixBlock(size.dims[i], HEADS[i], REDUCTIONS[i], merging, i + 1)
                        for _ in range(size.depths[i])
                    ),
                    nn.LayerNorm(size.dims[i], eps=NORM_EPS),
                ]
            )
            for i in range(4)
        )

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        found: dict[str, str] = {}
        for i in range(4):
            stage = f"stage{i + 1}"
            found |= {
                f"layers.{i}.0": f"{stage}.patch_embedding",
                f"layers.{i}.1.*.attn.*.matching": "matching",
                f"layers.{i}.1.*.attn.*.gathering": "gathering",
                f"layers.{i}.1.*.attn.queries": "merging",
                f"layers.{i}.1.*.attn.keys": "merging",
                f"layers.{i}.1.*.attn": f"{stage}.attention",
                f"layers.{i}.1.*.ffn": f"{stage}.ffn",
                f"layers.{i}.1.*.norm?": f"{stage}.norms",
                f"layers.{i}.1": f"{stage}.residuals",
                f"layers.{i}.2": f"{stage}.norms",
            }
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, C, H / stride, W / stride)."""
        maps = images
        found = []
        for stage in self.layers:
            embedding, blocks, norm = cast(nn.ModuleList, stage)
            x, grid = embedding(maps)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, grid)
            maps = norm(x).transpose(1, 2).unflatten(2, grid)
            found.append(maps)
        return found
