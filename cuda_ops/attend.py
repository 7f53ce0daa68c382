"""What layers of every library come down to: the op on samples or on projections."""

from typing import Any

import torch
from torch import Tensor

from segmeter.cuda_ops.around import linear
from segmeter.cuda_ops.drop_in import box_locations
from segmeter.cuda_ops.op import ms_deform_attn, ms_deform_attn_fused


def sample(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The op, in the widest of the dtypes given, as a library may keep its locations in float32."""
    dtype = torch.promote_types(torch.promote_types(value.dtype, places.dtype), weights.dtype)
    found = ms_deform_attn(
        value.to(dtype), shapes.to(torch.int64), starts.to(torch.int64), places.to(dtype), weights.to(dtype)
    )
    return found.to(value.dtype)


def attend(
    layer: Any,
    value: Tensor,
    queries: Tensor,
    points: Tensor,
    shapes: Tensor,
    starts: Tensor,
    sides: tuple[int, int, int],
) -> Tensor:
    """A layer's attention from its own projections: softmax and locations inside the op, but around boxes.

    Args:
        layer: has ``sampling_offsets`` and ``attention_weights``.
        value: (B, S, M, D).
        queries: (B, Q, C).
        points: (B, Q, L, 2), or boxes (B, Q, L, 4).
        shapes, starts: of the levels, (L, 2) and (L,).
        sides: M, L and P.

    Returns:
        (B, Q, M*D).
    """
    heads, levels, number = sides
    offsets = linear(layer.sampling_offsets, queries).unflatten(2, (heads, levels, number, 2))
    logits = linear(layer.attention_weights, queries).unflatten(2, (heads, levels, number))
    if points.shape[-1] != 2:
        weights = logits.flatten(3).softmax(-1).unflatten(3, (levels, number))
        return sample(value, shapes, starts, box_locations(points, offsets, number), weights)
    dtype = torch.promote_types(torch.promote_types(value.dtype, offsets.dtype), logits.dtype)
    if points.dtype not in (dtype, torch.float32):
        points = points.to(torch.promote_types(points.dtype, torch.float32) if dtype.itemsize < 4 else dtype)
    found = ms_deform_attn_fused(
        value.to(dtype),
        shapes.to(torch.int64),
        starts.to(torch.int64),
        points,
        offsets.to(dtype),
        logits.to(dtype),
    )
    return found.to(value.dtype)
