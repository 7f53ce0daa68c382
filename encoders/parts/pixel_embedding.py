"""The stride-4 path of a pixel decoder: from res2 and the stride-8 tokens to the pixel embeddings.

One FPN step: a 1x1 convolution of res2 (``adapter_1``) plus the enlarged stride-8 map, smoothed
(``layer_1``), then a 1x1 convolution (``mask_features``). At stride 4 the smoothing decides the bill: a
3x3 convolution costs 77.3 GMACs at 1024x2048, PRO-SCALE's LPE almost nothing.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops import rows
from segmeter.encoders.options import Option
from segmeter.encoders.parts.layers import GROUPS, NORM_EPS, ConvNorm
from segmeter.encoders.parts.rowwise import GroupNorm, normed_
from segmeter.encoders.rules import OneOf

PIXEL_EMBEDDINGS = {
    "conv": "3x3 convolution, GroupNorm, ReLU (Mask2Former)",
    "lpe": "3x3 max-pool of stride 1, GroupNorm, ReLU (PRO-SCALE's light-weight pixel embedding)",
    "lpe-avg": "3x3 average pool of stride 1, GroupNorm, ReLU (the ablation of LPE)",
}
_TITLES = {"conv": "+ 3x3 conv", "lpe": "+ LPE", "lpe-avg": "+ LPE (average)"}
OPTION = Option(
    name="pixel_embedding",
    default="conv",
    check=OneOf(tuple(PIXEL_EMBEDDINGS)),
    help="The stride-4 path's smoothing.",
    choices=PIXEL_EMBEDDINGS,
    title=lambda value: _TITLES[value],
)


class ConvSmoothing(ConvNorm):
    """Mask2Former's ``layer_1``: 3x3 convolution without bias, GroupNorm, ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.normed(x, relu=True)


class PooledSmoothing(nn.Module):
    """LPE (PRO-SCALE, section 3.2): 3x3 pool of stride 1, GroupNorm, ReLU.

    Max-pooling pads with -inf. Average pooling divides by the number of pixels that lie in the map, so
    that a constant map stays constant up to its border.
    """

    def __init__(self, dim: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.norm = GroupNorm(GROUPS, dim, eps=NORM_EPS)

    def forward(self, x: Tensor, in_place: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); in place, of maps in the order of memory format channels last."""
        if in_place and self.pool == "max":
            for image in x:
                rows.max_pool_(rows.pixels(image))
            pooled = x
        elif self.pool == "max":
            pooled = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return normed_(pooled, self.norm, relu=True)


def smoothing(kind: str, dim: int) -> nn.Module:
    """Build ``layer_1`` of the kind named in :data:`PIXEL_EMBEDDINGS`."""
    if kind == "conv":
        return ConvSmoothing(dim)
    return PooledSmoothing(dim, "max" if kind == "lpe" else "avg")


def fuse(adapter: nn.Module, smoother: nn.Module, res2: Tensor, stride_8: Tensor) -> Tensor:
    """One FPN step: (B, C_in, H/4, W/4) and (B, C, H/8, W/8) -> (B, C, H/4, W/4)."""
    if isinstance(adapter, ConvNorm) and rows.by_rows(res2, adapter) and rows.serve(stride_8):
        return _fuse_in_place(adapter(res2), smoother, stride_8)
    lateral = adapter(_channels_last(res2))
    enlarged = F.interpolate(
        _channels_last(stride_8), size=lateral.shape[-2:], mode="bilinear", align_corners=False
    )
    if enlarged.dtype == lateral.dtype:
        # Into memory that nobody else sees: maps at stride 4 are the largest that there are.
        return smoother(enlarged.add_(lateral))
    return smoother(lateral + enlarged)


def _fuse_in_place(lateral: Tensor, smoother: nn.Module, stride_8: Tensor) -> Tensor:
    # Maps at stride 4 are the largest that there are: each further one costs as much as a matrix product.
    for image, other in zip(lateral, stride_8, strict=True):
        rows.add_enlarged_(rows.pixels(image), rows.pixels(other).contiguous())
    if isinstance(smoother, PooledSmoothing) and rows.by_rows(lateral, smoother):
        found: Tensor = smoother(lateral, in_place=True)
        return found
    return smoother(lateral)


def _channels_last(maps: Tensor) -> Tensor:
    """The same values, on a CPU with a pixel's channels side by side.

    There torch pools a map in that order four times as fast, and mixing both orders in a sum or a resize
    takes five times as long as either. Tokens are in it already, but as a part of all levels' tokens their
    batch has another stride, which resizing takes for the other order.
    """
    if maps.device.type != "cpu":
        return maps
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    return pixels.flatten(0, 2).unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)


def pixel_embedding_components(kind: str) -> dict[str, str]:
    """Component of each submodule of the stride-4 path."""
    return {
        "adapter_1": "pixel_embedding.lateral",
        "layer_1": f"pixel_embedding.{'conv3x3' if kind == 'conv' else 'lpe'}",
        "mask_features": "pixel_embedding.mask_features",
    }
