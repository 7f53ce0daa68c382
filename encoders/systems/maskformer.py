"""MaskFormer: an FPN pixel decoder, and queries that attend to the stride-32 tokens alone.

Source: MaskFormer (arXiv 2107.06278); official code facebookresearch/MaskFormer,
``modeling/heads/pixel_decoder.py`` and ``modeling/transformer/``, whose state-dict names and outputs the
modules carry. With a ResNet, six plain transformer layers run on the stride-32 tokens before the FPN
(``TransformerEncoderPixelDecoder``); with a Swin there are none (``BasePixelDecoder``), and the decoder
projects ``res5`` itself.

Legend: B batch, Q queries, K classes, T tokens at stride 32, C channels, N decoder layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import FEATURE_NAMES, EncoderOutput, check_channels, check_features
from segmeter.encoders.naming import Naming, Shapes, layers_in
from segmeter.encoders.options import Option
from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS, ConvNorm, sine_position_code, to_tokens
from segmeter.encoders.parts.transformer import TransformerLayer
from segmeter.encoders.rules import NoneOr, WholeNumber
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskEmbedding
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage

DIM = 256
HEADS = 8
FFN_DIM = 2048
MAX_LAYERS = 1000
QUERIES = 100
# The official configurations: with these backbones the tokens pass through a transformer before the FPN.
LAYERS_OF_RESNETS = 6


class TokenLayers(nn.Module):
    """Layers one after another; ``layers`` is the official name."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(DIM, HEADS, FFN_DIM) for _ in range(count))

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens


class TokenTransformer(nn.Module):
    """Position code and encoder layers over one map (``transformer`` officially)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.encoder = TokenLayers(layers)

    def forward(self, stride_32: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = self.encoder(to_tokens(stride_32), position_tokens(stride_32))
        return tokens.transpose(1, 2).unflatten(2, stride_32.shape[-2:])


class FpnPixelDecoder(nn.Module):
    """An FPN from stride 32 to stride 4, behind a token transformer if it has layers.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
        layers: transformer layers on the stride-32 tokens; 0 for none.
    """

    def __init__(self, in_channels: Mapping[str, int], layers: int) -> None:
        super().__init__()
        check_channels(in_channels, FEATURE_NAMES)
        self.in_channels = dict(in_channels)
        coarse = in_channels["res5"]
        self.input_proj = nn.Conv2d(coarse, DIM, kernel_size=1) if layers else None
        self.transformer = TokenTransformer(layers) if layers else None
        self.layer_4 = ConvNorm(DIM if layers else coarse, DIM, kernel_size=3)
        for index, name in enumerate(FEATURE_NAMES[:3], start=1):
            self.add_module(f"adapter_{index}", ConvNorm(in_channels[name], DIM, kernel_size=1))
            self.add_module(f"layer_{index}", ConvNorm(DIM, DIM, kernel_size=3))
        self.mask_features = nn.Conv2d(DIM, DIM, kernel_size=3, padding=1)

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res2`` to ``res5`` -> pixel embeddings at stride 4; the one map that the queries see."""
        check_features(features, self.in_channels, FEATURE_NAMES)
        coarse = features["res5"]
        if self.input_proj is not None and self.transformer is not None:
            coarse = self.transformer(self.input_proj(coarse))
        embedded = F.relu(self.layer_4(coarse))
        for index in (3, 2, 1):
            lateral = self.get_submodule(f"adapter_{index}")(features[FEATURE_NAMES[index - 1]])
            enlarged = F.interpolate(embedded, size=lateral.shape[-2:], mode="nearest")
            embedded = F.relu(self.get_submodule(f"layer_{index}")(lateral + enlarged))
        return EncoderOutput(mask_features=self.mask_features(embedded), multi_scale=[coarse])

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "input_proj": "input_projection",
            "transformer.encoder.layers.*.self_attn": "transformer.attention",
            "transformer.encoder.layers.*.linear?": "transformer.ffn",
            "transformer.encoder.layers.*.norm*": "transformer.norms",
            "transformer": "transformer.elementwise",
            "adapter_?": "fpn.lateral",
            "layer_?": "fpn.conv3x3",
            "mask_features": "mask_features",
            # Resizing, sums and ReLU.
            "": "fpn.upsampling",
        }


