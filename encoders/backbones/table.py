"""Image backbones: our short names, and any timm model with maps at strides 4, 8, 16 and 32.

Weights are random; nothing is ever downloaded. timm is imported only when a model of it is needed: with
torch._dynamo, which it loads, that takes twice as long as counting a model.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.mvit import MVIT_T_CHANNELS, MViTTiny
from segmeter.encoders.backbones.mvit import NORM_EPS as MVIT_NORM_EPS
from segmeter.encoders.backbones.resnet import CHANNELS as RESNET_CHANNELS
from segmeter.encoders.backbones.resnet import ResNet
from segmeter.encoders.backbones.swin import Swin, SwinSize
from segmeter.encoders.interface import FEATURE_NAMES, FEATURE_STRIDES
from segmeter.words import unknown_backbone

SWIN_NORM_EPS = 1e-5
# Blocks of each stage.
R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
MAX_STRIDE = max(FEATURE_STRIDES.values())
# A size to try timm models on: unequal sides, no whole number of common windows or patch grids.
TRIAL_SIZE = (96, 160)


class Backbone(nn.Module):
    """A trunk that gives four maps, each with its own output LayerNorm if the design has one.

    Attributes:
        name: the name it was built by.
        channels: channels of ``res2`` to ``res5``.
    """

    def __init__(
        self,
        name: str,
        trunk: nn.Module,
        channels: Sequence[int],
        *,
        channels_last: bool = False,
        norm_eps: float | None = None,
        any_size: bool = False,
    ) -> None:
        """Wrap a trunk.

        Args:
            name: the name in messages.
            trunk: images (B, 3, H, W) -> four maps at strides 4, 8, 16 and 32.
            channels: channels of the four maps.
            channels_last: the trunk's maps are NHWC, not NCHW.
            norm_eps: epsilon of the output LayerNorms (NHWC trunks only); None for no norms.
            any_size: whether it takes sides that are no multiples of 32; maps are then rounded up.
        """
        super().__init__()
        self.any_size = any_size
        self.name = name
        self.channels = dict(zip(FEATURE_NAMES, channels, strict=True))
        self.channels_last = channels_last
        self.trunk = trunk
        self.norms = nn.ModuleDict()
        if norm_eps is not None:
            for level, width in self.channels.items():
                self.norms[level] = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps.

        Args:
            images: (B, 3, H, W), normalised, H and W multiples of 32 unless it takes any size.

        Returns:
            ``res2`` to ``res5``: (B, C, H / stride, W / stride) at strides 4, 8, 16 and 32.

        Raises:
            ValueError: the images have another shape.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {shape}")
        height, width = shape[2:]
        multiple = 1 if self.any_size else MAX_STRIDE
        if not height or not width or height % multiple or width % multiple:
            raise ValueError(f"image sides must be multiples of {MAX_STRIDE}, got {height}x{width}")
        features = {}
        for level, feature in zip(FEATURE_NAMES, self.trunk(images), strict=True):
            if level in self.norms:
                feature = self.norms[level](feature)
            if self.channels_last:
                feature = feature.permute(0, 3, 1, 2).contiguous()
            features[level] = feature
        return features


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and no parameters.

    Source: detectron2's ``layers/batch_norm.py``. It stays one ``batch_norm`` call, so that
    operator counters see it as such.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels, device=device, dtype=dtype))
        self.register_buffer("bias", torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W): (x - mean) / sqrt(var + eps) * weight + bias."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


class SpelledOutNorm2d(FrozenBatchNorm2d):
    """The same norm as a product and a sum, as DETR's descendants write it: to counters it is no norm."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def spell_out_norms(backbone: "Backbone") -> "Backbone":
    """The backbone with each frozen norm as a product and a sum."""
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            # Same weights, another way to run them.
            module.__class__ = SpelledOutNorm2d
    return backbone


def _resnet(
    name: str, depths: tuple[int, ...], deep: bool = False, norm: type[nn.Module] = FrozenBatchNorm2d
) -> Backbone:
    return Backbone(name, ResNet(depths, norm, deep), RESNET_CHANNELS, any_size=True)


def _swin(name: str, size: SwinSize) -> Backbone:
    channels = [size.width * 2**stage for stage in range(4)]
    return Backbone(name, Swin(size), channels, channels_last=True, norm_eps=SWIN_NORM_EPS)


def _convnext(name: str, timm_name: str) -> Backbone:
    import timm

    trunk: Any = timm.create_model(timm_name, pretrained=False, features_only=True)
    return Backbone(name, trunk, trunk.feature_info.channels())


def _mvit(name: str) -> Backbone:
    return Backbone(name, MViTTiny(), MVIT_T_CHANNELS, channels_last=True, norm_eps=MVIT_NORM_EPS)


@dataclass(frozen=True, kw_only=True)
class BackboneKind:
    """One row of the table: how to build a backbone, what it is, the queries its models use."""

    build: Callable[[str], Backbone]
    title: str
    summary: str
    num_queries: int = 100


