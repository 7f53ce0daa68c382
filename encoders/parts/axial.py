"""Attention along one axis of a map at a time, and the blocks of kMaX-DeepLab's pixel decoder around it.

Source: Axial-DeepLab (arXiv 2003.07853); official code bytedance/kmax-deeplab,
``modeling/pixel_decoder/kmax_pixel_decoder.py``, whose state-dict names and outputs the modules carry.

Legend: B batch, C channels, L positions along one axis, H heads, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
MAX_SPAN = 255
NORM_EPS = 1e-3
INPUT_NORM_EPS = 1e-6
EXPANSION = 4


class ConvBatchNorm(nn.Module):
    """Convolution along one or two axes, then BatchNorm and GELU if asked for, under the official names."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        axes: int = 2,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        kind = nn.Conv2d if axes == 2 else nn.Conv1d
        self.conv = kind(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias
        )
        self.norm: nn.Module = batch_norm(out_channels, axes) if norm else nn.Identity()
        self.act: nn.Module = nn.GELU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, ...) -> (B, C_out, ...)."""
        return self.act(self.norm(self.conv(x)))


def batch_norm(channels: int, axes: int = 2) -> nn.Module:
    """A BatchNorm with the epsilon of the authors' TensorFlow code."""
    return (nn.BatchNorm2d if axes == 2 else nn.BatchNorm1d)(channels, eps=NORM_EPS)


class RelativePositions(nn.Module):
    """An embedding for each distance along one axis, for axes of up to 255 positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self._embeddings = nn.Embedding(2 * MAX_SPAN - 1, dim)

    def forward(self, length: int) -> Tensor:
        """(L, L, C)."""
        if length > MAX_SPAN:
            raise ValueError(f"kMaX attends along axes of up to {MAX_SPAN} positions, got {length}")
        at = torch.arange(length, device=self._embeddings.weight.device)
        return self._embeddings(at[None] - at[:, None] + MAX_SPAN - 1)


class AxialAttention(nn.Module):
    """Attention along one axis, by content and by relative positions of queries, keys and values."""

    def __init__(self, in_channels: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.key_dim, self.value_dim = key_dim, value_dim
        self.qkv_transform = ConvBatchNorm(
            in_channels, 2 * key_dim + value_dim, axes=1, norm=False, activation=False
        )
        self._query_rpe = RelativePositions(key_dim // HEADS)
        self._key_rpe = RelativePositions(key_dim // HEADS)
        self._value_rpe = RelativePositions(value_dim // HEADS)
        self._batch_norm_qkv = batch_norm(2 * key_dim + value_dim, axes=1)
        self._batch_norm_similarity = batch_norm(3 * HEADS)
        self._batch_norm_retrieved_output = batch_norm(2 * value_dim, axes=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, L) -> (B, C_value, L)."""
        length = x.shape[-1]
        qkv = self._batch_norm_qkv(self.qkv_transform(x))
        q, k, v = (
            each.unflatten(1, (HEADS, -1)) for each in qkv.split((self.key_dim,) * 2 + (self.value_dim,), 1)
        )
        similarity = torch.cat(
            (
                torch.einsum("bhdl,bhdm->bhlm", q, k),
                torch.einsum("bhdl,lmd->bhlm", q, self._query_rpe(length)),
                torch.einsum("bhdm,lmd->bhlm", k, self._key_rpe(length)),
            ),
            dim=1,
        )
        logits = self._batch_norm_similarity(similarity).unflatten(1, (3, HEADS)).sum(1)
        weights = logits.softmax(-1)
        retrieved = torch.cat(
            (
                torch.einsum("bhlm,bhdm->bhdl", weights, v),
                torch.einsum("bhlm,lmd->bhdl", weights, self._value_rpe(length)),
            ),
            dim=1,
        )
        normed = self._batch_norm_retrieved_output(retrieved.flatten(1, 2))
        return normed.unflatten(1, (2, self.value_dim)).sum(1)


class AxialAttention2d(nn.Module):
    """Attention along columns, then along rows."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self._height_axis = AxialAttention(in_channels, width, 2 * width)
        self._width_axis = AxialAttention(2 * width, width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        batch, _, height, width = x.shape
        columns = self._height_axis(x.permute(0, 3, 1, 2).flatten(0, 1)).unflatten(0, (batch, width))
        rows = columns.permute(0, 3, 2, 1).flatten(0, 1)
        return self._width_axis(rows).unflatten(0, (batch, height)).transpose(1, 2)


class Block(nn.Module):
    """1x1, axial attention or 3x3, 1x1, beside a shortcut; pre-activation."""

    def __init__(self, in_channels: int, width: int, axial: bool) -> None:
        super().__init__()
        inner = 2 * width if axial else width
        self._conv1_bn_act = ConvBatchNorm(in_channels, inner)
        if axial:
            self._attention = AxialAttention2d(inner, width)
        else:
            self._conv2_bn_act = ConvBatchNorm(width, width, 3)
        self.axial = axial
        self._conv3_bn = ConvBatchNorm(inner, EXPANSION * width, activation=False)
        same = in_channels == EXPANSION * width
        self._shortcut = None if same else ConvBatchNorm(in_channels, EXPANSION * width, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        x = F.gelu(x)
        shortcut = x if self._shortcut is None else self._shortcut(x)
        x = self._conv1_bn_act(x)
        x = F.gelu(self._attention(x)) if self.axial else self._conv2_bn_act(x)
        return self._conv3_bn(x) + shortcut


class Blocks(nn.Module):
    """Blocks one after another (``_blocks``)."""

    def __init__(self, in_channels: int, width: int, count: int, axial: bool) -> None:
        super().__init__()
        out = EXPANSION * width
        self._blocks = nn.ModuleList(
            Block(in_channels if index == 0 else out, width, axial) for index in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        for block in self._blocks:
            x = block(x)
        return x


class ResizedFuse(nn.Module):
    """A coarse map enlarged and a fine one, each at the same width, summed."""

    def __init__(self, low_channels: int, high_channels: int, out_channels: int) -> None:
        super().__init__()
        self._conv_bn_low = ConvBatchNorm(low_channels, out_channels, activation=False)
        same = high_channels == out_channels
        self._conv_bn_high = None if same else ConvBatchNorm(high_channels, out_channels, activation=False)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, C_low, h, w) and (B, C_high, H, W) -> (B, C, H, W)."""
        size = high.shape[-2:]
        enlarged = resize(self._conv_bn_low(F.gelu(low)), (size[0], size[1]))
        fine = high if self._conv_bn_high is None else self._conv_bn_high(F.gelu(high))
        return enlarged + fine


class InputNorm(nn.Module):
    """LayerNorm over the channels of a map, written out as the official code has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        centred = x - x.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + INPUT_NORM_EPS).sqrt()
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


def resize(maps: Tensor, size: tuple[int, int], corners: bool | None = None) -> Tensor:
    """Bilinear, with corners aligned as asked, or where the map's width is odd."""
    aligned = maps.shape[-1] % 2 == 1 if corners is None else corners
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=aligned)
