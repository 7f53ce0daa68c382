"""``segmeter::ms_deform_attn`` and its fused variant: registration, fake implementations, autograd.

Each op is registered once for all devices; what runs is chosen per call (:mod:`cuda_ops.implementation`).
That is done by ``torch.library.Library``: what ``torch.library.custom_op`` adds takes longer than a small
call itself, and loads torch's compiler at the first one, which takes more than a second.

Legend: B batch, Q queries, S sum of H*W over levels, M heads, L levels, P points, D head channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segmeter.cuda_ops import arguments, reference
from segmeter.cuda_ops.formulas import register_torch_formulas
from segmeter.cuda_ops.geometry import check_geometry
from segmeter.cuda_ops.implementation import current_choice, kernel_for, use_implementation


def _forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    check_geometry(spatial_shapes, level_start_index, value.shape[1])
    if not sampling_locations.numel():
        return _no_output(value, sampling_locations)
    kernel = kernel_for(value, sampling_locations)
    if kernel is None:
        return reference.forward(value, spatial_shapes, sampling_locations, attention_weights)
    output: Tensor = kernel.forward(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    )
    return output


def _backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if not sampling_locations.numel():
        return _no_gradients(value, sampling_locations, attention_weights)
    kernel = kernel_for(value, sampling_locations)
    if kernel is None:
        return reference.backward(grad_output, value, spatial_shapes, sampling_locations, attention_weights)
    grads: tuple[Tensor, Tensor, Tensor] = kernel.backward(
        grad_output, value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    )
    return grads


def _fused_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    check_geometry(spatial_shapes, level_start_index, value.shape[1])
    if not offsets.numel():
        return _no_output(value, offsets)
    kernel = kernel_for(value, offsets, fused=True)
    if kernel is None:
        return reference.fused_forward(value, spatial_shapes, reference_points, offsets, logits)
    points = reference_points.to(reference.accumulation_dtype(value.dtype))
    output: Tensor = kernel.forward(value, spatial_shapes, level_start_index, offsets, logits, points)
    return output


def _fused_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if not offsets.numel():
        return _no_gradients(value, offsets, logits)
    kernel = kernel_for(value, offsets, fused=True)
    if kernel is None:
        return reference.fused_backward(grad_output, value, spatial_shapes, reference_points, offsets, logits)
    points = reference_points.to(reference.accumulation_dtype(value.dtype))
    grads: tuple[Tensor, Tensor, Tensor] = kernel.backward(
        grad_output, value, spatial_shapes, level_start_index, offsets, logits, points
    )
    return grads


def _no_output(value: Tensor, places: Tensor) -> Tensor:
    return value.new_zeros((value.shape[0], places.shape[1], value.shape[2] * value.shape[3]))


def _no_gradients(value: Tensor, places: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_zeros(t.shape) for t in (value, places, weights))  # type: ignore[return-value]


def _fake_output(value: Tensor, places: Tensor) -> Tensor:
    batch, _, heads, head_dim = value.shape
    return value.new_empty((batch, places.shape[1], heads * head_dim))


def _fake_gradients(value: Tensor, places: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (value, places, weights))  # type: ignore[return-value]


def _forward_fake(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return _fake_output(value, places)


def _fused_forward_fake(
    value: Tensor, shapes: Tensor, starts: Tensor, points: Tensor, places: Tensor, weights: Tensor
) -> Tensor:
    return _fake_output(value, places)


def _backward_fake(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients(value, places, weights)


def _fused_backward_fake(
    grad: Tensor,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    points: Tensor,
    places: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients(value, places, weights)


_library = torch.library.Library("segmeter", "FRAGMENT")


def _register(
    name: str, run: Callable[..., Any], fake: Callable[..., Any], arguments: str, result: str
) -> Any:
    """Define ``segmeter::name`` for all devices; what calls it."""
    tensors = ", ".join(f"Tensor {argument}" for argument in arguments.split())
    _library.define(f"{name}({tensors}) -> {result}", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"segmeter::{name}", fake, lib=_library)
    return getattr(torch.ops.segmeter, name).default


_GIVEN = "value spatial_shapes level_start_index"
_GRADIENTS = "(Tensor, Tensor, Tensor)"
# Entries of the dispatcher; call ms_deform_attn or ms_deform_attn_fused, which check their arguments.
forward_op = _register(
    "ms_deform_attn", _forward, _forward_fake, f"{_GIVEN} sampling_locations attention_weights", "Tensor"
)
fused_forward_op = _register(
    "ms_deform_attn_fused",
    _fused_forward,
    _fused_forward_fake,
    f"{_GIVEN} reference_points offsets logits",
    "Tensor",
)
# Gradients with respect to value, places and weights.
backward_op = _register(
    "ms_deform_attn_backward",
    _backward,
    _backward_fake,
    f"grad_output {_GIVEN} sampling_locations attention_weights",
    _GRADIENTS,
)
fused_backward_op = _register(
    "ms_deform_attn_fused_backward",
    _fused_backward,
    _fused_backward_fake,
    f"grad_output {_GIVEN} reference_points offsets logits",
    _GRADIENTS,
)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    # Torch's own threads, in which a GPU's backward pass runs, know nothing of the caller's context.
    ctx.choice = current_choice()


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    with use_implementation(ctx.choice):
        grad_value, grad_locations, grad_weights = backward_op(grad_output.contiguous(), *ctx.saved_tensors)
    return grad_value, None, None, grad_locations, grad_weights


def _differentiate_fused(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    with use_implementation(ctx.choice):
        grad_value, grad_offsets, grad_logits = fused_backward_op(
            grad_output.contiguous(), *ctx.saved_tensors
        )
    grad_points = None
    if ctx.needs_input_grad[3]:
        _, spatial_shapes, _, points, _, _ = ctx.saved_tensors
        # A pixel of offset is 1/W of the map, and all heads and points start from one reference point.
        dtype = reference.accumulation_dtype(grad_offsets.dtype)
        grad_points = grad_offsets.to(dtype).sum((2, 4)) * spatial_shapes.flip(-1).to(dtype)
        grad_points = grad_points.sum_to_size(points.shape).to(points.dtype)
    return grad_value, None, None, grad_points, grad_offsets, grad_logits


for _name, _gradient in (("ms_deform_attn", _differentiate), ("ms_deform_attn_fused", _differentiate_fused)):
    torch.library.register_autograd(f"segmeter::{_name}", _gradient, setup_context=_save_inputs, lib=_library)
register_torch_formulas()


def _autocast_dtype(value: Tensor) -> torch.dtype | None:
    """The lower precision where autocast runs; on meta, whichever device's it is: types are all it has."""
    kind = value.device.type
    for device in ("cuda", "cpu") if kind == "meta" else (kind,):
        # Torch refuses the question for devices without autocast.
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention: sample each level at its locations, weight, and sum.

    Source: Deformable DETR (arXiv 2010.04159), section 4.1; the semantics of borders are those of its
    official CUDA op (see :mod:`cuda_ops.reference`). Under autocast it runs in float32, as half precision
    cannot address the pixels of a large map.

    Args:
        value: (B, S, M, D) float, the tokens of all levels one after another, row-major in a level.
        spatial_shapes: (L, 2) int64, (H, W) of each level.
        level_start_index: (L,) int64, index of each level's first token in S.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in [0, 1] over each map; outside is allowed.
        attention_weights: (B, Q, M, L, P), normally a softmax over L*P.

    Returns:
        (B, Q, M*D) in value's dtype.

    Raises:
        ValueError: an argument's rank, size or content does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    if _autocast_dtype(value) is not None:
        value, sampling_locations, attention_weights = (
            t.float() if t.dtype in arguments.AUTOCAST else t
            for t in (value, sampling_locations, attention_weights)
        )
    arguments.check_value_and_levels(value, spatial_shapes, level_start_index)
    arguments.check_samples(
        value,
        spatial_shapes,
        "sampling_locations",
        sampling_locations,
        "attention_weights",
        attention_weights,
    )
    output: Tensor = forward_op(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    )
    return output


