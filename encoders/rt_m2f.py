"""The RT-M2F encoder: RT-DETR's hybrid encoder as a pixel decoder, without a stride-4 path.

Source: RT-DETR (arXiv 2304.08069), section 4.2; official code lyuwenyu/RT-DETR, ``HybridEncoder``, whose
state-dict names and outputs the hybrid part carries. The PRO-SCALE paper's row (its Tables 1 and 2) is
reproduced by a 1x1 ``mask_features`` on the stride-8 output: masks are predicted at stride 8.

One transformer layer on the stride-32 tokens (AIFI), then a top-down and a bottom-up pass of convolutional
fusion blocks (CCFF). Level order here is RT-DETR's, high to low resolution, but for the returned maps.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.interface import (
    MASK2FORMER,
    EncoderKind,
    EncoderOutput,
    Host,
    MultiScaleOutput,
    check_channels,
    check_features,
)
from segmeter.encoders.parts.layers import to_tokens
from segmeter.encoders.parts.transformer import TransformerLayer

DIM = 256
HEADS = 8
FFN_DIM = 1024
REP_BLOCKS = 3
INPUT_LEVELS = ("res3", "res4", "res5")


class ConvBatchNorm(nn.Module):
    """Convolution without bias, BatchNorm, optional SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        normed = self.norm(self.conv(x))
        return F.silu(normed) if self.activation else normed