class QueryLayer(nn.Module):
    """Self-attention among the queries, attention to the tokens, FFN; post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention(DIM, HEADS)
        self.multihead_attn = Attention(DIM, HEADS)
        self.linear1 = nn.Linear(DIM, FFN_DIM)
        self.linear2 = nn.Linear(FFN_DIM, DIM)
        self.norm1 = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.norm3 = nn.LayerNorm(DIM, eps=NORM_EPS)

    def forward(self, queries: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        """Queries (B, Q, C) and tokens (B, T, C), each with its position (1, ..., C) -> (B, Q, C)."""
        positioned = queries + query_position
        queries = self.norm1(queries + self.self_attn(positioned, positioned, queries))
        attended = self.multihead_attn(queries + query_position, tokens + position, tokens)
        queries = self.norm2(queries + attended)
        return self.norm3(queries + self.linear2(F.relu(self.linear1(queries))))


class QueryLayers(nn.Module):
    """The official nesting: ``decoder.layers`` and ``decoder.norm``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryLayer() for _ in range(count))
        self.norm = nn.LayerNorm(DIM, eps=NORM_EPS)

    def forward(self, queries: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        """The queries (B, Q, C) after each layer, normalised: (N, B, Q, C)."""
        outputs = []
        for layer in self.layers:
            queries = layer(queries, query_position, tokens, position)
            outputs.append(self.norm(queries))
        return torch.stack(outputs)


class QueryTransformer(nn.Module):
    """The official nesting: ``transformer.decoder``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.decoder = QueryLayers(count)


class MaskProducts(nn.Module):
    """Dot product of the mask embeddings of every layer with every pixel embedding; no parameters."""

    def forward(self, mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
        """(N, B, Q, C) and (B, C, h, w) -> mask logits (N, B, Q, h, w)."""
        return torch.einsum("nbqc,bchw->nbqhw", mask_embedding, mask_features)


class QueryDecoder(nn.Module):
    """Learned queries that attend to the stride-32 tokens, without masks.

    Classes and masks are worked out for all layers at once, as in the official code: one product makes the
    masks of all of them, and inference looks at the last.

    Args:
        num_classes: K, without "no object".
        num_queries: Q.
        layers: decoder layers.
        in_channels: channels of the map; a projection stands before it where they are not ours.
    """

    def __init__(self, num_classes: int, num_queries: int, layers: int, in_channels: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(in_channels, DIM, kernel_size=1) if in_channels != DIM else nn.Identity()
        self.transformer = QueryTransformer(layers)
        self.query_embed = nn.Embedding(num_queries, DIM)
        self.class_embed = nn.Linear(DIM, num_classes + 1)
        self.mask_embed = MaskEmbedding(DIM, DIM)
        self.mask_product = MaskProducts()

    def forward(self, stride_32: Tensor, mask_features: Tensor) -> DecoderOutput:
        """(B, C_in, h, w) and pixel embeddings (B, C, H, W) -> classes and masks of the last layer."""
        # The position code is that of the map, whatever its width.
        position = position_tokens(stride_32)
        tokens = to_tokens(self.input_proj(stride_32))
        query_position = self.query_embed.weight[None]
        queries = torch.zeros_like(query_position).expand(stride_32.shape[0], -1, -1)
        decoded = self.transformer.decoder(queries, query_position, tokens, position)
        masks = self.mask_product(self.mask_embed(decoded), mask_features)
        return DecoderOutput(class_logits=self.class_embed(decoded)[-1], mask_logits=masks[-1])

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        layer = "transformer.decoder.layers.*"
        return {
            "input_proj": "input_projection",
            f"{layer}.self_attn": "self_attention",
            f"{layer}.multihead_attn": "unmasked_cross_attention",
            f"{layer}.linear?": "ffn",
            f"{layer}.norm*": "norms",
            "transformer.decoder.norm": "norms",
            "mask_embed": "mask_prediction.embedding",
            "mask_product": "mask_prediction.product",
            "class_embed": "class_prediction",
            "": "elementwise",
        }


def position_tokens(feature_map: Tensor) -> Tensor:
    """The position code (1, H*W, 256) of a map (B, C, H, W)."""
    height, width = feature_map.shape[-2:]
    code = sine_position_code(height, width, DIM, device=feature_map.device, dtype=feature_map.dtype)
    return to_tokens(code[None])


def encoder_layers(choice: Choice) -> int:
    """Transformer layers before the FPN: those asked for, or the official configuration's."""
    given = choice.options["encoder_layers"]
    if given is not None:
        return int(given)
    return LAYERS_OF_RESNETS if choice.backbone.startswith("r") else 0


def maskformer_stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, FPN, query decoder, post-processing."""
    layers, decoder_layers = encoder_layers(choice), choice.options["decoder_layers"]

    def decoder(built: Mapping[str, nn.Module]) -> nn.Module:
        channels: Any = built["backbone"].channels
        width = DIM if layers else channels["res5"]
        return QueryDecoder(choice.num_classes, choice.num_queries, decoder_layers, width)

    return (
        backbone_stage(choice.backbone),
        Stage(
            name="encoder",
            key=("maskformer encoder", choice.backbone, layers),
            build=lambda built: FpnPixelDecoder(built["backbone"].channels, layers),  # type: ignore[arg-type]
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
        ),
        Stage(
            name="decoder",
            key=(
                "maskformer decoder",
                choice.backbone,
                layers,
                decoder_layers,
                choice.num_classes,
                choice.num_queries,
            ),
            build=decoder,
            call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale[0], encoded.mask_features),
            needs=("backbone",),
        ),
        postprocess_stage(choice.num_classes),
    )


def _options(shapes: Shapes) -> dict[str, int]:
    layers = layers_in(shapes, "decoder.transformer.decoder.layers")
    found = {"decoder_layers": layers} if layers else {}
    encoder = layers_in(shapes, "encoder.transformer.encoder.layers")
    has_resnet = any(name.startswith("backbone.trunk.layer4.") for name in shapes)
    usual = encoder == (LAYERS_OF_RESNETS if has_resnet else 0)
    return found if usual else {"encoder_layers": encoder, **found}


SYSTEM = System(
    name="maskformer",
    title="MaskFormer",
    summary="FPN pixel decoder with a 3x3 mask projection; queries attend to stride 32 alone",
    source="MaskFormer, arXiv 2107.06278",
    stages=maskformer_stages,
    options=(
        Option(
            name="encoder_layers",
            default=None,
            check=NoneOr(WholeNumber(0, MAX_LAYERS)),
            help="Transformer layers on the stride-32 tokens; none: 6 with a ResNet, 0 otherwise.",
        ),
        Option(name="decoder_layers", default=6, check=WholeNumber(1, MAX_LAYERS), help="Decoder layers."),
    ),
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    # On COCO it does not pad (SIZE_DIVISIBILITY 0); a Swin takes multiples of 32 all the same.
    size_divisor=1,
    naming=Naming(
        sign=r"sem_seg_head\.predictor\.transformer\.decoder\..*",
        base="detectron2",
        rules=(),
        options=_options,
        classes="decoder.class_embed.weight",
        no_object=True,
        queries="decoder.query_embed.weight",
    ),
)