def ms_deform_attn_gradients(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, sampling locations and attention weights, for code that differentiates by itself.

    Args:
        grad_output: (B, Q, M*D) in value's dtype.
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights: as
            :func:`ms_deform_attn` takes them.

    Raises:
        ValueError: an argument's rank, size or content does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    arguments.check_value_and_levels(value, spatial_shapes, level_start_index)
    arguments.check_samples(
        value,
        spatial_shapes,
        "sampling_locations",
        sampling_locations,
        "attention_weights",
        attention_weights,
    )
    arguments.check_gradient(grad_output, value, sampling_locations.shape[1])
    check_geometry(spatial_shapes, level_start_index, value.shape[1])
    grads: tuple[Tensor, Tensor, Tensor] = backward_op(
        grad_output.contiguous(),
        value,
        spatial_shapes,
        level_start_index,
        sampling_locations,
        attention_weights,
    )
    return grads


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """As :func:`ms_deform_attn`, from raw projections: softmax and locations are worked out inside.

    The locations are ``reference_points + offsets / (W, H)`` and the weights a softmax of the logits over
    L*P together. Neither is ever stored, and half-precision offsets, being a few pixels, lose far less than
    half-precision locations would. Under autocast value, offsets and logits take autocast's dtype.

    Args:
        value: (B, S, M, D) float.
        spatial_shapes: (L, 2) int64, (H, W) of each level.
        level_start_index: (L,) int64, index of each level's first token in S.
        reference_points: (B or 1, Q, L or 1, 2), (x, y) in [0, 1]; value's dtype or float32.
        offsets: (B, Q, M, L, P, 2), (x, y) in pixels of the level sampled.
        logits: (B, Q, M, L, P).

    Returns:
        (B, Q, M*D) in value's dtype.

    Raises:
        ValueError: an argument's rank, size or content does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    dtype = _autocast_dtype(value)
    if dtype is not None:
        value, offsets, logits = (
            t.to(dtype) if t.dtype in arguments.AUTOCAST else t for t in (value, offsets, logits)
        )
    arguments.check_value_and_levels(value, spatial_shapes, level_start_index)
    arguments.check_samples(value, spatial_shapes, "offsets", offsets, "logits", logits)
    arguments.check_reference_points(reference_points, value, offsets)
    output: Tensor = fused_forward_op(
        value, spatial_shapes, level_start_index, reference_points, offsets, logits
    )
    return output
