"""PEM: a narrow deformable pyramid, and queries that each pick the one most similar token.

Source: PEM, Prototype-based Efficient MaskFormer (arXiv 2402.19422); official code
NiccoloCavagnero/PEM, ``pem/modeling/pixel_decoder/`` and ``pem/modeling/transformer_decoder/``, whose
state-dict names and outputs the modules carry.

Legend: B batch, Q queries, K classes, T tokens of one level, C channels of the queries, D of the pyramid,
M heads.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import FEATURE_NAMES, EncoderOutput, check_channels, check_features
from segmeter.encoders.naming import Naming, Shapes, layers_in
from segmeter.encoders.options import Option
from segmeter.encoders.parts.deformable_conv import DeformableUpsampling, deformable_components
from segmeter.encoders.parts.layers import NORM_EPS, sine_position_code
from segmeter.encoders.rules import WholeNumber
from segmeter.encoders.segmenter.decoder import (
    NUM_LEVELS,
    DecoderOutput,
    FeedForwardLayer,
    MaskEmbedding,
    MaskProduct,
    SelfAttentionLayer,
)
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage

DIM = 256
HEADS = 8
FFN_DIM = 2048
QUERIES = 100
MAX_LAYERS = 1000


class ConvBatchNormReLU(nn.Module):
    """1x1 convolution without bias, BatchNorm, ReLU, under the official names."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.bn(self.conv(x)).relu()


class BottleneckGate(nn.Module):
    """C to C/2 to C, under the official names (``mlp``)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, dim // 2, kernel_size=1, bias=False),
            nn.BatchNorm2d(dim // 2),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, kernel_size=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, 1) -> (B, C, 1, 1)."""
        return self.mlp(x)


