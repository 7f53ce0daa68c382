"""What layers of every library come down to: levels as tensors, then the op on samples or on projections."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from segmeter.cuda_ops.around import linear
from segmeter.cuda_ops.drop_in import box_locations
from segmeter.cuda_ops.op import ms_deform_attn, ms_deform_attn_fused


def levels(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes (L, 2) and first tokens (L,) of levels, int64.

    They are kept for the next layer and the next pass: copying them to a GPU would wait for it each time. In
    a traced pass, whose sizes may be symbols, the device makes them itself.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _traced_levels(sizes, device)
    pairs = tuple((int(height), int(width)) for height, width in sizes)
    if _get_current_dispatch_mode() is None and device.type in ("cpu", "cuda"):
        return _kept_levels(pairs, device)
    return _new_levels(pairs, device)


def _new_levels(sizes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # What is kept must serve training too, whoever asked first.
    with torch.inference_mode(False):
        return (
            torch.tensor(sizes, dtype=torch.int64, device=device),
            torch.tensor(_starts(sizes), dtype=torch.int64, device=device),
        )


_kept_levels = lru_cache(maxsize=256)(_new_levels)


def _traced_levels(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    def row(numbers: Sequence[int]) -> Tensor:
        return torch.stack([torch.full((), each, dtype=torch.int64, device=device) for each in numbers])

    return torch.stack([row(size) for size in sizes]), row(_starts(sizes))


def _starts(sizes: Sequence[tuple[int, int]]) -> list[int]:
    starts = [0]
    for height, width in sizes[:-1]:
        starts.append(starts[-1] + height * width)
    return starts


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
