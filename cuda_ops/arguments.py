"""Checks of the op's arguments that need no data: alike for every implementation, and on meta tensors.

Legend: B batch, Q queries, S sum of H*W over levels, M heads, L levels, P points, D head channels.
"""

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What autocast casts; float64 is left alone, as torch's own ops do.
AUTOCAST = (torch.float16, torch.bfloat16, torch.float32)


def check_value_and_levels(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor) -> None:
    """Check value (B, S, M, D), spatial_shapes (L, 2) and level_start_index (L,)."""
    if value.dim() != 4 or not value.shape[2] or not value.shape[3]:
        raise ValueError(f"value must be (B, S, M, D) with M, D >= 1, got shape {tuple(value.shape)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"value must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2 or not spatial_shapes.shape[0]:
        raise ValueError(
            f"spatial_shapes must be (L, 2) with L >= 1, got shape {tuple(spatial_shapes.shape)}"
        )
    levels = spatial_shapes.shape[0]
    if tuple(level_start_index.shape) != (levels,):
        raise ValueError(
            f"level_start_index must be ({levels},) to match spatial_shapes, "
            f"got shape {tuple(level_start_index.shape)}"
        )
    for name, index in (("spatial_shapes", spatial_shapes), ("level_start_index", level_start_index)):
        if index.dtype is not torch.int64:
            raise TypeError(f"{name} must be int64, got {index.dtype}")
        _check_device(name, index, value)


def check_samples(
    value: Tensor,
    spatial_shapes: Tensor,
    places_name: str,
    places: Tensor,
    weights_name: str,
    weights: Tensor,
) -> None:
    """Check the places (B, Q, M, L, P, 2) and the weights (B, Q, M, L, P), under the names given."""
    if places.dim() != 6 or places.shape[-1] != 2 or not places.shape[4]:
        raise ValueError(
            f"{places_name} must be (B, Q, M, L, P, 2) with P >= 1, got shape {tuple(places.shape)}"
        )
    batch, _, heads, _ = value.shape
    expected = (batch, places.shape[1], heads, spatial_shapes.shape[0])
    if tuple(places.shape[:4]) != expected:
        raise ValueError(
            f"{places_name} must begin with (B, Q, M, L) = {expected}, got {tuple(places.shape)}"
        )
    if weights.shape != places.shape[:-1]:
        raise ValueError(
            f"{weights_name} must be {tuple(places.shape[:-1])} to match {places_name}, "
            f"got {tuple(weights.shape)}"
        )
    for name, tensor in ((places_name, places), (weights_name, weights)):
        if tensor.dtype != value.dtype:
            raise TypeError(f"{name} must have value's dtype {value.dtype}, got {tensor.dtype}")
        _check_device(name, tensor, value)


def check_reference_points(reference_points: Tensor, value: Tensor, offsets: Tensor) -> None:
    """Check the reference points, (B or 1, Q, L or 1, 2)."""
    batch, queries, _, levels = offsets.shape[:4]
    shape = tuple(reference_points.shape)
    if len(shape) != 4 or not (
        shape[0] in (1, batch) and shape[1] == queries and shape[2] in (1, levels) and shape[3] == 2
    ):
        raise ValueError(
            f"reference_points must be (B or 1, Q, L or 1, 2) = ({batch} or 1, {queries}, {levels} or 1, 2), "
            f"got {shape}"
        )
    if reference_points.dtype not in (value.dtype, torch.float32):
        raise TypeError(
            f"reference_points must have value's dtype {value.dtype} or float32, got {reference_points.dtype}"
        )
    _check_device("reference_points", reference_points, value)


def check_gradient(grad_output: Tensor, value: Tensor, queries: int) -> None:
    """Check the gradient of the output, (B, Q, M*D)."""
    expected = (value.shape[0], queries, value.shape[2] * value.shape[3])
    if tuple(grad_output.shape) != expected:
        raise ValueError(f"grad_output must be (B, Q, M*D) = {expected}, got {tuple(grad_output.shape)}")
    if grad_output.dtype != value.dtype:
        raise TypeError(f"grad_output must have value's dtype {value.dtype}, got {grad_output.dtype}")
    _check_device("grad_output", grad_output, value)


def _check_device(name: str, tensor: Tensor, value: Tensor) -> None:
    # With a value on meta only shapes count, and a table of sizes may have kept its values on the CPU.
    if tensor.device != value.device and not value.is_meta:
        raise TypeError(f"{name} must be on value's device {value.device}, got {tensor.device}")
