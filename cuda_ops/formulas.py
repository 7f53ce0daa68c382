"""Closed-form cost of multi-scale deformable attention, and its entry into the FLOP counters.

Legend: B batch, Q queries, M heads, L levels, P points per level, D channels per head.

One *sampled element* is one channel of one bilinear sample: there are B*Q*M*L*P*D of them. A formula
sees integers, never tensors. One multiply-accumulate counts as 1 MAC; one MAC is 2 FLOPs.

The fused op has the same formulas: its softmax and its locations are elementwise work, which counts no MACs
outside the op either.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

BILINEAR_TAPS = 4
# Per sampled element: 4 taps again, 1 for the weight's gradient, 1 to scale the output's gradient by the
# weight, 4 to scatter it to the corners, and 3 each (2 corner differences, 1 dot product) for x and y.
BACKWARD_MACS_PER_ELEMENT = BILINEAR_TAPS + 1 + 1 + BILINEAR_TAPS + 3 + 3


def sampling_macs(sampled_elements: int) -> int:
    """MACs of the bilinear sampling itself: 4 per sampled element, as fvcore counts grid_sampler."""
    return BILINEAR_TAPS * sampled_elements


def weighting_macs(sampled_elements: int) -> int:
    """MACs of weighting each sample and summing over levels and points: 1 per sampled element."""
    return sampled_elements


def sampled_elements(value_shape: tuple[int, ...], locations_shape: tuple[int, ...]) -> int:
    """Number of sampled elements, from the shapes (B, S, M, D) and (B, Q, M, L, P, 2)."""
    return prod(locations_shape[:-1]) * value_shape[-1]


def forward_macs(value_shape: tuple[int, ...], locations_shape: tuple[int, ...]) -> int:
    """MACs of one forward call: sampling plus weighting, 5 per sampled element."""
    elements = sampled_elements(value_shape, locations_shape)
    return sampling_macs(elements) + weighting_macs(elements)


def backward_macs(value_shape: tuple[int, ...], locations_shape: tuple[int, ...]) -> int:
    """MACs of one backward call, all three gradients: 16 per sampled element."""
    return BACKWARD_MACS_PER_ELEMENT * sampled_elements(value_shape, locations_shape)


def _forward_flops(
    value: Any, shapes: Any, starts: Any, locations: Any, weights: Any, *_: Any, **__: Any
) -> int:
    return 2 * forward_macs(tuple(value), tuple(locations))


def _backward_flops(
    grad: Any, value: Any, shapes: Any, starts: Any, locations: Any, *_: Any, **__: Any
) -> int:
    return 2 * backward_macs(tuple(value), tuple(locations))


def _fused_forward_flops(
    value: Any, shapes: Any, starts: Any, points: Any, offsets: Any, *_: Any, **__: Any
) -> int:
    return 2 * forward_macs(tuple(value), tuple(offsets))


def _fused_backward_flops(
    grad: Any, value: Any, shapes: Any, starts: Any, points: Any, offsets: Any, *_: Any, **__: Any
) -> int:
    return 2 * backward_macs(tuple(value), tuple(offsets))


def register_torch_formulas() -> None:
    """Give torch's FlopCounterMode the formulas, in FLOPs (2 per MAC). Called once, beside the ops."""
    register_flop_formula(torch.ops.segmeter.ms_deform_attn)(_forward_flops)
    register_flop_formula(torch.ops.segmeter.ms_deform_attn_backward)(_backward_flops)
    register_flop_formula(torch.ops.segmeter.ms_deform_attn_fused)(_fused_forward_flops)
    register_flop_formula(torch.ops.segmeter.ms_deform_attn_fused_backward)(_fused_backward_flops)


def fvcore_handles() -> dict[str, Callable[[list[Any], list[Any]], int]]:
    """Handles for fvcore: ``FlopCountAnalysis(...).set_op_handle(**fvcore_handles())``, in MACs."""

    def shape(traced_value: Any) -> tuple[int, ...]:
        return tuple(traced_value.type().sizes())

    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        return forward_macs(shape(inputs[0]), shape(inputs[3]))

    def fused_handle(inputs: list[Any], outputs: list[Any]) -> int:
        return forward_macs(shape(inputs[0]), shape(inputs[4]))

    return {"segmeter::ms_deform_attn": handle, "segmeter::ms_deform_attn_fused": fused_handle}


def ptflops_hooks() -> dict[Any, Callable[[Any, Any], int]]:
    """Hooks for ptflops' aten backend (its ``custom_modules_hooks``), in MACs."""

    def hook(inputs: Any, outputs: Any) -> int:
        return forward_macs(tuple(inputs[0].shape), tuple(inputs[3].shape))

    def fused_hook(inputs: Any, outputs: Any) -> int:
        return forward_macs(tuple(inputs[0].shape), tuple(inputs[4].shape))

    return {
        torch.ops.segmeter.ms_deform_attn: hook,
        torch.ops.segmeter.ms_deform_attn_fused: fused_hook,
    }
