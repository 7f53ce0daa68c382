"""YOSO: a deformable pyramid summed into one map, and kernels that convolve among themselves.

Source: YOSO, You Only Segment Once (arXiv 2303.14651); official code hujiecpp/YOSO, ``projects/YOSO/yoso``,
whose state-dict names and outputs the modules carry.

Legend: B batch, N kernels (the queries), K classes, C channels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import FEATURE_NAMES, check_channels, check_features
from segmeter.encoders.naming import Naming, Shapes, layers_in
from segmeter.encoders.options import Option
from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.deformable_conv import DeformableUpsampling, deformable_components
from segmeter.encoders.parts.layers import NORM_EPS
from segmeter.encoders.rules import WholeNumber, YesOrNo
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskProduct
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage

DIM = 256
HEADS = 8
FFN_DIM = 2048
QUERIES = 100
SUM_CHANNELS = 128
# Taps of the dynamic convolutions along the channels.
TAPS = 3
TEMPERATURE = 0.05
MASK_THRESHOLD = 0.5


class DeformablePyramid(nn.Module):
    """Levels at half their channels, joined from coarse to fine, then all summed at stride 4 (``deconv``)."""

    def __init__(self, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        # From coarse to fine, as the official names count.
        channels = [in_channels[name] for name in reversed(FEATURE_NAMES)]
        halves = [width // 2 for width in channels]
        for index, (full, half) in enumerate(zip(channels, halves, strict=True)):
            self.add_module(f"lateral_conv{index}", nn.Conv2d(full, half, kernel_size=1))
            self.add_module(f"conv_a{5 - index}", nn.Conv2d(half, SUM_CHANNELS, kernel_size=1, bias=False))
        for index, (coarse, fine) in enumerate(pairwise(halves), start=1):
            self.add_module(f"deform_conv{index}", DeformableUpsampling(coarse, fine))
        self.output_conv = nn.Conv2d(SUM_CHANNELS, SUM_CHANNELS, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(1, SUM_CHANNELS, 1, 1))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """``res2`` to ``res5`` -> (B, 128, H/4, W/4)."""
        current = self.get_submodule("lateral_conv0")(features["res5"])
        levels = [current]
        for index, name in enumerate(("res4", "res3", "res2"), start=1):
            above = self.get_submodule(f"deform_conv{index}")(current)[1]
            current = self.get_submodule(f"lateral_conv{index}")(features[name]) + above
            levels.append(current)
        total = self.bias
        for index, level in enumerate(levels):
            narrow = self.get_submodule(f"conv_a{5 - index}")(level)
            factor = 2 ** (len(levels) - 1 - index)
            if factor > 1:
                narrow = F.interpolate(narrow, scale_factor=factor, mode="bilinear", align_corners=False)
            total = total + narrow
        return self.output_conv(total)


class YosoNeck(nn.Module):
    """The pyramid, two channels of coordinates, and a 1x1 convolution to the pixel embeddings.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
    """

    def __init__(self, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        check_channels(in_channels, FEATURE_NAMES)
        self.in_channels = dict(in_channels)
        self.deconv = DeformablePyramid(in_channels)
        self.loc_conv = nn.Conv2d(SUM_CHANNELS + 2, DIM, kernel_size=1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """``res2`` to ``res5`` -> pixel embeddings (B, C, H/4, W/4)."""
        check_features(features, self.in_channels, FEATURE_NAMES)
        summed = self.deconv(features)
        return self.loc_conv(torch.cat((summed, coordinates(summed)), dim=1))

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "deconv.lateral_conv?": "input_projection",
            **deformable_components("deconv.deform_conv?"),
            "deconv.conv_a?": "aggregation.projection",
            "deconv.output_conv": "aggregation.conv3x3",
            "deconv": "aggregation.upsampling",
            "loc_conv": "mask_features",
            "": "elementwise",
        }


def coordinates(feature_map: Tensor) -> Tensor:
    """x and y in [-1, 1] of every position, (B, 2, H, W)."""
    height, width = feature_map.shape[-2:]
    device, dtype = feature_map.device, feature_map.dtype
    x = torch.linspace(-1, 1, width, device=device, dtype=dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=device, dtype=dtype)[:, None].expand(height, width)
    return torch.stack((x, y)).expand(feature_map.shape[0], -1, -1, -1)


class DynamicConvolution(nn.Module):
    """Depthwise and pointwise 1-d convolution of values whose weights the queries make; no parameters."""

    def forward(self, values: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        """Convolve along the channels.

        Args:
            values: (B, N, C).
            depthwise: (B, N, taps), one kernel for each of N.
            pointwise: (B, N, N).

        Returns:
            (B, N, C).
        """
        batch, count, channels = values.shape
        # One group for each of B * N: the batch is convolved in one call.
        rows = values.reshape(1, batch * count, channels)
        kernels = depthwise.reshape(batch * count, 1, -1)
        mixed = F.conv1d(rows, kernels, padding=depthwise.shape[-1] // 2, groups=batch * count).relu()
        weights = pointwise.reshape(batch * count, count, 1)
        return F.conv1d(mixed, weights, groups=batch).view(batch, count, channels)


class DynamicConvAttention(nn.Module):
    """YOSO's separable dynamic convolution attention."""

    def __init__(self, num_queries: int) -> None:
        super().__init__()
        self.weight_linear = nn.Linear(DIM, num_queries + TAPS)
        self.norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.dynamic_convolution = DynamicConvolution()

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """(B, N, C) and (B, N, C) -> (B, N, C)."""
        weights = self.weight_linear(queries)
        mixed = self.dynamic_convolution(values, weights[..., :TAPS], weights[..., TAPS:])
        return self.norm(mixed)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them, added to the input; ``layers.0.0`` and ``layers.1``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(DIM, FFN_DIM), nn.ReLU()), nn.Linear(FFN_DIM, DIM)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return x + self.layers(x)


