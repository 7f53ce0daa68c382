"""Swin trunks from timm, with the padding order of Mask2Former's Swin.

Importing this module imports timm; :mod:`encoders.backbones.table` does so only when a Swin is built.
"""

import timm
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn


class PadThenShiftBlock(SwinTransformerBlock):
    """A Swin block that pads before it shifts.

    Mask2Former's Swin takes the normalised map, zero-pads it at the right and bottom to whole
    windows, and then shifts it cyclically. timm shifts first and pads afterwards, which puts other
    tokens into the windows wherever a side is no multiple of the window.
    """

    def _attn(self, x: Tensor) -> Tensor:
        # On a map of whole windows timm's own padding does nothing, so only its shift remains, and
        # it makes the region mask for the padded map.
        height, width = x.shape[1:3]
        window_height, window_width = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % window_width, 0, -height % window_height))
        return super()._attn(padded)[:, :height, :width]


def swin_trunk(timm_name: str) -> nn.Module:
    """Build a Swin trunk with random weights.

    Args:
        timm_name: e.g. ``swin_tiny_patch4_window7_224``.

    Returns:
        A module from images (B, 3, H, W) to four maps (B, h, w, C), not normalised. There is no
        final norm and no classifier. Windows keep their size and odd blocks shift at any image
        size, also where a map is smaller than a window.
    """
    trunk: nn.Module = timm.create_model(
        timm_name,
        pretrained=False,
        features_only=True,
        strict_img_size=False,
        always_partition=True,
        drop_path_rate=0.0,
    )
    for module in trunk.modules():
        if isinstance(module, SwinTransformerBlock):
            # timm's stage names its block class itself, and the subclass differs in a method only.
            module.__class__ = PadThenShiftBlock
    return trunk
