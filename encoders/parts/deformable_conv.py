"""Modulated deformable convolution, and the block that PEM, YOSO and RAP-SAM climb their pyramids with.

Source: Deformable ConvNets v2 (arXiv 1811.11168); the block is CenterNet's (arXiv 1904.07850), as YOSO's
``projects/YOSO/yoso/neck.py`` and PEM's ``pixel_decoder/pem_pixel_decoder.py`` have it, whose state-dict
names and outputs it carries. The convolution is torchvision's operator.

Legend: B batch, P positions of a 3x3 kernel.
"""

import math

import torch
from torch import Tensor, nn

KERNEL = 3
POSITIONS = KERNEL * KERNEL
UP_KERNEL = 4


class ModulatedDeformConv(nn.Module):
    """A 3x3 convolution without bias whose nine taps are moved and weighted, position by position."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, KERNEL, KERNEL))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, offsets: Tensor, modulation: Tensor) -> Tensor:
        """Convolve at moved places.

        Args:
            x: (B, C_in, H, W).
            offsets: (B, 2P, H, W) in pixels, (y, x) for each tap in turn.
            modulation: (B, P, H, W), each tap's factor in [0, 1].

        Returns:
            (B, C_out, H, W).
        """
        # Imported where it is needed: it takes half a second.
        from torchvision.ops import deform_conv2d

        # Under autocast its four tensors may come in two precisions; the operator takes one.
        offsets, modulation, weight = (each.to(x.dtype) for each in (offsets, modulation, self.weight))
        moved: Tensor = deform_conv2d(x, offsets, weight, padding=KERNEL // 2, mask=modulation)
        return moved


class DeformableUpsampling(nn.Module):
    """Modulated deformable convolution, then a transposed one that doubles the sides; BatchNorm and ReLU.

    Args:
        in_channels: of the input.
        out_channels: of both outputs.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.dcn_offset = nn.Conv2d(in_channels, 3 * POSITIONS, KERNEL, padding=KERNEL // 2)
        self.dcn = ModulatedDeformConv(in_channels, out_channels)
        self.dcn_bn = nn.BatchNorm2d(out_channels)
        self.up_sample = nn.ConvTranspose2d(
            out_channels, out_channels, UP_KERNEL, stride=2, padding=1, bias=False
        )
        self.up_bn = nn.BatchNorm2d(out_channels)
        for parameter in self.dcn_offset.parameters():
            nn.init.zeros_(parameter)
        self._start_bilinear()

    def _start_bilinear(self) -> None:
        """The official start: the first input channel of each output holds a bilinear kernel."""
        half = math.ceil(UP_KERNEL / 2)
        centre = (2 * half - 1 - half % 2) / (2 * half)
        profile = 1 - (torch.arange(UP_KERNEL, dtype=torch.float32) / half - centre).abs()
        with torch.no_grad():
            self.up_sample.weight[:, 0] = profile[:, None] * profile

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_in, H, W) -> the map before it is enlarged, (B, C, H, W), and after, (B, C, 2H, 2W)."""
        first, second, modulation = self.dcn_offset(x).chunk(3, dim=1)
        # The official code cuts the offsets in two halves and joins them again: the order stays.
        offsets = torch.cat((first, second), dim=1)
        deformed = self.dcn_bn(self.dcn(x, offsets, modulation.sigmoid())).relu()
        return deformed, self.up_bn(self.up_sample(deformed)).relu()


def deformable_components(block: str) -> dict[str, str]:
    """Components of the submodules of a block at the path pattern ``block``."""
    return {
        f"{block}.dcn_offset": "deformable_upsampling.offsets",
        f"{block}.dcn": "deformable_upsampling.deformable_conv",
        f"{block}.up_sample": "deformable_upsampling.transposed_conv",
        f"{block}.*_bn": "deformable_upsampling.norms",
        block: "deformable_upsampling.elementwise",
    }