class ContextModulation(nn.Module):
    """PEM's CSM: channels are amplified by a gate on their global mean.

    The official code applies the sigmoid twice, so the gate lies between 0.5 and 0.73.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(BottleneckGate(dim), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)."""
        return x + x * self.mlp(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class PemPixelDecoder(nn.Module):
    """Levels projected to D channels, modulated by their context, and joined from coarse to fine.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
        width: D.
    """

    def __init__(self, in_channels: Mapping[str, int], width: int) -> None:
        super().__init__()
        check_channels(in_channels, FEATURE_NAMES)
        self.in_channels = dict(in_channels)
        self.in_projections = nn.ModuleList(
            ConvBatchNormReLU(in_channels[name], width) for name in FEATURE_NAMES
        )
        self.conv_avg = ConvBatchNormReLU(in_channels["res5"], width)
        self.csm = nn.ModuleList(ContextModulation(width) for _ in FEATURE_NAMES)
        self.dcn = nn.ModuleList(DeformableUpsampling(width, width) for _ in range(NUM_LEVELS))
        self.out = ConvBatchNormReLU(width, DIM)

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res2`` to ``res5`` -> pixel embeddings at stride 4; maps (B, D, h, w) at strides 32, 16, 8."""
        check_features(features, self.in_channels, FEATURE_NAMES)
        projected = [
            project(features[name]) for project, name in zip(self.in_projections, FEATURE_NAMES, strict=True)
        ]
        above = self.conv_avg(features["res5"].mean(dim=(2, 3), keepdim=True))
        maps = []
        # From coarse to fine: the official modulations and blocks are in this order, the projections not.
        for modulate, enlarge, level in zip(self.csm, self.dcn, reversed(projected), strict=False):
            current, above = enlarge(modulate(level) + above)
            maps.append(current)
        finest = self.csm[-1](projected[0]) + above
        return EncoderOutput(mask_features=self.out(finest), multi_scale=maps)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "in_projections": "input_projection",
            "conv_avg": "context",
            "csm": "context",
            **deformable_components("dcn.*"),
            "out": "mask_features",
            "": "elementwise",
        }


class LocalRepresentation(nn.Module):
    """A level's map to tokens: BatchNorm, depthwise 3x3, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_query_3x3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.bn = nn.BatchNorm2d(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H*W, C)."""
        return self.out(self.to_query_3x3(self.bn(x)).flatten(2).transpose(1, 2))


class PrototypeAttention(nn.Module):
    """PEM's cross-attention: each head of a query takes its most similar token inside the query's mask."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.feature_proj = LocalRepresentation(dim)
        self.query_proj = nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, dim))
        self.proj = nn.Linear(dim, dim)
        self.final = nn.Linear(dim, dim)
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(
        self, queries: Tensor, query_position: Tensor, level: Tensor, position: Tensor, masks: Tensor
    ) -> Tensor:
        """Update the queries from one level.

        Args:
            queries: (B, Q, C).
            query_position: (1, Q, C).
            level: (B, C, H, W), level embedding included.
            position: (1, C, H, W).
            masks: (B, Q, H, W) mask logits; a token is seen where they are not negative.

        Returns:
            (B, Q, C).
        """
        tokens = F.normalize(self.feature_proj(level + position), dim=-1)
        asking = F.normalize(self.query_proj(queries + query_position), dim=-1)
        picked = self._most_similar(tokens, asking, masks)
        # As in the official code, the norm is over the queries, not over the channels.
        mixed = F.normalize(self.proj(picked * asking), dim=1) * self.alpha + picked
        return self.final(mixed) + queries

    def _most_similar(self, tokens: Tensor, queries: Tensor, masks: Tensor) -> Tensor:
        """(B, T, C) and (B, Q, C) -> the picked tokens, (B, Q, C)."""
        by_head = tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
        asking = queries.unflatten(2, (self.heads, -1)).transpose(1, 2)
        similarity = torch.einsum("bmtc,bmqc->bmtq", by_head, asking)
        hidden = (masks.flatten(2).transpose(1, 2) < 0)[:, None]
        # Where no query sees anything, all see everything; one alone that sees nothing takes token 0.
        nobody_sees = hidden.all(dim=2, keepdim=True).all(dim=3, keepdim=True)
        similarity = similarity.masked_fill(hidden & ~nobody_sees, float("-inf"))
        winners = similarity.argmax(dim=2)[..., None].expand(-1, -1, -1, by_head.shape[-1])
        return by_head.gather(2, winners).transpose(1, 2).flatten(2)


class PemDecoder(nn.Module):
    """Mask2Former's decoder with prototype attention in the place of masked attention.

    Args:
        num_classes: K, without "no object".
        num_queries: Q.
        layers: decoder layers; 6 is ``DEC_LAYERS: 7`` in the official configurations.
        width: channels D of the pixel decoder's maps.
    """

    def __init__(self, num_classes: int, num_queries: int, layers: int, width: int) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(DIM, HEADS) for _ in range(layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            PrototypeAttention(DIM, HEADS) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(DIM, FFN_DIM) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.query_feat = nn.Embedding(num_queries, DIM)
        self.query_embed = nn.Embedding(num_queries, DIM)
        self.level_embed = nn.Embedding(NUM_LEVELS, DIM)
        self.input_proj = nn.ModuleList(
            nn.Conv2d(width, DIM, kernel_size=1) if width != DIM else nn.Identity() for _ in range(NUM_LEVELS)
        )
        self.class_embed = nn.Linear(DIM, num_classes + 1)
        self.mask_embed = MaskEmbedding(DIM, DIM)
        self.mask_product = MaskProduct()

    def forward(self, multi_scale: list[Tensor], mask_features: Tensor) -> DecoderOutput:
        """Three maps (B, D, h, w), low to high resolution, and pixel embeddings -> classes and masks."""
        levels = [
            project(level) + embedding[:, None, None]
            for project, level, embedding in zip(
                self.input_proj, multi_scale, self.level_embed.weight, strict=True
            )
        ]
        positions = [position_map(level) for level in levels]
        query_position = self.query_embed.weight[None]
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        normed, masks = self._predict_masks(queries, mask_features)
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level, position = levels[index % NUM_LEVELS], positions[index % NUM_LEVELS]
            seen = F.interpolate(masks, size=level.shape[-2:], mode="bilinear", align_corners=False)
            queries = cross_attention(queries, query_position, level, position, seen)
            queries = feed_forward(self_attention(queries, query_position))
            normed, masks = self._predict_masks(queries, mask_features)
        return DecoderOutput(class_logits=self.class_embed(normed), mask_logits=masks)

    def _predict_masks(self, queries: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.decoder_norm(queries)
        return normed, self.mask_product(self.mask_embed(normed), mask_features)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        cross = "transformer_cross_attention_layers.*"
        return {
            "input_proj": "input_projection",
            f"{cross}.feature_proj.bn": "norms",
            f"{cross}.feature_proj": "prototype_attention.tokens",
            f"{cross}.query_proj.0": "norms",
            cross: "prototype_attention",
            "transformer_self_attention_layers.*.norm": "norms",
            "transformer_ffn_layers.*.norm": "norms",
            "decoder_norm": "norms",
            "transformer_self_attention_layers": "self_attention",
            "transformer_ffn_layers": "ffn",
            "mask_embed": "mask_prediction.embedding",
            "mask_product": "mask_prediction.product",
            "class_embed": "class_prediction",
            # Level embeddings, position codes, masks made smaller.
            "": "attention_mask",
        }


def position_map(level: Tensor) -> Tensor:
    """The position code (1, C, H, W) of a map (B, C, H, W)."""
    height, width = level.shape[-2:]
    return sine_position_code(height, width, DIM, device=level.device, dtype=level.dtype)[None]


def pem_stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, deformable pyramid, prototype decoder, post-processing."""
    width, layers = choice.options["width"], choice.options["decoder_layers"]
    return (
        backbone_stage(choice.backbone),
        Stage(
            name="encoder",
            key=("pem encoder", choice.backbone, width),
            build=lambda built: PemPixelDecoder(built["backbone"].channels, width),  # type: ignore[arg-type]
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
        ),
        Stage(
            name="decoder",
            key=("pem decoder", width, layers, choice.num_classes, choice.num_queries),
            build=lambda built: PemDecoder(choice.num_classes, choice.num_queries, layers, width),
            call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale, encoded.mask_features),
        ),
        postprocess_stage(choice.num_classes),
    )


def _options(shapes: Shapes) -> dict[str, int]:
    layers = layers_in(shapes, "decoder.transformer_ffn_layers")
    found = {"decoder_layers": layers} if layers else {}
    width = shapes.get("encoder.out.conv.weight", ())[1:2]
    return {**found, "width": width[0]} if width else found


SYSTEM = System(
    name="pem",
    title="PEM",
    summary="deformable convolutions over 128 channels; queries pick their most similar tokens",
    source="PEM, arXiv 2402.19422",
    stages=pem_stages,
    options=(
        Option(name="decoder_layers", default=6, check=WholeNumber(1, MAX_LAYERS), help="Decoder layers."),
        Option(name="width", default=128, check=WholeNumber(2, 4096), help="Channels of the pixel decoder."),
    ),
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    naming=Naming(
        sign=r"sem_seg_head\.pixel_decoder\.in_projections\..*",
        base="detectron2",
        rules=(),
        options=_options,
        classes="decoder.class_embed.weight",
        no_object=True,
        widths=("width",),
        queries="decoder.query_feat.weight",
    ),
)
