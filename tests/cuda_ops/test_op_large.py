"""Tensors of more than 2^31 elements, where an index of 32 bits would wrap. Asked for, not run each time."""

import os

import pytest
import torch

from segmeter.cuda_ops import implementation_for, ms_deform_attn, ms_deform_attn_fused

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("SEGMETER_LARGE_TESTS"),
        reason="takes 16 GiB of memory and a minute: set SEGMETER_LARGE_TESTS=1",
    ),
    pytest.mark.skipif(
        implementation_for("cpu", torch.float32).name == "reference",
        reason=implementation_for("cpu", torch.float32).reason,
    ),
]
SIDE = 2900  # 2900 * 2900 tokens of 8 * 32 channels are 2^31 elements and a little
HEADS, DIM = 8, 32


@pytest.mark.parametrize("queries", [2, 40_000], ids=["few-queries", "maps-copied"])
def test_value_beyond_32_bits(queries: int) -> None:
    # 64 points: with 40000 queries the samples' corners outnumber the tokens, and the maps are copied.
    points = 64
    value = torch.zeros(1, SIDE * SIDE, HEADS, DIM, dtype=torch.bfloat16)
    assert value.numel() > 2**31
    value[0, -1] = 3
    value[0, 0] = 5
    # Float32 reference points at the centres of the first and of the last pixel, and no offsets: bfloat16
    # could not tell them from their neighbours. Zeros of one element each, expanded.
    centres = torch.tensor([[0.5, 0.5], [SIDE - 0.5, SIDE - 0.5]]) / SIDE
    reference = centres.repeat(queries // 2, 1).view(1, queries, 1, 2)
    zero = torch.zeros(1, dtype=torch.bfloat16)
    offsets = zero.expand(1, queries, HEADS, 1, points, 2)
    levels = torch.tensor([[SIDE, SIDE]]), torch.tensor([0])
    output = ms_deform_attn_fused(value, *levels, reference, offsets, offsets[..., 0])
    # 64 equal weights add up to 1; a float32 coordinate near 2900 is right to 2^-13 of a pixel.
    expected = torch.tensor([5.0, 3.0]).repeat(queries // 2)[None, :, None].expand(1, queries, HEADS * DIM)
    torch.testing.assert_close(output.float(), expected, rtol=1e-2, atol=0)


def test_gradient_of_a_value_beyond_32_bits() -> None:
    value = torch.zeros(1, SIDE * SIDE, HEADS, DIM, dtype=torch.bfloat16, requires_grad=True)
    last = torch.full((1, 2, 1, 2), 1 - 0.5 / SIDE)
    offsets = torch.zeros(1, 2, HEADS, 1, 1, 2, dtype=torch.bfloat16)
    levels = torch.tensor([[SIDE, SIDE]]), torch.tensor([0])
    ms_deform_attn_fused(value, *levels, last, offsets, offsets[..., 0]).sum().backward()
    assert value.grad is not None
    # Two queries with weight 1 each, on the last token alone.
    torch.testing.assert_close(value.grad[0, -1].float(), torch.full((HEADS, DIM), 2.0), rtol=1e-2, atol=0)
    assert not value.grad[0, : -SIDE - 2].any()


def test_locations_beyond_32_bits() -> None:
    queries, points = 2**24 + 1, 64
    value = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    half = torch.full((1,), 0.5, dtype=torch.bfloat16)
    locations = half.expand(1, queries, 1, 1, points, 2)
    assert locations.numel() > 2**31
    # 1/64, which bfloat16 holds exactly.
    weights = torch.full((1,), 1 / points, dtype=torch.bfloat16).expand(locations.shape[:-1])
    output = ms_deform_attn(value, torch.tensor([[1, 1]]), torch.tensor([0]), locations, weights)
    assert output.shape == (1, queries, 1) and output.eq(1).all()


def test_gradients_of_locations_beyond_32_bits() -> None:
    queries, points = 2**24 + 1, 64
    value = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    half = torch.full((1,), 0.5, dtype=torch.bfloat16)
    locations = half.expand(1, queries, 1, 1, points, 2)
    weights = locations[..., 0]
    one = torch.ones(1, dtype=torch.bfloat16).expand(1, queries, 1)
    levels = torch.tensor([[1, 1]]), torch.tensor([0])
    _, grad_locations, grad_weights = torch.ops.segmeter.ms_deform_attn_backward(
        one, value, *levels, locations, weights
    )
    # In the middle of a map of one pixel the sample is that pixel: 1. To each side lies zero beyond the map.
    assert grad_weights.eq(1).all()
    assert grad_locations[:, -1].isfinite().all() and grad_locations[:, -1].eq(grad_locations[:, 0]).all()
