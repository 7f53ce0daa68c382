"""The M2F encoder: Mask2Former's multi-scale deformable-attention pixel decoder.

Source: Mask2Former (arXiv 2112.01527), section 3.2; official code facebookresearch/Mask2Former,
``modeling/pixel_decoder/msdeformattn.py``, whose state-dict names and outputs this module carries.

``DeformablePixelDecoder`` is the frame that M2F, Lite-M2F and PRO-SCALE share: input projections, a stack
of encoder layers, the stride-4 path. They differ in which tokens a layer sees and updates. In a detector the
frame is ``DeformableEncoder``, without the stride-4 path.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import (
    FEATURE_NAMES,
    MASK2FORMER,
    EncoderKind,
    EncoderOutput,
    Host,
    MultiScaleOutput,
    check_channels,
    check_features,
)
from segmeter.encoders.options import Option
from segmeter.encoders.parts import pixel_embedding as embedding
from segmeter.encoders.parts.layers import (
    ConvNorm,
    DeformableEncoderLayer,
    Levels,
    input_projection,
    position_tokens,
    to_maps,
    to_tokens,
)
from segmeter.encoders.parts.pixel_embedding import fuse, pixel_embedding_components, smoothing
from segmeter.encoders.parts.rowwise import Conv2d
from segmeter.encoders.rules import WholeNumber

# Low to high resolution: the order of tokens, level embeddings and input projections.
TOKEN_LEVELS = MASK2FORMER.levels
# A level at stride 64, which some hosts have, is projected from the backbone's coarsest.
EXTRA_LEVEL, EXTRA_LEVEL_SOURCE = "res6", "res5"
RESOLUTIONS = (EXTRA_LEVEL, *FEATURE_NAMES[::-1])
DIM = 256
MAX_LAYERS = 1000


class LayerStack(nn.Module):
    """Encoder layers run one after another; ``layers`` is the official name."""

    def __init__(self, num_layers: int, host: Host = MASK2FORMER) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(DIM, host.ffn_dim, levels=len(host.levels)) for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Update every token from all tokens, layer by layer: (B, K, C) -> (B, K, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position, levels)
        return tokens


class TokenTransformer(nn.Module):
    """Level embeddings and position code around a layer stack (``transformer`` officially).

    Args:
        encoder: the layer stack, called as ``encoder(tokens, position, levels)``.
        levels: how many there are.
        temperature: of the position code.
    """

    def __init__(
        self, encoder: nn.Module, levels: int = len(TOKEN_LEVELS), temperature: float = 10000.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.level_embed = nn.Parameter(torch.empty(levels, DIM))
        nn.init.normal_(self.level_embed)
        self.encoder = encoder

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Projected maps (B, C, h, w), in the order of the levels -> updated maps of the same shapes."""
        levels = Levels.of(maps)
        position = torch.cat(
            [
                position_tokens(h, w, DIM, like=maps[0], temperature=self.temperature) + embedding
                for (h, w), embedding in zip(levels.sizes, self.level_embed, strict=True)
            ],
            dim=1,
        )
        tokens = torch.cat([to_tokens(m) for m in maps], dim=1)
        return to_maps(self.encoder(tokens, position, levels), levels)