class FusedRepVggBlock(nn.Module):
    """A RepVGG block as it runs after training: both branches and their norms in one 3x3 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.silu(self.conv(x))


class RepVggBlock(nn.Module):
    """SiLU of a 3x3 and a 1x1 branch summed; no identity branch. Not re-parameterised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(dim, dim, 3, activation=False)
        self.conv2 = ConvBatchNorm(dim, dim, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.silu(self.conv1(x) + self.conv2(x))


class FusionBlock(nn.Module):
    """RT-DETR's CSPRepLayer at expansion 1: RepVGG blocks beside a 1x1 shortcut, summed."""

    def __init__(self, dim: int, fused: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(2 * dim, dim, 1)
        self.conv2 = ConvBatchNorm(2 * dim, dim, 1)
        block = FusedRepVggBlock if fused else RepVggBlock
        self.bottlenecks = nn.Sequential(*(block(dim) for _ in range(REP_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        """Two maps joined (B, 2C, H, W) -> (B, C, H, W)."""
        return self.bottlenecks(self.conv1(x)) + self.conv2(x)


class TransformerEncoder(nn.Module):
    """The official nesting: ``encoder.0.layers.0``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TransformerLayer(DIM, HEADS, FFN_DIM, F.gelu)])

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, K, C) -> (B, K, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens


def hybrid_position_code(
    height: int, width: int, channels: int = DIM, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """RT-DETR's position code, (H*W, C): sin and cos of x, then of y, at integer coordinates.

    The official table runs over x slowly and y quickly, while tokens are row-major, so on a map that is
    not square a token gets another place's code. Kept, because official weights were trained with it.
    """
    quarter = channels // 4
    x = torch.arange(width, device=device, dtype=torch.float32)[:, None].expand(width, height)
    y = torch.arange(height, device=device, dtype=torch.float32)[None, :].expand(width, height)
    exponent = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
    frequency = 1.0 / 10000.0**exponent
    angle_x = x.reshape(-1, 1) * frequency
    angle_y = y.reshape(-1, 1) * frequency
    parts = (angle_x.sin(), angle_x.cos(), angle_y.sin(), angle_y.cos())
    return torch.cat(parts, dim=1).to(dtype)


def _check_halving(*maps: Tensor) -> None:
    for name, finer, coarser in zip(INPUT_LEVELS[1:], maps, maps[1:], strict=False):
        height, width = (-(-side // 2) for side in finer.shape[-2:])
        if tuple(coarser.shape[-2:]) != (height, width):
            raise ValueError(
                f"features[{name!r}] must be {height}x{width}, half the level before it rounded up, "
                f"got {coarser.shape[-2]}x{coarser.shape[-1]}"
            )


class HybridFrame(nn.Module):
    """RT-DETR's hybrid encoder: what both of its uses share.

    Args:
        in_channels: channels of ``res3`` to ``res5``; ``res2`` may be given and is not used.
        fused: whether the RepVGG blocks have the form in which they run after training.
    """

    def __init__(self, in_channels: Mapping[str, int], fused: bool = False) -> None:
        super().__init__()
        check_channels(in_channels, INPUT_LEVELS)
        self.in_channels = dict(in_channels)
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels[name], DIM, kernel_size=1, bias=False), nn.BatchNorm2d(DIM))
            for name in INPUT_LEVELS
        )
        self.encoder = nn.ModuleList([TransformerEncoder()])
        steps = len(INPUT_LEVELS) - 1
        self.lateral_convs = nn.ModuleList(ConvBatchNorm(DIM, DIM, 1) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(FusionBlock(DIM, fused) for _ in range(steps))
        self.downsample_convs = nn.ModuleList(ConvBatchNorm(DIM, DIM, 3, stride=2) for _ in range(steps))
        self.pan_blocks = nn.ModuleList(FusionBlock(DIM, fused) for _ in range(steps))

    def update(self, features: dict[str, Tensor]) -> list[Tensor]:
        """``res3`` to ``res5`` -> maps (B, C, h, w) at strides 32, 16 and 8."""
        check_features(features, self.in_channels, INPUT_LEVELS)
        stride_8, stride_16, stride_32 = (
            project(features[name]) for project, name in zip(self.input_proj, INPUT_LEVELS, strict=True)
        )
        _check_halving(stride_8, stride_16, stride_32)
        inner = [self._attend(stride_32)]
        # Top-down: the lateral convolution's output also replaces the map for the way back up.
        for step, lower in enumerate((stride_16, stride_8)):
            inner[-1] = self.lateral_convs[step](inner[-1])
            # Twice the size, less a row or column where the finer map's side is odd.
            enlarged = F.interpolate(inner[-1], size=lower.shape[-2:], mode="nearest")
            inner.append(self.fpn_blocks[step](torch.cat((enlarged, lower), dim=1)))
        outputs = [inner.pop()]
        for step, coarser in enumerate(reversed(inner)):
            reduced = self.downsample_convs[step](outputs[-1])
            outputs.append(self.pan_blocks[step](torch.cat((reduced, coarser), dim=1)))
        return outputs[::-1]

    def _attend(self, stride_32: Tensor) -> Tensor:
        height, width = stride_32.shape[-2:]
        position = hybrid_position_code(height, width, device=stride_32.device, dtype=stride_32.dtype)
        tokens = self.encoder[0](to_tokens(stride_32), position[None])
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "input_proj": "input_projection",
            "encoder.*.layers.*.self_attn": "hybrid.attention",
            "encoder.*.layers.*.linear?": "hybrid.ffn",
            "encoder.*.layers.*.norm*": "hybrid.norms",
            "encoder": "hybrid.elementwise",
            "lateral_convs": "hybrid.top_down.lateral",
            "fpn_blocks": "hybrid.top_down.fusion",
            "downsample_convs": "hybrid.bottom_up.downsampling",
            "pan_blocks": "hybrid.bottom_up.fusion",
            "mask_features": "pixel_embedding.mask_features",
            "": "hybrid.top_down.upsampling",
        }


class HybridEncoder(HybridFrame):
    """RT-DETR's hybrid encoder for detectors: no pixel embeddings."""

    def forward(self, features: dict[str, Tensor]) -> MultiScaleOutput:
        """``res3`` to ``res5`` -> maps at strides 32, 16, 8."""
        return MultiScaleOutput(multi_scale=self.update(features))


class HybridPixelDecoder(HybridFrame):
    """RT-DETR's hybrid encoder and a 1x1 convolution to pixel embeddings at stride 8."""

    def __init__(self, in_channels: Mapping[str, int]) -> None:
        super().__init__(in_channels)
        self.mask_features = nn.Conv2d(DIM, DIM, kernel_size=1)

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """``res3`` to ``res5`` -> pixel embeddings at stride 8 and maps at strides 32, 16, 8."""
        multi_scale = self.update(features)
        return EncoderOutput(mask_features=self.mask_features(multi_scale[-1]), multi_scale=multi_scale)


def build_rt_m2f(
    in_channels: Mapping[str, int], *, host: Host = MASK2FORMER
) -> HybridPixelDecoder | HybridEncoder:
    """RT-M2F; it has no options, and strides 32, 16 and 8 in any host."""
    return HybridPixelDecoder(in_channels) if host.has_masks else HybridEncoder(in_channels)


KIND = EncoderKind(
    name="rt-m2f",
    title="RT-M2F",
    summary="RT-DETR's hybrid encoder; pixel embeddings at stride 8",
    source="RT-DETR, arXiv 2304.08069, as PRO-SCALE's Table 1 applies it",
    build=build_rt_m2f,
    hosted=lambda host: (),
    levels=lambda host, options: INPUT_LEVELS[::-1],
)
