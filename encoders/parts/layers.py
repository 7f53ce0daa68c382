"""What the encoders share: position code, deformable attention, the encoder layer, convolution with norm.

Legend: B batch, K tokens of the levels at hand, Q queries, M heads, L levels, P points, C channels.
Level order is always low to high resolution (stride 32, 16, 8). Module names are those of the official
Mask2Former state dict (facebookresearch/Mask2Former, modeling/pixel_decoder/msdeformattn.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops import Kept, compiled_level_tensors, may_keep, ms_deform_attn_fused, rows
from segmeter.encoders.interface import LayerTokens
from segmeter.encoders.parts.rowwise import (
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    normed_,
)
from segmeter.encoders.parts.slices import in_slices

NORM_EPS = 1e-5
GROUPS = 32


def sine_position_code(
    height: int,
    width: int,
    channels: int = 256,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    temperature: float = 10000.0,
) -> Tensor:
    """Mask2Former's sine position code, (C, H, W): C/2 channels for y, then C/2 for x.

    A coordinate is (index + 1) / (size + 1e-6) * 2 pi, so the last row and column are at 2 pi. Even
    channels are sines and odd ones cosines, of frequencies ``temperature ** (-2 * (i // 2) / (C/2))``.
    """
    half = channels // 2
    index = torch.arange(half, device=device, dtype=torch.float32)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis_code(size: int) -> Tensor:
        steps = torch.arange(1, size + 1, device=device, dtype=torch.float32)
        angle = (steps / (size + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = axis_code(height).t()[:, :, None].expand(half, height, width)
    columns = axis_code(width).t()[:, None, :].expand(half, height, width)
    return torch.cat((rows, columns)).to(dtype)


def position_tokens(
    height: int, width: int, channels: int = 256, *, like: Tensor, temperature: float = 10000.0
) -> Tensor:
    """:func:`sine_position_code` as tokens (1, H*W, C), of ``like``'s device and dtype.

    It is kept, so that the encoder and the decoder share it, as do passes of the same size: do not change it.
    """
    if may_keep(like):
        return _kept_positions.of(height, width, channels, like.device, like.dtype, temperature)
    return _position_tokens(height, width, channels, like.device, like.dtype, temperature)


def _position_tokens(
    height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype, temperature: float
) -> Tensor:
    code = sine_position_code(height, width, channels, device=device, dtype=dtype, temperature=temperature)
    return to_tokens(code[None])


def _laid_out(*key: Any) -> Tensor:
    # Token after token, as whoever adds it reads it.
    return _position_tokens(*key).contiguous()


# Two image sizes of up to five levels; a level at stride 8 of 1024x2048 pixels has 32 MiB in float32.
_kept_positions = Kept(_laid_out, most=10)


def cell_centres(height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Reference points of a level's own cells, (H*W, 2): ((x + 0.5) / W, (y + 0.5) / H)."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    centres = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
    return centres.flatten(0, 1).to(dtype)


@dataclass(frozen=True)
class Levels:
    """The geometry of one set of levels: constant for an image size, computed once per forward.

    Attributes:
        sizes: (H, W) of each level.
        shapes: (L, 2) int64 tensor of the sizes.
        starts: (L,) int64, each level's first token.
        centres: (K, 2) reference point of each token, float32 (float64 for float64 features).
    """

    sizes: tuple[tuple[int, int], ...]
    shapes: Tensor
    starts: Tensor
    centres: Tensor

    @property
    def tokens_per_level(self) -> list[int]:
        """H*W of each level."""
        return [height * width for height, width in self.sizes]

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> "Levels":
        """Geometry of feature maps (B, C, H, W).

        It is kept for the next forward pass of the same size: copying the sizes to a GPU would wait for it
        once a pass, and cannot be captured in a CUDA graph.
        """
        sizes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        device, dtype = maps[0].device, maps[0].dtype
        if may_keep(maps[0]):
            return _kept_levels.of(sizes, device, dtype)
        return cls.of_sizes(sizes, device, dtype)

    @classmethod
    def of_sizes(
        cls, sizes: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype
    ) -> "Levels":
        """Geometry of levels of the given (H, W); ``dtype`` is the features'.

        The reference points are float32 even where the features are not: bfloat16 has 8 bits, so that on a
        map 256 wide a point would lie up to half a pixel beside its cell's centre.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            shapes, starts = compiled_level_tensors(sizes, device)
        else:
            counts = [height * width for height, width in sizes]
            shapes = torch.tensor(sizes, dtype=torch.int64, device=device)
            starts = torch.tensor(
                [sum(counts[:i]) for i in range(len(counts))], dtype=torch.int64, device=device
            )
        return cls(
            sizes=sizes,
            shapes=shapes,
            starts=starts,
            centres=torch.cat([cell_centres(h, w, device=device, dtype=dtype) for h, w in sizes]),
        )

    def first(self, count: int) -> "Levels":
        """The geometry of the first ``count`` levels alone; kept as :meth:`of` keeps it."""
        sizes = self.sizes[:count]
        if may_keep(self.centres):
            return _kept_levels.of(sizes, self.centres.device, self.centres.dtype)
        tokens = sum(self.tokens_per_level[:count])
        return Levels(sizes, self.shapes[:count], self.starts[:count], self.centres[:tokens])


def _levels_of(sizes: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype) -> Levels:
    return Levels.of_sizes(sizes, device, dtype)


_kept_levels = Kept(_levels_of, most=64)


def to_tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), row-major."""
    return feature_map.flatten(2).transpose(1, 2)


def to_maps(tokens: Tensor, levels: Levels) -> list[Tensor]:
    """(B, K, C) -> one (B, C, H, W) per level."""
    parts = tokens.split(levels.tokens_per_level, dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, levels.sizes, strict=True)]


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention with its four projections.

    Source: Deformable DETR (arXiv 2010.04159), section 4.1. Rows of ``sampling_offsets`` are laid out
    head, level, point, (x, y); rows of ``attention_weights`` head, level, point, with one softmax over
    levels and points together.
    """

    def __init__(self, dim: int = 256, levels: int = 3, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = Linear(dim, heads * levels * points * 2)
        self.attention_weights = Linear(dim, heads * levels * points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Deformable DETR's start: each head looks in its own direction, point i at i + 1 pixels."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = direction[:, None, None, :] * distance[:, None]
        with torch.no_grad():
            bias = offsets.expand(self.heads, self.levels, self.points, 2).reshape(-1)
            self.sampling_offsets.bias.copy_(bias)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, centres: Tensor, tokens: Tensor, levels: Levels) -> Tensor:
        """Attend from each query to samples around its reference point.

        Args:
            query: (B, Q, C) tokens plus position, which feed offsets and weights only.
            centres: (Q, 2) reference points in [0, 1], the same for all levels and images; or (B, Q, 4)
                reference boxes (centre x and y, width, height), in which offsets are shares of half a side.
            tokens: (B, K, C) the values, without position.
            levels: geometry of the K tokens.

        Returns:
            (B, Q, C).
        """
        value = self.value_proj(tokens).unflatten(2, (self.heads, -1))
        by_point = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(2, (*by_point, 2))
        logits = self.attention_weights(query).unflatten(2, by_point)
        if centres.shape[-1] == 4:
            points, offsets = self._in_boxes(centres, offsets, levels)
        else:
            points = centres[None, :, None]
        # The softmax over levels and points, and the division of pixels by (W, H), happen inside.
        sampled = ms_deform_attn_fused(value, levels.shapes, levels.starts, points, offsets, logits)
        return self.output_proj(sampled)

    def _in_boxes(self, boxes: Tensor, offsets: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Centres (B, Q, 1, 2) of boxes and offsets (B, Q, M, L, P, 2) in pixels.

        As pixels, offsets keep their precision in half precision, and the centres stay in float32.
        """
        half_sides = boxes[:, :, None, 2:] * (0.5 / self.points) * levels.shapes.flip(-1)
        return boxes[:, :, None, :2], offsets * half_sides[:, :, None, :, None].to(offsets.dtype)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and FFN, post-norm.

    Source: Mask2Former (arXiv 2112.01527), pixel decoder; ``MSDeformAttnTransformerEncoderLayer`` of the
    official code.
    """

    def __init__(
        self, dim: int = 256, ffn_dim: int = 1024, levels: int = 3, heads: int = 8, points: int = 4
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(dim, levels, heads, points)
        self.norm1 = LayerNorm(dim, eps=NORM_EPS)
        self.linear1 = Linear(dim, ffn_dim)
        self.linear2 = Linear(ffn_dim, dim)
        self.norm2 = LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self, tokens: Tensor, position: Tensor, levels: Levels, num_queries: int | None = None
    ) -> Tensor:
        """Update the first ``num_queries`` tokens (all of them if None) from all tokens.

        Args:
            tokens: (B, K, C).
            position: (B or 1, K, C) position code plus level embedding.
            levels: geometry of the K tokens.
            num_queries: how many leading tokens are queries; the rest are keys and values only.

        Returns:
            (B, Q, C), the updated queries.
        """
        queries, position = tokens[:, :num_queries], position[:, :num_queries]
        centres = levels.centres[:num_queries]
        if self._goes_by_rows(tokens):
            positioned = torch.add(queries, position, out=rows.empty(*queries.shape))
            attended = self.self_attn(positioned, centres, tokens, levels)
            return rows.add_norm_and_ffn_(
                attended, queries, self.norm1, self.linear1, self.linear2, self.norm2
            )
        attended = self.self_attn(queries + position, centres, tokens, levels)
        return in_slices(self._norm_and_ffn, queries, attended)

    def _goes_by_rows(self, tokens: Tensor) -> bool:
        # Nobody else may hold what the attention gives: it is worked on in place.
        attention = (self.self_attn, self.self_attn.output_proj)
        return rows.by_rows(tokens, *attention, self.norm1, self.linear1, self.linear2, self.norm2)

    def _norm_and_ffn(self, queries: Tensor, attended: Tensor) -> Tensor:
        queries = self.norm1(queries + attended)
        return self.norm2(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))

    def layer_tokens(
        self, tokens: Tensor, position: Tensor, levels: Levels, num_queries: int | None = None
    ) -> LayerTokens:
        """The tokens of a call of :meth:`forward`."""
        return LayerTokens(tokens, levels.sizes, tokens.shape[1] if num_queries is None else num_queries)


class ConvNorm(nn.Conv2d):
    """A convolution without bias, then GroupNorm; weights named as detectron2's Conv2d wrapper."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = GroupNorm(GROUPS, out_channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.normed(x)

    def normed(self, x: Tensor, relu: bool = False) -> Tensor:
        """As :meth:`forward`, then ReLU if asked for."""
        is_product = rows.is_pointwise(self) and rows.serve(x, self)
        convolved = rows.pointwise(x, self) if is_product else super().forward(x)
        return normed_(convolved, self.norm, relu=relu)


class InputProjection(nn.Sequential):
    """Convolution with bias, GroupNorm, no activation: a backbone level to the encoder's width."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        convolution, norm = self
        assert isinstance(norm, GroupNorm)
        return normed_(convolution(x), norm, convolution)


def input_projection(in_channels: int, dim: int, halving: bool = False) -> InputProjection:
    """The projection of a level; its convolution is 1x1, that which halves the resolution 3x3 of stride 2."""
    convolution = (
        Conv2d(in_channels, dim, kernel_size=3, stride=2, padding=1)
        if halving
        else Conv2d(in_channels, dim, kernel_size=1)
    )
    return InputProjection(convolution, GroupNorm(GROUPS, dim, eps=NORM_EPS))