class TokenEncoder(nn.Module):
    """Input projections and a token transformer: what all encoders of deformable layers share.

    Args:
        in_channels: channels of the backbone's levels.
        encoder: the layer stack, called as ``encoder(tokens, position, levels)``.
        levels: of tokens, in their order; see :class:`encoders.interface.Host`.
        temperature: of the position code.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        encoder: nn.Module,
        levels: tuple[str, ...] = TOKEN_LEVELS,
        temperature: float = 10000.0,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.sources = tuple(EXTRA_LEVEL_SOURCE if name == EXTRA_LEVEL else name for name in levels)
        check_channels(in_channels, self.needed)
        self.in_channels = dict(in_channels)
        self.input_proj = nn.ModuleList(
            input_projection(in_channels[source], DIM, halving=name == EXTRA_LEVEL)
            for name, source in zip(levels, self.sources, strict=True)
        )
        self.transformer = TokenTransformer(encoder, len(levels), temperature)

    @property
    def needed(self) -> tuple[str, ...]:
        """The backbone's levels that are read."""
        return tuple(dict.fromkeys(self.sources))

    def update(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The backbone's maps -> updated maps (B, C, h, w), from low to high resolution."""
        check_features(features, self.in_channels, self.needed)
        projected = [
            project(features[source]) for project, source in zip(self.input_proj, self.sources, strict=True)
        ]
        updated = self.transformer(projected)
        coarse_first = RESOLUTIONS.index(self.levels[0]) <= RESOLUTIONS.index(self.levels[-1])
        return updated if coarse_first else updated[::-1]

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        layer = "transformer.encoder.layers.*"
        return {
            "input_proj": "input_projection",
            f"{layer}.self_attn.value_proj": "deformable_attention.value",
            f"{layer}.self_attn.sampling_offsets": "deformable_attention.offsets",
            f"{layer}.self_attn.attention_weights": "deformable_attention.weights",
            f"{layer}.self_attn.query_proj": "deformable_attention.key_aware_query",
            f"{layer}.self_attn.output_proj": "deformable_attention.output",
            f"{layer}.self_attn": "deformable_attention.sampling",
            f"{layer}.linear*": "ffn",
            f"{layer}.norm*": "norms",
            "transformer.encoder.token_excite": "recalibration",
            # What the transformer itself runs: position codes, residual sums, ReLU.
            "transformer": "elementwise",
        }


class DeformableEncoder(TokenEncoder):
    """A token encoder without a stride-4 path, for detectors."""

    def forward(self, features: dict[str, Tensor]) -> MultiScaleOutput:
        """The backbone's maps (B, C_i, H/s, W/s) -> updated maps."""
        return MultiScaleOutput(multi_scale=self.update(features))


class DeformablePixelDecoder(TokenEncoder):
    """A token encoder and the stride-4 path.

    Args:
        in_channels: channels of ``res2`` to ``res5``.
        encoder: the layer stack, called as ``encoder(tokens, position, levels)``.
        pixel_embedding: a key of :data:`encoders.parts.pixel_embedding.PIXEL_EMBEDDINGS`.
        levels: of tokens, in their order.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        encoder: nn.Module,
        pixel_embedding: str,
        levels: tuple[str, ...] = TOKEN_LEVELS,
    ) -> None:
        check_channels(in_channels, FEATURE_NAMES)
        super().__init__(in_channels, encoder, levels)
        self.pixel_embedding = pixel_embedding
        self.adapter_1 = ConvNorm(in_channels["res2"], DIM, kernel_size=1)
        self.layer_1 = smoothing(pixel_embedding, DIM)
        self.mask_features = Conv2d(DIM, DIM, kernel_size=1)

    @property
    def needed(self) -> tuple[str, ...]:
        """The backbone's levels that are read."""
        return FEATURE_NAMES

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res2`` to ``res5`` (B, C_i, H/s, W/s) -> pixel embeddings at stride 4 and the updated maps."""
        multi_scale = self.update(features)
        embedded = fuse(self.adapter_1, self.layer_1, features["res2"], multi_scale[-1])
        return EncoderOutput(mask_features=self.mask_features(embedded), multi_scale=multi_scale)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            **super().components(),
            **pixel_embedding_components(self.pixel_embedding),
            "": "pixel_embedding.upsampling",
        }


def around(
    stack: nn.Module, in_channels: Mapping[str, int], host: Host, pixel_embedding: str = "conv"
) -> DeformablePixelDecoder | DeformableEncoder:
    """A layer stack as a host wants it: with or without the stride-4 path."""
    if host.has_masks:
        return DeformablePixelDecoder(in_channels, stack, pixel_embedding, host.levels)
    return DeformableEncoder(in_channels, stack, host.levels)


def build_m2f(
    in_channels: Mapping[str, int],
    *,
    host: Host = MASK2FORMER,
    layers: int = 6,
    pixel_embedding: str = "conv",
) -> DeformablePixelDecoder | DeformableEncoder:
    """M2F: ``layers`` deformable layers, each updating all tokens of all levels."""
    return around(LayerStack(layers, host), in_channels, host, pixel_embedding)


_LAYERS = Option(name="layers", default=6, check=WholeNumber(1, MAX_LAYERS), help="Deformable layers.")


def hosted_options(host: Host) -> tuple[Option, ...]:
    """The options inside a host."""
    return (_LAYERS, embedding.OPTION) if host.has_masks else (_LAYERS,)


KIND = EncoderKind(
    name="m2f",
    title="M2F",
    summary="6 deformable layers over all tokens of three levels, 3x3 convolution at stride 4",
    source="Mask2Former, arXiv 2112.01527",
    build=build_m2f,
    options=hosted_options(MASK2FORMER),
    hosted=hosted_options,
)