BACKBONES: dict[str, BackboneKind] = {
    "r50": BackboneKind(
        build=partial(_resnet, depths=R50),
        title="R50",
        summary="ResNet-50, stride in the 3x3 convolutions, frozen batch norms",
    ),
    "r50-bn": BackboneKind(
        build=partial(_resnet, depths=R50, norm=nn.BatchNorm2d),
        title="R50-BN",
        summary="ResNet-50 as r50, with batch norms that are trained: their scales and shifts are parameters",
    ),
    "r50vd": BackboneKind(
        build=partial(_resnet, depths=R50, deep=True),
        title="R50-vd",
        summary="ResNet-50-vd: three 3x3 convolutions at the head, pooled shortcuts, frozen batch norms",
    ),
    "r101": BackboneKind(
        build=partial(_resnet, depths=R101),
        title="R101",
        summary="ResNet-101, stride in the 3x3 convolutions, frozen batch norms",
    ),
    "swin-t": BackboneKind(
        build=partial(_swin, size=SwinSize(96, (2, 2, 6, 2), 7)),
        title="Swin-T",
        summary="Swin, depths 2,2,6,2, width 96, window 7, one output norm per level",
    ),
    "swin-s": BackboneKind(
        build=partial(_swin, size=SwinSize(96, (2, 2, 18, 2), 7)),
        title="Swin-S",
        summary="Swin, depths 2,2,18,2, width 96, window 7, one output norm per level",
    ),
    "swin-b": BackboneKind(
        build=partial(_swin, size=SwinSize(128, (2, 2, 18, 2), 12)),
        title="Swin-B",
        summary="Swin, depths 2,2,18,2, width 128, window 12, one output norm per level",
    ),
    "swin-l": BackboneKind(
        build=partial(_swin, size=SwinSize(192, (2, 2, 18, 2), 12)),
        title="Swin-L",
        summary="Swin, depths 2,2,18,2, width 192, window 12, one output norm per level",
        num_queries=200,
    ),
    "convnext-l": BackboneKind(
        build=partial(_convnext, timm_name="convnext_large"),
        title="ConvNeXt-L",
        summary="ConvNeXt, depths 3,3,27,3, width 192; CLIP's image tower in FC-CLIP",
    ),
    "mvit-t": BackboneKind(
        build=_mvit,
        title="MViT-T",
        summary="detectron2's MViTv2-T with windowed attention (timm's mvitv2_tiny has no windows)",
    ),
}


def check_backbone(name: str) -> None:
    """Check that a backbone of this name exists. A short name is checked without timm.

    Raises:
        ValueError: neither a short name nor a timm model; the nearest names are given.
    """
    if name in BACKBONES:
        return
    import timm

    timm_names = timm.list_models()
    if name in timm_names:
        return
    raise ValueError(unknown_backbone(name, BACKBONES, timm_names))


def build_backbone(name: str) -> Backbone:
    """Build a backbone with random weights on the current default device, the meta device included.

    Args:
        name: a key of :data:`BACKBONES`, or the name of a timm model (without a weights tag) that
            has maps at strides 4, 8, 16 and 32. ``mvit-t`` is detectron2's MViTv2-T with windowed
            attention, which PRO-SCALE uses; timm's variant without windows is ``mvitv2_tiny``.

    Raises:
        ValueError: an unknown name, or a timm model with other strides.
    """
    check_backbone(name)
    if name in BACKBONES:
        return BACKBONES[name].build(name)
    return _timm_backbone(name)


def default_num_queries(name: str) -> int:
    """Queries of the Mask2Former models with this backbone: 200 for ``swin-l``, else 100."""
    return BACKBONES[name].num_queries if name in BACKBONES else 100


def _timm_backbone(name: str) -> Backbone:
    import timm

    with torch.device("meta"):
        whole: Any = timm.create_model(name, pretrained=False)
    strides = [info["reduction"] for info in getattr(whole, "feature_info", None) or ()]
    if not set(FEATURE_STRIDES.values()) <= set(strides):
        found = ", ".join(map(str, sorted(set(strides)))) or "none"
        raise ValueError(f"timm model {name!r} has feature maps at strides {found}; needed: 4, 8, 16 and 32")
    # A network may have several maps of one stride: take the deepest.
    deepest = {stride: index for index, stride in enumerate(strides)}
    levels = tuple(deepest[stride] for stride in FEATURE_STRIDES.values())
    options: dict[str, Any] = {"features_only": True, "out_indices": levels}
    if "strict_img_size" in inspect.signature(type(whole)).parameters:
        options["strict_img_size"] = False
    channels_last = getattr(whole, "output_fmt", "NCHW") == "NHWC"

    def build() -> Backbone:
        trunk: Any = timm.create_model(name, pretrained=False, **options)
        return Backbone(name, trunk, trunk.feature_info.channels(), channels_last=channels_last)

    with torch.device("meta"):
        _try_out(build())
    return build()


def _try_out(backbone: Backbone) -> None:
    """Run a timm model on the meta device: some take one image size only, some round their maps."""
    height, width = TRIAL_SIZE
    refusal = f"timm model {backbone.name!r} cannot take an image of {height}x{width}"
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.empty(1, 3, height, width, device="meta"))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{refusal}; any multiple of {MAX_STRIDE} is needed: {reason}") from error
    for level, stride in FEATURE_STRIDES.items():
        shape = (1, backbone.channels[level], height // stride, width // stride)
        if features[level].shape != shape:
            raise ValueError(f"{refusal}: its {level} is {tuple(features[level].shape)}, expected {shape}")
