"""``segmeter::ms_deform_attn``: registration, fake implementation, autograd and argument checks.

The op is registered once with the plain-PyTorch implementation for every device. A compiled kernel takes
over for its device with ``forward_op.register_kernel("cuda")`` and ``backward_op.register_kernel("cuda")``
and needs no change anywhere else.

Legend: B batch, Q queries, S sum of H*W over levels, M heads, L levels, P points, D head channels.
"""

from typing import Any

import torch
from torch import Tensor

from cuda_ops import reference
from cuda_ops.formulas import register_torch_formulas

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@torch.library.custom_op("segmeter::ms_deform_attn", mutates_args=())
def forward_op(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The dispatcher's entry; call :func:`ms_deform_attn`, which checks its arguments."""
    return reference.forward(value, spatial_shapes, sampling_locations, attention_weights)


@torch.library.custom_op("segmeter::ms_deform_attn_backward", mutates_args=())
def backward_op(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to value, sampling locations and attention weights."""
    return reference.backward(grad_output, value, spatial_shapes, sampling_locations, attention_weights)


@forward_op.register_fake
def _forward_fake(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    batch, _, heads, head_dim = value.shape
    return value.new_empty((batch, sampling_locations.shape[1], heads * head_dim))


@backward_op.register_fake
def _backward_fake(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        attention_weights.new_empty(attention_weights.shape),
    )


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grad_value, grad_locations, grad_weights = backward_op(grad_output.contiguous(), *ctx.saved_tensors)
    return grad_value, None, None, grad_locations, grad_weights


forward_op.register_autograd(_differentiate, setup_context=_save_inputs)
register_torch_formulas()


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention: sample each level at its locations, weight, and sum.

    Source: Deformable DETR (arXiv 2010.04159), section 4.1; the semantics of borders are those of its
    official CUDA op (see :mod:`cuda_ops.reference`).

    Args:
        value: (B, S, M, D) float, the tokens of all levels one after another, row-major in a level.
        spatial_shapes: (L, 2) int64, (H, W) of each level.
        level_start_index: (L,) int64, index of each level's first token in S.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in [0, 1] over each map; outside is allowed.
        attention_weights: (B, Q, M, L, P), normally a softmax over L*P.

    Returns:
        (B, Q, M*D) in value's dtype.

    Raises:
        ValueError: an argument's rank or size does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    _check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    return forward_op(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)


def _check_arguments(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, M, D), got shape {tuple(value.shape)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"value must be float16, bfloat16, float32 or float64, got {value.dtype}")
    batch, _, heads, _ = value.shape
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2:
        raise ValueError(f"spatial_shapes must be (L, 2), got shape {tuple(spatial_shapes.shape)}")
    levels = spatial_shapes.shape[0]
    if tuple(level_start_index.shape) != (levels,):
        raise ValueError(
            f"level_start_index must be ({levels},) to match spatial_shapes, "
            f"got shape {tuple(level_start_index.shape)}"
        )
    for name, index in (
        ("spatial_shapes", spatial_shapes),
        ("level_start_index", level_start_index),
    ):
        if index.dtype is not torch.int64:
            raise TypeError(f"{name} must be int64, got {index.dtype}")
    if sampling_locations.dim() != 6 or sampling_locations.shape[-1] != 2:
        raise ValueError(
            f"sampling_locations must be (B, Q, M, L, P, 2), got {tuple(sampling_locations.shape)}"
        )
    expected = (batch, sampling_locations.shape[1], heads, levels)
    if tuple(sampling_locations.shape[:4]) != expected:
        raise ValueError(
            f"sampling_locations must begin with (B, Q, M, L) = {expected}, "
            f"got {tuple(sampling_locations.shape)}"
        )
    if attention_weights.shape != sampling_locations.shape[:-1]:
        raise ValueError(
            f"attention_weights must be {tuple(sampling_locations.shape[:-1])} to match "
            f"sampling_locations, got {tuple(attention_weights.shape)}"
        )
    for name, tensor in (
        ("sampling_locations", sampling_locations),
        ("attention_weights", attention_weights),
    ):
        if tensor.dtype != value.dtype:
            raise TypeError(f"{name} must have value's dtype {value.dtype}, got {tensor.dtype}")
        if tensor.device != value.device:
            raise TypeError(f"{name} must be on value's device {value.device}, got {tensor.device}")
