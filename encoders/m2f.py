"""The M2F encoder: Mask2Former's multi-scale deformable-attention pixel decoder.

Source: Mask2Former (arXiv 2112.01527), section 3.2; official code facebookresearch/Mask2Former,
``modeling/pixel_decoder/msdeformattn.py``, whose state-dict names and outputs this module carries.

``DeformablePixelDecoder`` is the frame that M2F, Lite-M2F and PRO-SCALE share: input projections, a stack
of encoder layers, the stride-4 path. They differ in which tokens a layer sees and updates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import (
    FEATURE_NAMES,
    EncoderKind,
    EncoderOutput,
    check_channels,
    check_features,
)
from segmeter.encoders.options import Option, whole_number
from segmeter.encoders.parts import pixel_embedding as embedding
from segmeter.encoders.parts.layers import (
    ConvNorm,
    DeformableEncoderLayer,
    Levels,
    input_projection,
    sine_position_code,
    to_maps,
    to_tokens,
)
from segmeter.encoders.parts.pixel_embedding import fuse, pixel_embedding_components, smoothing

# Low to high resolution: the order of tokens, level embeddings and input projections.
TOKEN_LEVELS = ("res5", "res4", "res3")
DIM = 256
MAX_LAYERS = 1000


class LayerStack(nn.Module):
    """Encoder layers run one after another; ``layers`` is the official name."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(DIM, levels=len(TOKEN_LEVELS)) for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Update every token from all tokens, layer by layer: (B, K, C) -> (B, K, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position, levels)
        return tokens


class TokenTransformer(nn.Module):
    """Level embeddings and position code around a layer stack (``transformer`` officially)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(len(TOKEN_LEVELS), DIM))
        nn.init.normal_(self.level_embed)
        self.encoder = encoder

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Projected maps (B, C, h, w), low to high resolution -> updated maps of the same shapes."""
        levels = Levels.of(maps)
        position = torch.cat(
            [
                to_tokens(sine_position_code(h, w, DIM, device=maps[0].device, dtype=maps[0].dtype)[None])
                + embedding
                for (h, w), embedding in zip(levels.sizes, self.level_embed, strict=True)
            ],
            dim=1,
        )
        tokens = torch.cat([to_tokens(m) for m in maps], dim=1)
        return to_maps(self.encoder(tokens, position, levels), levels)


class DeformablePixelDecoder(nn.Module):
    """Input projections, a token transformer, and the stride-4 path.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
        encoder: the layer stack, called as ``encoder(tokens, position, levels)``.
        pixel_embedding: a key of :data:`encoders.parts.pixel_embedding.PIXEL_EMBEDDINGS`.
    """

    def __init__(self, in_channels: Mapping[str, int], encoder: nn.Module, pixel_embedding: str) -> None:
        super().__init__()
        check_channels(in_channels, FEATURE_NAMES)
        self.in_channels = dict(in_channels)
        self.pixel_embedding = pixel_embedding
        self.input_proj = nn.ModuleList(input_projection(in_channels[name], DIM) for name in TOKEN_LEVELS)
        self.transformer = TokenTransformer(encoder)
        self.adapter_1 = ConvNorm(in_channels["res2"], DIM, kernel_size=1)
        self.layer_1 = smoothing(pixel_embedding, DIM)
        self.mask_features = nn.Conv2d(DIM, DIM, kernel_size=1)

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res2`` to ``res5`` (B, C_i, H/s, W/s) -> pixel embeddings at stride 4 and three maps."""
        check_features(features, self.in_channels, FEATURE_NAMES)
        projected = [
            project(features[name]) for project, name in zip(self.input_proj, TOKEN_LEVELS, strict=True)
        ]
        multi_scale = self.transformer(projected)
        embedded = fuse(self.adapter_1, self.layer_1, features["res2"], multi_scale[-1])
        return EncoderOutput(mask_features=self.mask_features(embedded), multi_scale=multi_scale)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        layer = "transformer.encoder.layers.*"
        return {
            "input_proj": "input_projection",
            f"{layer}.self_attn.value_proj": "deformable_attention.value",
            f"{layer}.self_attn.sampling_offsets": "deformable_attention.offsets",
            f"{layer}.self_attn.attention_weights": "deformable_attention.weights",
            f"{layer}.self_attn.output_proj": "deformable_attention.output",
            f"{layer}.self_attn": "deformable_attention.sampling",
            f"{layer}.linear?": "ffn",
            f"{layer}.norm*": "norms",
            "transformer.encoder.token_excite": "recalibration",
            **pixel_embedding_components(self.pixel_embedding),
            # What the transformer itself runs: position codes, residual sums, ReLU.
            "transformer": "elementwise",
            "": "pixel_embedding.upsampling",
        }


def build_m2f(
    in_channels: Mapping[str, int], *, layers: int = 6, pixel_embedding: str = "conv"
) -> DeformablePixelDecoder:
    """M2F: ``layers`` deformable layers, each updating all tokens of all three levels."""
    stack = LayerStack(layers)
    return DeformablePixelDecoder(in_channels, stack, pixel_embedding)


KIND = EncoderKind(
    name="m2f",
    title="M2F",
    summary="6 deformable layers over all tokens of three levels, 3x3 convolution at stride 4",
    source="Mask2Former, arXiv 2112.01527",
    build=build_m2f,
    options=(
        Option(name="layers", default=6, check=whole_number(1, MAX_LAYERS), help="Deformable layers."),
        embedding.OPTION,
    ),
)
