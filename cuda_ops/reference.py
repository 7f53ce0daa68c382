"""Multi-scale deformable attention in plain PyTorch: the specification, and the fallback on any device.

Semantics (Deformable DETR, section 4.1, as the official CUDA kernel computes them):

- a location (x, y) in [0, 1] addresses pixel (x*W - 0.5, y*H - 0.5) of its level;
- bilinear interpolation, where a corner outside the map counts as 0;
- a location that is NaN, infinite or wholly outside contributes nothing, whatever its weight is.

Legend: B batch, Q queries, S sum of H*W over levels, M heads, L levels, P points, D head channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Any location this far out misses every map: pixel coordinate -10*W - 0.5 lies below -1 for all W >= 1.
FAR_OUTSIDE = -10.0


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precisions, the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def forward(
    value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Reference forward.

    Args:
        value: (B, S, M, D), levels one after another, row-major inside a level.
        spatial_shapes: (L, 2) integer (H, W).
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in [0, 1] over the map, outside allowed.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M*D) in value's dtype, accumulated in float32 for half precisions.
    """
    batch, _, heads, head_dim = value.shape
    queries = sampling_locations.shape[1]
    dtype = accumulation_dtype(value.dtype)
    output = value.new_zeros((batch * heads, head_dim, queries), dtype=dtype)
    for maps, grid, weights in _levels(value, spatial_shapes, sampling_locations, attention_weights, dtype):
        samples = F.grid_sample(maps, grid, mode="bilinear", align_corners=False)
        output += (samples * weights).sum(-1)
    joined = output.view(batch, heads * head_dim, queries).transpose(1, 2)
    return joined.to(value.dtype).contiguous()


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` with respect to value, sampling locations and attention weights.

    Args:
        grad_output: (B, Q, M*D). The others as in :func:`forward`.

    Returns:
        Three tensors shaped as value, sampling_locations and attention_weights, in their dtypes.
    """
    batch, queries, heads, _, points, _ = sampling_locations.shape
    head_dim = value.shape[-1]
    dtype = accumulation_dtype(value.dtype)
    grad = grad_output.to(dtype).view(batch, queries, heads, head_dim)
    grad = grad.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, queries, 1)
    grad_values, grad_locations, grad_weights = [], [], []
    for maps, grid, weights in _levels(value, spatial_shapes, sampling_locations, attention_weights, dtype):
        samples = F.grid_sample(maps, grid, mode="bilinear", align_corners=False)
        grad_weights.append((grad * samples).sum(1).view(batch, heads, queries, points))
        # Bilinear (0), zero padding (0), corners not aligned: the same settings as the forward call.
        grad_maps, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * weights, maps, grid, 0, 0, False, [True, True]
        )
        grad_values.append(grad_maps.flatten(2).view(batch, heads, head_dim, -1))
        # The grid is 2 * location - 1.
        grad_locations.append(2 * grad_grid.view(batch, heads, queries, points, 2))
    return (
        torch.cat(grad_values, dim=-1).permute(0, 3, 1, 2).to(value.dtype).contiguous(),
        torch.stack(grad_locations, dim=3).permute(0, 2, 1, 3, 4, 5).contiguous().to(value.dtype),
        torch.stack(grad_weights, dim=3).permute(0, 2, 1, 3, 4).contiguous().to(value.dtype),
    )


def fused_forward(
    value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Reference forward from raw projections: see :func:`cuda_ops.ms_deform_attn_fused`."""
    locations, weights = _locations_and_weights(value, spatial_shapes, reference_points, offsets, logits)
    return forward(value, spatial_shapes, locations, weights)


def fused_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`fused_forward` with respect to value, offsets and logits."""
    locations, weights = _locations_and_weights(value, spatial_shapes, reference_points, offsets, logits)
    wide = value.to(weights.dtype)
    grad_value, grad_locations, grad_weights = backward(grad_output, wide, spatial_shapes, locations, weights)
    weighted = (grad_weights * weights).sum((-2, -1), keepdim=True)
    return (
        grad_value.to(value.dtype),
        (grad_locations / _width_height(spatial_shapes, weights.dtype)).to(value.dtype),
        (weights * (grad_weights - weighted)).to(value.dtype),
    )


def _locations_and_weights(
    value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, Q, M, L, P, 2) and (B, Q, M, L, P), in the accumulation dtype."""
    dtype = accumulation_dtype(value.dtype)
    # (B or 1, Q, L or 1, 2) against (B, Q, M, L, P, 2).
    points = reference_points.to(dtype)[:, :, None, :, None, :]
    locations = points + offsets.to(dtype) / _width_height(spatial_shapes, dtype)
    weights = logits.to(dtype).flatten(3).softmax(-1).view(logits.shape)
    return locations, weights


def _width_height(spatial_shapes: Tensor, dtype: torch.dtype) -> Tensor:
    """(L, 1, 2), the (W, H) that offsets in pixels are divided by."""
    return spatial_shapes.flip(-1)[:, None, :].to(dtype)


def _levels(
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    dtype: torch.dtype,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per level: maps (B*M, D, H, W), sampling grid (B*M, Q, P, 2) and weights (B*M, 1, Q, P)."""
    batch, _, heads, head_dim = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    sizes = [(height, width) for height, width in spatial_shapes.tolist()]
    finite = torch.nan_to_num(sampling_locations.to(dtype), nan=FAR_OUTSIDE)
    # Beyond one map width nothing is sampled, and huge values would overflow the pixel index.
    grids = 2 * finite.clamp(FAR_OUTSIDE, -FAR_OUTSIDE) - 1
    outside = _misses_every_corner(grids, sizes)
    weights = attention_weights.to(dtype).masked_fill(outside, 0)
    per_level = value.to(dtype).split([h * w for h, w in sizes], dim=1)
    result = []
    for level, (height, width) in enumerate(sizes):
        maps = per_level[level].permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        result.append((maps, grid, weight))
    return result


def _misses_every_corner(grids: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """(B, Q, M, L, P) bool: the sample touches no pixel of its map, so its weight must not matter."""
    size = torch.tensor([(w, h) for h, w in sizes], dtype=grids.dtype, device=grids.device)
    size = size[:, None, :]  # (L, 1, 2), against (..., L, P, 2)
    pixel = ((grids + 1) * size - 1) / 2
    return ((pixel <= -1) | (pixel >= size)).any(-1)
