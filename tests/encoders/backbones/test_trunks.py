"""ResNet and Swin are written out: they must be timm's to the last bit, but for Mask2Former's padding."""

import pytest
import timm
import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.table import FrozenBatchNorm2d, build_backbone

RESNETS = {"r50": "resnet50", "r50vd": "resnet50d"}


def with_spread_norms(trunk: nn.Module) -> nn.Module:
    """Norms as of a trained net: fresh ones do nothing, and would hide one that is left out."""
    generator = torch.Generator().manual_seed(0)
    for name, entry in trunk.state_dict().items():
        if entry.dim() == 1:
            entry.copy_(torch.rand(entry.shape, generator=generator) * (0.5 if "bias" in name else 1.0) + 0.5)
    return trunk.eval()


def maps_of(trunk: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(trunk(images))


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_is_timms(name: str) -> None:
    theirs = timm.create_model(
        RESNETS[name], features_only=True, out_indices=(1, 2, 3, 4), norm_layer=FrozenBatchNorm2d
    )
    with_spread_norms(theirs)
    ours = build_backbone(name).eval().trunk
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 70, 96)
    for mine, other in zip(maps_of(ours, images), maps_of(theirs, images), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("name", "theirs", "side"),
    [("swin-t", "swin_tiny_patch4_window7_224", 224), ("swin-b", "swin_base_patch4_window12_384", 384)],
)
def test_swin_is_timms_where_nothing_is_padded(name: str, theirs: str, side: int) -> None:
    # At this size every map is made of whole windows; at others Mask2Former pads before it shifts.
    other = timm.create_model(theirs, features_only=True, always_partition=True, strict_img_size=False)
    with_spread_norms(other)
    ours = build_backbone(name).eval().trunk
    ours.load_state_dict(other.state_dict())
    images = torch.randn(1, 3, side, side)
    for mine, expected in zip(maps_of(ours, images), maps_of(other, images), strict=True):
        assert torch.equal(mine, expected)
