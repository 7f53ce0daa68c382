"""SegFormer's head: four maps brought to one width and size, and classes from all of them together.

Source: SegFormer (arXiv 2105.15203). Two modules of one design: mmseg's and Segformer++'s
(``SegformerHead``), and NVlabs' first one, which differs in the projections, in the order of the maps and in
not resizing the map that has the size already.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormReLU(nn.Module):
    """1x1 convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        return F.relu(self.bn(self.conv(maps)))


class AllMlpHead(nn.Module):
    """mmseg's head.

    Args:
        dims: channels of the four maps.
        channels: the width that they are brought to.
        num_classes: classes.
    """

    def __init__(self, dims: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNormReLU(dim, channels) for dim in dims)
        self.fusion_conv = ConvNormReLU(4 * channels, channels)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {
            "convs": "projections",
            "fusion_conv": "fusion",
            "conv_seg": "classifier",
            "": "upsampling",
        }

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4 to 32 -> class logits (B, K, H/4, W/4)."""
        size = maps[0].shape[2:]
        levels = [_resize(conv(each), size) for conv, each in zip(self.convs, maps, strict=True)]
        return self.conv_seg(self.fusion_conv(torch.cat(levels, 1)))


class Projection(nn.Module):
    """A linear layer on every place of a map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        return self.proj(maps.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, maps.shape[2:])


class OfficialHead(nn.Module):
    """NVlabs' head; arguments as :class:`AllMlpHead`'s."""

    def __init__(self, dims: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear_c4 = Projection(dims[3], channels)
        self.linear_c3 = Projection(dims[2], channels)
        self.linear_c2 = Projection(dims[1], channels)
        self.linear_c1 = Projection(dims[0], channels)
        self.linear_fuse = ConvNormReLU(4 * channels, channels)
        self.linear_pred = nn.Conv2d(channels, num_classes, 1)

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {
            "linear_c?": "projections",
            "linear_fuse": "fusion",
            "linear_pred": "classifier",
            "": "upsampling",
        }

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4 to 32 -> class logits (B, K, H/4, W/4)."""
        size = maps[0].shape[2:]
        projections = (self.linear_c4, self.linear_c3, self.linear_c2)
        levels = [
            _resize(each(level), size) for each, level in zip(projections, reversed(maps[1:]), strict=True)
        ]
        return self.linear_pred(self.linear_fuse(torch.cat([*levels, self.linear_c1(maps[0])], 1)))


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
