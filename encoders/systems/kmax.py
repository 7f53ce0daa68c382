"""kMaX-DeepLab, which is also what ReMaX runs at inference: axial attention, and queries as cluster centres.

Source: kMaX-DeepLab (arXiv 2207.04044) and ReMaX, Relaxing for Better Training (arXiv 2306.17319), which adds
heads in training only; official PyTorch code bytedance/kmax-deeplab, ``kmax_deeplab/modeling``, with
``configs/coco/panoptic_segmentation/kmax_r50.yaml``, whose state-dict names and outputs the modules carry.
Its auxiliary semantic head, which is for training only, is not here.

Images may have any size; the authors' are 1281x1281 on COCO and 1025x2049 on Cityscapes, with corners aligned
in every resize of a map with an odd width.

Legend: B batch, Q queries, K classes, C channels, M heads.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.table import build_backbone
from segmeter.encoders.chain import Choice, Sizes, Stage, System
from segmeter.encoders.interface import EncoderOutput, check_features
from segmeter.encoders.options import Option
from segmeter.encoders.parts.axial import (
    EXPANSION,
    HEADS,
    NORM_EPS,
    Blocks,
    ConvBatchNorm,
    InputNorm,
    ResizedFuse,
    batch_norm,
    resize,
)
from segmeter.encoders.rules import WholeNumbers
from segmeter.encoders.segmenter.decoder import DecoderOutput
from segmeter.encoders.segmenter.postprocess import SegmentationOutput

QUERIES = 128
DIM = 256
FFN_DIM = 2048
# From coarse to fine: level, base width, whether its blocks attend along the axes.
PYRAMID = (("res5", 512, True), ("res4", 256, True), ("res3", 128, False), ("res2", 64, False))
BLOCKS = (1, 5, 1, 1)
LAYERS_PER_LEVEL = 2
MASK_DIM = 128
VOID_PRIOR = 0.9


class KmaxPixelDecoder(nn.Module):
    """Axial attention at strides 32 and 16, bottlenecks at 8 and 4, joined from coarse to fine.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
        blocks: at each level, from coarse to fine.
    """

    def __init__(self, in_channels: Mapping[str, int], blocks: tuple[int, ...] = BLOCKS) -> None:
        super().__init__()
        self.in_channels = dict(in_channels)
        self._in_norms = nn.ModuleList(InputNorm(in_channels[level]) for level, *_ in PYRAMID)
        self._stages = nn.ModuleList(
            Blocks(in_channels[level] if level == "res5" else width, width, count, axial)
            for (level, width, axial), count in zip(PYRAMID, blocks, strict=True)
        )
        self._resized_fuses = nn.ModuleList(
            ResizedFuse(EXPANSION * coarse[1], in_channels[fine[0]], fine[1])
            for coarse, fine in pairwise(PYRAMID)
        )

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res2`` to ``res5`` -> the map at stride 4 and those at strides 32, 16 and 8."""
        levels = [level for level, *_ in PYRAMID]
        check_features(features, self.in_channels, levels)
        normed = [norm(features[level]) for norm, level in zip(self._in_norms, levels, strict=True)]
        maps = [self._stages[0](normed[0])]
        for fuse, stage, fine in zip(self._resized_fuses, self._stages[1:], normed[1:], strict=True):
            maps.append(stage(fuse(maps[-1], fine)))
        return EncoderOutput(mask_features=maps[-1], multi_scale=maps[:-1])

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        block = "_stages.*._blocks.*"
        return {
            "_in_norms": "norms",
            f"{block}._attention.*.qkv_transform": "axial_attention.qkv",
            f"{block}._attention.*._batch_norm*": "norms",
            f"{block}._attention": "axial_attention.products",
            f"{block}.*.norm": "norms",
            f"{block}._conv2_bn_act": "blocks.conv3x3",
            block: "blocks.conv1x1",
            "_resized_fuses.*.*.norm": "norms",
            "_resized_fuses.*._conv*": "fusion",
            "": "upsampling",
        }


