"""MViTv2-T as detectron2 builds it, with windowed attention.

Source: MViTv2 (arXiv 2112.01526) and detectron2's ``modeling/backbone/mvit.py``; the configuration
is that of detectron2's ``projects/MViTv2/configs/mask_rcnn_mvitv2_t_3x.py``. PRO-SCALE's Table 5
uses this variant. It differs from the classification network (timm's ``mvitv2_tiny``), whose
attention has no windows and which has no output norms.

Maps are NHWC here. Module names inside the blocks are detectron2's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.windows import whole_parts

NORM_EPS = 1e-6
MLP_RATIO = 4


@dataclass(frozen=True)
class BlockPlan:
    """One block. Strides and the window are counted in cells of the block's input map.

    Attributes:
        in_channels: width of the input.
        channels: width of the output.
        heads: attention heads, always of 96 channels.
        query_stride: pooling of the queries, and so of the output map.
        key_stride: pooling of keys and values.
        window: side of an attention window; None attends globally.
        table_size: side of the input map for a 224x224 image; it sets how many relative positions
            there are.
    """

    in_channels: int
    channels: int
    heads: int
    query_stride: int
    key_stride: int
    window: int | None
    table_size: int


# The first block of a stage still works with the window of the stage before; the last block of each
# stage but the first is global.
MVIT_T = (
    BlockPlan(96, 96, 1, 1, 4, 56, 56),
    BlockPlan(96, 192, 2, 2, 2, 56, 56),
    BlockPlan(192, 192, 2, 1, 4, None, 28),
    BlockPlan(192, 384, 4, 2, 1, 28, 28),
    BlockPlan(384, 384, 4, 1, 1, 14, 14),
    BlockPlan(384, 384, 4, 1, 1, 14, 14),
    BlockPlan(384, 384, 4, 1, 1, 14, 14),
    BlockPlan(384, 384, 4, 1, 2, None, 14),
    BlockPlan(384, 768, 8, 2, 1, 14, 14),
    BlockPlan(768, 768, 8, 1, 1, None, 7),
)
OUTPUT_BLOCKS = (0, 2, 7, 9)
MVIT_T_CHANNELS = tuple(MVIT_T[block].channels for block in OUTPUT_BLOCKS)


class PooledAttention(nn.Module):
    """Attention over pooled queries, keys and values; the pooled queries are added to it."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.plan = plan
        head_dim = plan.channels // plan.heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(plan.in_channels, 3 * plan.channels)
        self.proj = nn.Linear(plan.channels, plan.channels)
        self.pool_q = _pooling(head_dim, plan.query_stride)
        self.pool_k = _pooling(head_dim, plan.key_stride)
        self.pool_v = _pooling(head_dim, plan.key_stride)
        self.norm_q = nn.LayerNorm(head_dim, eps=NORM_EPS)
        self.norm_k = nn.LayerNorm(head_dim, eps=NORM_EPS)
        self.norm_v = nn.LayerNorm(head_dim, eps=NORM_EPS)
        positions = 2 * (plan.table_size // min(plan.query_stride, plan.key_stride)) - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(positions, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(positions, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) -> (B, ceil(H / query_stride), ceil(W / query_stride), C)."""
        plan = self.plan
        qkv = self.qkv(x).unflatten(3, (3, plan.heads, -1)).permute(3, 0, 4, 5, 1, 2)
        q, k, v = qkv.flatten(1, 2).unbind(0)  # each (B * heads, head_dim, H, W)
        q = self.norm_q(self.pool_q(q).permute(0, 2, 3, 1))
        k = self.norm_k(self.pool_k(k).permute(0, 2, 3, 1))
        v = self.norm_v(self.pool_v(v).permute(0, 2, 3, 1))
        if plan.window is None:
            attended = self._attend(q, k, v)
        else:
            q_window, k_window = plan.window // plan.query_stride, plan.window // plan.key_stride
            attended = self._attend(to_windows(q, q_window), to_windows(k, k_window), to_windows(v, k_window))
            attended = from_windows(attended, q.shape[1], q.shape[2])
        heads = (attended + q).unflatten(0, (-1, plan.heads))
        return self.proj(heads.permute(0, 2, 3, 1, 4).flatten(3))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q_size, k_size = q.shape[1:3], k.shape[1:3]
        logits = (q * self.scale).flatten(1, 2) @ k.flatten(1, 2).transpose(1, 2)
        rows = relative_positions(self.rel_pos_h, q_size[0], k_size[0])
        columns = relative_positions(self.rel_pos_w, q_size[1], k_size[1])
        # The position terms take the unscaled query.
        row_logits = torch.einsum("bhwc,hkc->bhwk", q, rows)
        column_logits = torch.einsum("bhwc,wkc->bhwk", q, columns)
        logits = logits.unflatten(2, k_size).unflatten(1, q_size)
        logits = logits + row_logits[..., :, None] + column_logits[..., None, :]
        weights = logits.flatten(3).softmax(-1).flatten(1, 2)
        return (weights @ v.flatten(1, 2)).unflatten(1, q_size)


class MViTBlock(nn.Module):
    """Pooled attention and MLP, pre-norm; a change of width or stride is on the skip path too."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        hidden = MLP_RATIO * plan.channels
        self.norm1 = nn.LayerNorm(plan.in_channels, eps=NORM_EPS)
        self.attn = PooledAttention(plan)
        self.norm2 = nn.LayerNorm(plan.channels, eps=NORM_EPS)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(plan.channels, hidden), "fc2": nn.Linear(hidden, plan.channels)}
        )
        widens = plan.in_channels != plan.channels
        self.proj = nn.Linear(plan.in_channels, plan.channels) if widens else None
        self.pool_skip = nn.MaxPool2d(3, plan.query_stride, 1) if plan.query_stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) -> (B, ceil(H / query_stride), ceil(W / query_stride), C)."""
        normed = self.norm1(x)
        skip = x if self.proj is None else self.proj(normed)
        if self.pool_skip is not None:
            skip = self.pool_skip(skip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = skip + self.attn(normed)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class MViTTiny(nn.Module):
    """The trunk: patch embedding and ten blocks. Output norms are the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, MVIT_T[0].in_channels, kernel_size=7, stride=4, padding=3)
        self.blocks = nn.ModuleList([MViTBlock(plan) for plan in MVIT_T])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PooledAttention):
                nn.init.trunc_normal_(module.rel_pos_h, std=0.02)
                nn.init.trunc_normal_(module.rel_pos_w, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, h, w, C) at strides 4, 8, 16 and 32."""
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in OUTPUT_BLOCKS:
                maps.append(x)
        return maps


def to_windows(x: Tensor, size: int) -> Tensor:
    """(N, H, W, C) -> (N * windows, size, size, C), zero-padded at the right and bottom."""
    height, width = x.shape[1:3]
    right, bottom = whole_parts(width, size) * size - width, whole_parts(height, size) * size - height
    x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.transpose(2, 3).flatten(0, 2)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """(N * windows, size, size, C) -> (N, H, W, C) without padding; undoes :func:`to_windows`."""
    size = windows.shape[1]
    grid = (whole_parts(height, size), whole_parts(width, size))
    x = windows.unflatten(0, (-1, *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


def relative_positions(table: Tensor, queries: int, keys: int) -> Tensor:
    """The embedding of each (query, key) distance along one axis, (queries, keys, C).

    The coarser axis is stretched to the finer one. A table (L, C) for another size is interpolated
    linearly to the ``2 * max(queries, keys) - 1`` distances there are.
    """
    distances = 2 * max(queries, keys) - 1
    if table.shape[0] != distances:
        table = F.interpolate(table.t()[None], size=distances, mode="linear")[0].t()
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    query_at = torch.arange(queries, device=table.device)[:, None] * query_step
    key_at = torch.arange(keys, device=table.device) * key_step
    return table[(query_at - key_at + (keys - 1) * key_step).long()]


def _pooling(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