def fully_connected(count: int) -> nn.ModuleList:
    """``count`` times linear without bias, LayerNorm, ReLU, in one list, as officially."""
    return nn.ModuleList(
        module
        for _ in range(count)
        for module in (nn.Linear(DIM, DIM, bias=False), nn.LayerNorm(DIM, eps=NORM_EPS), nn.ReLU())
    )


class MaskPooling(nn.Module):
    """The sum of the pixel embeddings under each mask; no parameters."""

    def forward(self, mask_logits: Tensor, features: Tensor) -> Tensor:
        """(B, N, h, w) and (B, C, h, w) -> (B, N, C)."""
        inside = (mask_logits.sigmoid() > MASK_THRESHOLD).to(features.dtype)
        return torch.einsum("bnhw,bchw->bnc", inside, features)


class KernelHead(nn.Module):
    """One stage: kernels look at what their masks hold, then at each other, and predict new masks.

    Args:
        num_classes: K, without "no object".
        num_queries: N.
        fcs: linear layers before each of the two predictions.
    """

    def __init__(self, num_classes: int, num_queries: int, fcs: int) -> None:
        super().__init__()
        self.mask_pooling = MaskPooling()
        self.f_atten = DynamicConvAttention(num_queries)
        self.f_atten_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.k_atten = DynamicConvAttention(num_queries)
        self.k_atten_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.s_atten = Attention(DIM, HEADS)
        self.s_atten_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.ffn = FeedForward()
        self.ffn_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.cls_fcs = fully_connected(fcs)
        self.fc_cls = nn.Linear(DIM, num_classes + 1)
        self.mask_fcs = fully_connected(fcs)
        self.fc_mask = nn.Linear(DIM, DIM)
        self.mask_product = MaskProduct()

    def forward(
        self, features: Tensor, kernels: Tensor, mask_logits: Tensor, classify: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Refine the kernels.

        Args:
            features: (B, C, h, w) pixel embeddings.
            kernels: (B, N, C).
            mask_logits: (B, N, h, w).
            classify: whether to predict classes, too.

        Returns:
            Class logits (B, N, K + 1) or None, mask logits (B, N, h, w), kernels (B, N, C).
        """
        pooled = self.mask_pooling(mask_logits, features)
        pooled = self.f_atten_norm(pooled + self.f_atten(kernels, pooled))
        kernels = self.k_atten_norm(pooled + self.k_atten(kernels, pooled))
        kernels = self.s_atten_norm(kernels + self.s_atten(kernels, kernels, kernels))
        kernels = self.ffn_norm(self.ffn(kernels))
        classes = None
        if classify:
            class_features = kernels
            for layer in self.cls_fcs:
                class_features = layer(class_features)
            classes = self.fc_cls(class_features)
        mask_features = kernels
        for layer in self.mask_fcs:
            mask_features = layer(mask_features)
        return classes, self.mask_product(self.fc_mask(mask_features), features), kernels


class YosoHead(nn.Module):
    """First masks by a convolution with the learned kernels, then stages that refine both.

    Classes are predicted in the last stage alone, as in the official code at inference.
    """

    def __init__(self, num_classes: int, num_queries: int, stages: int, fcs: int) -> None:
        super().__init__()
        self.kernels = nn.Conv2d(DIM, num_queries, kernel_size=1)
        self.mask_heads = nn.ModuleList(KernelHead(num_classes, num_queries, fcs) for _ in range(stages))

    def forward(self, features: Tensor) -> DecoderOutput:
        """Pixel embeddings (B, C, h, w) -> classes and masks."""
        masks = self.kernels(features)
        kernels = self.kernels.weight.flatten(1).expand(features.shape[0], -1, -1)
        classes = None
        for index, head in enumerate(self.mask_heads, start=1):
            classes, masks, kernels = head(features, kernels, masks, index == len(self.mask_heads))
        assert classes is not None  # there is at least one stage
        return DecoderOutput(class_logits=classes / TEMPERATURE, mask_logits=masks)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {"kernels": "first_masks", **head_components("mask_heads.*"), "": "elementwise"}


def head_components(head: str) -> dict[str, str]:
    """Components of the submodules of a :class:`KernelHead` at the path pattern ``head``."""
    return {
        f"{head}.?_atten.dynamic_convolution": "dynamic_convolution",
        f"{head}.?_atten.norm": "norms",
        f"{head}.?_atten_norm": "norms",
        f"{head}.ffn_norm": "norms",
        f"{head}.s_atten": "self_attention",
        f"{head}.?_atten": "dynamic_weights",
        f"{head}.ffn": "ffn",
        f"{head}.mask_pooling": "mask_pooling",
        f"{head}.cls_fcs": "class_prediction",
        f"{head}.fc_cls": "class_prediction",
        f"{head}.mask_fcs": "mask_prediction.embedding",
        f"{head}.fc_mask": "mask_prediction.embedding",
        f"{head}.mask_product": "mask_prediction.product",
    }


def neck_stage(backbone: str) -> Stage:
    """``res2`` to ``res5`` -> pixel embeddings at stride 4."""
    return Stage(
        name="encoder",
        key=("yoso neck", backbone),
        build=lambda built: YosoNeck(built["backbone"].channels),  # type: ignore[arg-type]
        call=lambda neck, features, sizes: neck(features),
        needs=("backbone",),
    )


def yoso_stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, neck, kernel head, post-processing."""
    stages, fcs = choice.options["stages"], choice.options["fcs"]
    return (
        backbone_stage(choice.backbone),
        neck_stage(choice.backbone),
        Stage(
            name="decoder",
            key=("yoso head", stages, fcs, choice.num_classes, choice.num_queries),
            build=lambda built: YosoHead(choice.num_classes, choice.num_queries, stages, fcs),
            call=lambda head, features, sizes: head(features),
        ),
        postprocess_stage(choice.num_classes, choice.options["semantic"]),
    )


SEMANTIC = Option(
    name="semantic",
    default=False,
    check=YesOrNo(),
    help="Whether a semantic map is made as well; the official configurations have it off.",
)


def _options(shapes: Shapes) -> dict[str, int]:
    stages = layers_in(shapes, "decoder.mask_heads")
    # Linear, norm and activation stand in one list; the last has no weights.
    fcs = layers_in(shapes, "decoder.mask_heads.0.mask_fcs") // 2
    return {"stages": stages, "fcs": fcs} if stages else {}


SYSTEM = System(
    name="yoso",
    title="YOSO",
    summary="deformable pyramid summed at stride 4; kernels refined by dynamic convolutions",
    source="YOSO, arXiv 2303.14651",
    stages=yoso_stages,
    options=(
        Option(name="stages", default=2, check=WholeNumber(1, 1000), help="Stages of the head."),
        Option(
            name="fcs",
            default=1,
            check=WholeNumber(0, 1000),
            help="Linear layers before each prediction: 1 on COCO, 3 on Cityscapes.",
        ),
        SEMANTIC,
    ),
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    naming=Naming(
        sign=r"yoso_head\.mask_heads\..*",
        base="detectron2",
        rules=((r"yoso_neck\.(.*)", r"encoder.\1"), (r"yoso_head\.(.*)", r"decoder.\1")),
        ignored=(r"yoso_head\.criterion\..*",),
        options=_options,
        classes="decoder.mask_heads.0.fc_cls.weight",
        no_object=True,
        queries="decoder.kernels.weight",
    ),
)