class Predictor(nn.Module):
    """Masks of queries over one map, and their classes."""

    def __init__(self, pixel_channels: int, num_classes: int) -> None:
        super().__init__()
        width = pixel_channels
        self._pixel_space_head_conv0bnact = ConvBatchNorm(width, width, 5, groups=width)
        self._pixel_space_head_conv1bnact = ConvBatchNorm(width, DIM)
        self._pixel_space_head_last_convbn = ConvBatchNorm(DIM, MASK_DIM, bias=True, activation=False)
        self._transformer_mask_head = ConvBatchNorm(DIM, MASK_DIM, axes=1, activation=False)
        self._transformer_class_head = ConvBatchNorm(
            DIM, num_classes + 1, axes=1, bias=True, norm=False, activation=False
        )
        self._pixel_space_mask_batch_norm = batch_norm(1)

    def forward(
        self, queries: Tensor, pixels: Tensor, class_queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Predict masks, and classes if there are embeddings for them.

        Args:
            queries: (B, C, Q) mask embeddings.
            pixels: (B, C, H, W).
            class_queries: (B, C, Q) class embeddings.

        Returns:
            Mask logits (B, Q, H, W), and class logits (B, Q, K + 1), the last of which is void, or None.
        """
        space = self._pixel_space_head_conv1bnact(self._pixel_space_head_conv0bnact(pixels))
        space = F.normalize(self._pixel_space_head_last_convbn(space), dim=1)
        masks = torch.einsum("bchw,bcn->bnhw", space, self._transformer_mask_head(queries))
        # One scale and shift for all masks.
        masks = self._pixel_space_mask_batch_norm(masks.flatten(1, 2)[:, None])[:, 0].unflatten(
            1, masks.shape[1:3]
        )
        if class_queries is None:
            return masks, None
        logits = self._transformer_class_head(class_queries).transpose(1, 2)
        towards_void = math.log((logits.shape[-1] - 1) * VOID_PRIOR / (1 - VOID_PRIOR))
        return masks, torch.cat((logits[..., :-1], logits[..., -1:] + towards_void), dim=-1)


class QueryAttention(nn.Module):
    """Self-attention among the queries with batch norms on scores and results."""

    def __init__(self, value_dim: int) -> None:
        super().__init__()
        self._batch_norm_similarity = batch_norm(HEADS)
        self._batch_norm_retrieved_value = batch_norm(value_dim, axes=1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, M, D, Q) three times -> (B, C, Q)."""
        logits = self._batch_norm_similarity(torch.einsum("bhdl,bhdm->bhlm", q, k))
        retrieved = torch.einsum("bhlm,bhdm->bhdl", logits.softmax(-1), v)
        return F.gelu(self._batch_norm_retrieved_value(retrieved.flatten(1, 2)))


class KmeansLayer(nn.Module):
    """Each pixel goes to the query whose mask claims it; queries become the sums of their pixels."""

    def __init__(self, pixel_channels: int, num_classes: int) -> None:
        super().__init__()
        key_dim = DIM // 2
        self.split = (key_dim, key_dim, DIM)
        self._query_conv1_bn_act = ConvBatchNorm(DIM, DIM, axes=1)
        self._pixel_conv1_bn_act = ConvBatchNorm(pixel_channels, DIM)
        self._query_qkv_conv_bn = ConvBatchNorm(DIM, sum(self.split), axes=1, activation=False)
        self._pixel_v_conv_bn = ConvBatchNorm(DIM, DIM, activation=False)
        self._query_self_attention = QueryAttention(DIM)
        self._query_conv3_bn = ConvBatchNorm(DIM, DIM, axes=1, activation=False)
        self._query_ffn_conv1_bn_act = ConvBatchNorm(DIM, FFN_DIM, axes=1)
        self._query_ffn_conv2_bn = ConvBatchNorm(FFN_DIM, DIM, axes=1, activation=False)
        # The official spelling. Its classes are for training.
        self._predcitor = Predictor(DIM, num_classes)
        self._kmeans_query_batch_norm_retrieved_value = batch_norm(DIM, axes=1)
        self._kmeans_query_conv3_bn = ConvBatchNorm(DIM, DIM, axes=1, activation=False)

    def forward(self, pixels: Tensor, queries: Tensor) -> Tensor:
        """(B, C_pixel, H, W) and queries (B, C, Q) -> queries (B, C, Q)."""
        pixel_space = self._pixel_conv1_bn_act(F.gelu(pixels))
        query_space = self._query_conv1_bn_act(queries)
        values = self._pixel_v_conv_bn(pixel_space).flatten(2)
        masks = self._predcitor(query_space, pixel_space)[0].flatten(2)
        assigned = torch.zeros_like(masks).scatter(1, masks.argmax(1, keepdim=True), 1.0)
        update = torch.einsum("blm,bdm->bdl", assigned, values)
        update = self._kmeans_query_batch_norm_retrieved_value(update)
        queries = queries + self._kmeans_query_conv3_bn(update)
        qkv = self._query_qkv_conv_bn(query_space).split(self.split, dim=1)
        attended = self._query_self_attention(*(each.unflatten(1, (HEADS, -1)) for each in qkv))
        queries = F.gelu(queries + self._query_conv3_bn(attended))
        hidden = self._query_ffn_conv2_bn(self._query_ffn_conv1_bn_act(queries))
        return F.gelu(queries + hidden)


class KmaxDecoder(nn.Module):
    """Two k-means layers on each of three levels, and a prediction at stride 4.

    Args:
        num_classes: K, without void.
        num_queries: Q.
    """

    def __init__(self, num_classes: int, num_queries: int) -> None:
        super().__init__()
        self._kmax_transformer_layers = nn.ModuleList(
            KmeansLayer(EXPANSION * width, num_classes)
            for _, width, _ in PYRAMID[:-1]
            for _ in range(LAYERS_PER_LEVEL)
        )
        self._cluster_centers = nn.Embedding(DIM, num_queries)
        self._class_embedding_projection = ConvBatchNorm(DIM, DIM, axes=1)
        self._mask_embedding_projection = ConvBatchNorm(DIM, DIM, axes=1)
        self._predcitor = Predictor(EXPANSION * PYRAMID[-1][1], num_classes)

    def forward(self, multi_scale: list[Tensor], mask_features: Tensor) -> DecoderOutput:
        """Three maps, low to high resolution, and the one at stride 4 -> classes and masks."""
        queries = self._cluster_centers.weight.expand(mask_features.shape[0], -1, -1)
        for index, layer in enumerate(self._kmax_transformer_layers):
            queries = layer(multi_scale[index // LAYERS_PER_LEVEL], queries)
        masks, classes = self._predcitor(
            self._mask_embedding_projection(queries),
            mask_features,
            self._class_embedding_projection(queries),
        )
        assert classes is not None  # asked for
        return DecoderOutput(class_logits=classes, mask_logits=masks)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        layer = "_kmax_transformer_layers.*"
        return {
            f"{layer}.*.norm": "norms",
            f"{layer}._predcitor.*.norm": "norms",
            f"{layer}._predcitor._pixel_space_mask_batch_norm": "norms",
            f"{layer}._query_self_attention._batch*": "norms",
            f"{layer}._kmeans_query_batch_norm_retrieved_value": "norms",
            f"{layer}._pixel*": "kmeans.pixels",
            f"{layer}._predcitor._pixel*": "kmeans.pixels",
            f"{layer}._predcitor": "kmeans.assignment",
            f"{layer}._query_self_attention": "self_attention",
            f"{layer}._query_qkv_conv_bn": "self_attention",
            f"{layer}._query_conv?_bn*": "self_attention",
            f"{layer}._query_ffn*": "ffn",
            f"{layer}._kmeans*": "kmeans.update",
            layer: "kmeans.update",
            "_predcitor.*.norm": "norms",
            "_predcitor._pixel_space_mask_batch_norm": "norms",
            "_predcitor._transformer_class_head": "class_prediction",
            "_predcitor": "mask_prediction",
            "_*_embedding_projection.norm": "norms",
            "_*_embedding_projection": "mask_prediction",
            "": "elementwise",
        }


class KmaxPostProcess(nn.Module):
    """Masks to the padded size, cut to the image and resized to the original size; no semantic map."""

    def forward(self, decoded: DecoderOutput, sizes: Sizes) -> SegmentationOutput:
        """Post-process one batch."""
        height, width = sizes.image
        corners = sizes.padded[1] % 2 == 1
        masks = resize(decoded.mask_logits, sizes.padded, corners)[..., :height, :width]
        masks = resize(masks, sizes.original, corners)
        return SegmentationOutput(semantic=None, masks=masks, class_logits=decoded.class_logits)


def kmax_backbone() -> nn.Module:
    """ResNet-50 whose trained norms have the epsilon of the authors' TensorFlow code."""
    backbone = build_backbone("r50-bn")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = NORM_EPS
    return backbone


def kmax_stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, axial pixel decoder, k-means decoder, post-processing."""
    blocks = choice.options["blocks"]

    def build_encoder(built: Mapping[str, nn.Module]) -> nn.Module:
        channels: Any = built["backbone"].channels
        return KmaxPixelDecoder(channels, blocks)

    return (
        Stage(
            name="backbone",
            key=("kmax backbone",),
            build=lambda built: kmax_backbone(),
            call=lambda backbone, images, sizes: backbone(images),
        ),
        Stage(
            name="encoder",
            key=("kmax encoder", blocks),
            build=build_encoder,
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
        ),
        Stage(
            name="decoder",
            key=("kmax decoder", choice.num_classes, choice.num_queries),
            build=lambda built: KmaxDecoder(choice.num_classes, choice.num_queries),
            call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale, encoded.mask_features),
        ),
        Stage(
            name="postprocess",
            key=("kmax post-processing",),
            build=lambda built: KmaxPostProcess(),
            call=lambda postprocess, decoded, sizes: postprocess(decoded, sizes),
            reads_sizes=True,
            full_precision=True,
        ),
    )


SYSTEM = System(
    name="kmax",
    title="kMaX",
    summary="axial attention at strides 32 and 16, queries as cluster centres; ReMaX at inference",
    source="kMaX-DeepLab, arXiv 2207.04044; ReMaX, arXiv 2306.17319",
    stages=kmax_stages,
    options=(
        Option(
            name="blocks",
            default=BLOCKS,
            check=WholeNumbers(1, 1000, "four whole numbers from 1 to 1000 such as 1,5,1,1", len(BLOCKS)),
            help="Blocks at strides 32, 16, 8 and 4.",
        ),
    ),
    backbones=("r50",),
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    size_divisor=1,
)
