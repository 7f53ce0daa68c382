"""Swin as a trunk of four maps, with the padding order of Mask2Former's Swin.

Source: Swin Transformer (arXiv 2103.14030). Mask2Former's takes images of any size: it zero-pads a map at the
right and bottom to whole windows and then shifts it. (timm shifts first and pads afterwards, which puts
other tokens into the windows wherever a side is no multiple of the window.)

Maps are NHWC. The state-dict names are those of timm's Swin as it gives features: patches are merged at the
head of a stage. It is written out here, so that counting a model need not import timm, which takes longer
than the count itself.
"""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.windows import whole_parts

PATCH = 4
HEAD_DIM = 32
MLP_RATIO = 4
STAGES = 4
# Added to a logit, it leaves a key out of the softmax.
MASKED = -100.0


@dataclass(frozen=True)
class SwinSize:
    """One size of Swin.

    Attributes:
        width: channels of the first map; each stage doubles them.
        depths: blocks of each stage.
        window: side of a window, in cells.
    """

    width: int
    depths: tuple[int, int, int, int]
    window: int


class WindowAttention(nn.Module):
    """Attention inside windows, with a learnt bias for each relative position and head."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.scale = HEAD_DIM**-0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: (B * windows, T, C), the T tokens of each window.
            mask: (windows, T, T) to add to the logits, or None.
        """
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        logits = logits + bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        if mask is not None:
            logits = logits.unflatten(0, (-1, mask.shape[0])) + mask[None, :, None]
            logits = logits.flatten(0, 1)
        attended = self.softmax(logits) @ v
        return self.proj(attended.transpose(1, 2).reshape(count, tokens, -1))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.fc2(self.act(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP, pre-norm; the windows of every other block are shifted by half of their side.

    Windows keep their side and shift at any size of map, also where the map is smaller than a window.
    """

    def __init__(self, dim: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1:3]
        x = x + self._attend(self.norm1(x))
        x = x.flatten(1, 2)
        x = x + self.mlp(self.norm2(x))
        return x.unflatten(1, (height, width))

    def _attend(self, x: Tensor) -> Tensor:
        height, width, dim = x.shape[1:]
        side, shift = self.window, self.shift
        rows, columns = whole_parts(height, side), whole_parts(width, side)
        x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        mask = None
        if shift:
            x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
            mask = self._mask(x)
        windows = to_windows(x, side).view(-1, side**2, dim)
        windows = self.attn(windows, mask).view(-1, rows, columns, side, side, dim)
        x = windows.transpose(2, 3).contiguous().view(-1, rows * side, columns * side, dim)
        if shift:
            x = torch.roll(x, shifts=(shift, shift), dims=(1, 2))
        return x[:, :height, :width]

    def _mask(self, x: Tensor) -> Tensor:
        """(windows, T, T): what came round from the other side of the map takes no part in a window."""
        ids = x.new_zeros((1, *x.shape[1:3], 1))
        bounds = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((r, c) for r in bounds for c in bounds):
            ids[:, rows, columns] = number
        of_windows = to_windows(ids, self.window).view(-1, self.window**2)
        apart = of_windows[:, None] - of_windows[:, :, None]
        return apart.masked_fill(apart != 0, MASKED)


class PatchMerging(nn.Module):
    """2x2 cells to one of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, 2 * whole_parts(width, 2) - width, 0, 2 * whole_parts(height, 2) - height))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # The four cells column by column, as the official weights expect them.
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Merging, except in the first stage, and blocks."""

    def __init__(self, dim: int, depth: int, window: int, merges: bool) -> None:
        super().__init__()
        self.downsample = PatchMerging(dim // 2) if merges else nn.Identity()
        shifts = [window // 2 if block % 2 else 0 for block in range(depth)]
        self.blocks = nn.Sequential(*(SwinBlock(dim, window, shift) for shift in shifts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) -> (B, h, w, C)."""
        return self.blocks(self.downsample(x))


class PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels to tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, C)."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """The trunk: no final norm and no classifier. Weights are random."""

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(size.width)
        for number, depth in enumerate(size.depths):
            stage = Stage(size.width * 2**number, depth, size.window, merges=number > 0)
            self.add_module(f"layers_{number}", stage)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, h, w, C) at strides 4, 8, 16 and 32."""
        x = self.patch_embed(images)
        maps = []
        for number in range(STAGES):
            x = self.get_submodule(f"layers_{number}")(x)
            maps.append(x)
        return maps


def to_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C), sides multiples of the window's -> (B * windows, side, side, C)."""
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return x.transpose(2, 3).contiguous().flatten(0, 2)


def relative_positions(window: int) -> Tensor:
    """(T, T) with T = window^2: the row of the bias table for each pair of a window's tokens, query first."""
    # In plain Python: on meta tensors this arithmetic would load torch's compiler, which takes a second.
    cells = list(product(range(window), repeat=2))
    side = 2 * window - 1
    return torch.tensor(
        [[(r - y + window - 1) * side + c - x + window - 1 for y, x in cells] for r, c in cells]
    )
