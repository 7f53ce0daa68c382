"""Outputs and gradients of the official op, stored in float64: all six cases, every implementation."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from segmeter.cuda_ops import ms_deform_attn, ms_deform_attn_fused, use_implementation
from tests.helpers.op_inputs import relative_error, starts_of
from tests.helpers.places import DATA

STORED = DATA / "op_parity.npz"
CASES = range(6)
# float64 against float64: only the order of sums may differ.
EXACT = {"rtol": 0, "atol": 1e-10}
both_choices = pytest.mark.parametrize("choice", ["auto", "reference"])


@dataclass(frozen=True)
class Official:
    """One stored case: inputs, and what the official op makes of them."""

    value: torch.Tensor
    spatial_shapes: torch.Tensor
    sampling_locations: torch.Tensor
    attention_weights: torch.Tensor
    grad_out: torch.Tensor
    output: torch.Tensor
    grad_value: torch.Tensor
    grad_sampling_locations: torch.Tensor
    grad_attention_weights: torch.Tensor


def official(case: int, device: torch.device) -> Official:
    stored = np.load(STORED)
    names = Official.__dataclass_fields__
    return Official(**{name: torch.from_numpy(stored[f"case{case}_{name}"]).to(device) for name in names})


@both_choices
@pytest.mark.parametrize("case", CASES)
def test_plain_op(case: int, choice: str, device: torch.device) -> None:
    data = official(case, device)
    shapes = data.spatial_shapes
    value, locations, weights = leaves = [
        t.requires_grad_() for t in (data.value, data.sampling_locations, data.attention_weights)
    ]
    with use_implementation(choice):
        output = ms_deform_attn(value, shapes, starts_of(shapes), locations, weights)
        output.backward(data.grad_out)
    torch.testing.assert_close(output, data.output, **EXACT)
    wanted = (data.grad_value, data.grad_sampling_locations, data.grad_attention_weights)
    for leaf, expected in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(leaf.grad, expected, **EXACT)


# The weights of case 5 are no softmax.
@both_choices
@pytest.mark.parametrize("case", CASES[:5])
def test_fused_op(case: int, choice: str, device: torch.device) -> None:
    data = official(case, device)
    shapes, weights = data.spatial_shapes, data.attention_weights
    width_height = shapes.flip(-1)[:, None]
    # The stored weights are softmaxes, whose logits are their logarithms; offsets from the maps' middle.
    points = weights.new_full((1, weights.shape[1], 1, 2), 0.5)
    value, offsets, logits = leaves = [
        t.detach().requires_grad_()
        for t in (data.value, (data.sampling_locations - 0.5) * width_height, weights.log())
    ]
    with use_implementation(choice):
        output = ms_deform_attn_fused(value, shapes, starts_of(shapes), points, offsets, logits)
        output.backward(data.grad_out)
    torch.testing.assert_close(output, data.output, **EXACT)
    given = data.grad_attention_weights
    # The chain rule: a pixel is 1/W of a map, and a softmax's derivative.
    wanted = (
        data.grad_value,
        data.grad_sampling_locations / width_height,
        weights * (given - (given * weights).sum((-1, -2), keepdim=True)),
    )
    for leaf, expected in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(leaf.grad, expected, **EXACT)


@both_choices
@pytest.mark.parametrize("case", CASES)
def test_plain_op_in_float32(case: int, choice: str, device: torch.device) -> None:
    data = official(case, device)
    shapes = data.spatial_shapes
    leaves = [
        t.float().requires_grad_() for t in (data.value, data.sampling_locations, data.attention_weights)
    ]
    with use_implementation(choice):
        output = ms_deform_attn(leaves[0], shapes, starts_of(shapes), *leaves[1:])
        output.backward(data.grad_out.float())
    # Locations rounded to 24 bits are up to 2^-24 * 16 of a pixel off on these small maps.
    assert relative_error(output, data.output) < 1e-5
    wanted = (data.grad_value, data.grad_sampling_locations, data.grad_attention_weights)
    for leaf, expected in zip(leaves, wanted, strict=True):
        assert relative_error(leaf.grad, expected) < 1e-5
