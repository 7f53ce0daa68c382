"""The compiled CPU kernel against the float64 reference: any shape, dtype and odd input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.cuda_ops import implementation_for, ms_deform_attn, ms_deform_attn_fused, use_implementation
from tests.helpers.op_inputs import Inputs, as_leaves, draw, relative_error

# What each dtype may cost: float64 differs only in the order of sums; the others keep 24, 11 and
# 8 bits of every input and output, so that inputs are rounded before the reference sees them.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

pytestmark = pytest.mark.skipif(
    implementation_for("cpu", torch.float32).name == "reference",
    reason=implementation_for("cpu", torch.float32).reason,
)

cases = st.builds(
    draw,
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    queries=st.sampled_from([1, 2, 7, 40]),
    heads=st.integers(1, 3),
    dim=st.sampled_from([8, 16, 24, 32, 36, 64, 72, 128, 1, 7]),
    points=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    own_points=st.tuples(st.booleans(), st.booleans()),
)


def rounded(tensors: tuple[torch.Tensor, ...], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def check_against_float64(op: object, tensors: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    own = as_leaves(rounded(tensors, dtype))
    exact = as_leaves(rounded(own, torch.float64))
    output = op(*own)  # type: ignore[operator]
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    output.backward(grad)
    with use_implementation("reference"):
        expected = op(*exact)  # type: ignore[operator]
        expected.backward(grad.double())
    assert output.dtype is dtype
    assert relative_error(output, expected) < TOLERANCE[dtype]
    for position, (mine, theirs) in enumerate(zip(own, exact, strict=True)):
        if not mine.is_floating_point():
            continue
        assert mine.grad.dtype is dtype
        scale = theirs.grad.norm()
        if position == 3 and op is ms_deform_attn_fused:
            # A reference point's gradient is a sum over heads, points and more that may cancel: its error is
            # that of the terms.
            size = exact[1].flip(-1)
            scale = (exact[4].grad.abs().sum((2, 4)) * size).sum_to_size(theirs.shape).norm()
        # A gradient that is nothing but rounding has no relative error to speak of.
        assert (mine.grad.double() - theirs.grad).norm() <= TOLERANCE[dtype] * scale.clamp(
            min=1e-6 * grad.norm()
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(inputs=cases)
@settings(max_examples=15, deadline=None)
def test_plain_output_and_gradients(dtype: torch.dtype, inputs: Inputs) -> None:
    check_against_float64(ms_deform_attn, inputs.plain(), dtype)


def off_the_pixel_lines(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Move offsets whose sample lies on a pixel's centre line, where the gradient jumps.

    Numbers of 8 or 11 bits often put one there exactly, and one rounding to either side is as right.
    """
    value, shapes, starts, points, offsets, logits = tensors
    for _ in range(4):
        pixel = points.double()[:, :, None, :, None] * shapes.flip(-1)[:, None] + offsets.double() - 0.5
        offsets = torch.where((pixel - pixel.round()).abs() < 1e-5, offsets + 0.28, offsets)
    return value, shapes, starts, points, offsets, logits


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(inputs=cases)
@settings(max_examples=15, deadline=None)
def test_fused_output_and_gradients(dtype: torch.dtype, inputs: Inputs) -> None:
    check_against_float64(ms_deform_attn_fused, off_the_pixel_lines(rounded(inputs.fused(), dtype)), dtype)


def test_float32_keeps_its_precision_on_a_wide_map() -> None:
    # A float32 pixel coordinate near 4096 is a multiple of 2^-12 or so; the fraction must not be.
    inputs = draw([(2, 4096)], queries=200, points=4)
    tensors = rounded(inputs.plain(), torch.float32)
    with use_implementation("reference"):
        exact = ms_deform_attn(*rounded(tensors, torch.float64))
        plain = relative_error(ms_deform_attn(*tensors), exact)
    compiled = relative_error(ms_deform_attn(*tensors), exact)
    assert compiled < 1e-6 < plain


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 3e38, -5.0, 6.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_odd_locations_contribute_nothing_forward_and_backward(odd: float, axis: int) -> None:
    value, shapes, starts, locations, weights = rounded(draw([(4, 6), (2, 3)]).plain(), torch.float32)
    locations[:, :, :, 0, 1, axis] = odd
    without = weights.clone()
    without[:, :, :, 0, 1] = 0
    weights[:, :, :, 0, 1] = float("inf")
    given_leaves = as_leaves((value, locations, weights))
    output = ms_deform_attn(given_leaves[0], shapes, starts, *given_leaves[1:])
    with use_implementation("reference"):
        expected = ms_deform_attn(value, shapes, starts, locations, without)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    for leaf in given_leaves:
        assert leaf.grad.isfinite().all()
    assert not given_leaves[1].grad[:, :, :, 0, 1].any()
    assert not given_leaves[2].grad[:, :, :, 0, 1].any()


def test_values_off_the_map_are_never_read() -> None:
    # The second level is full of NaN; samples at the first one's rim must not reach over into it.
    value, shapes, starts, _, _ = rounded(draw([(3, 4), (3, 4)], batch=1, heads=1).plain(), torch.float32)
    value[:, 12:] = float("nan")
    rim = torch.tensor([[0.99, 0.99], [0.01, 0.99], [0.99, 0.01], [1.1, 0.5]]).view(1, 4, 1, 1, 1, 2)
    locations = torch.cat((rim, torch.full_like(rim, -9)), dim=3)
    weights = torch.ones(locations.shape[:-1])
    assert ms_deform_attn(value, shapes, starts, locations, weights).isfinite().all()


def test_strides_do_not_matter() -> None:
    value, shapes, starts, locations, weights = draw([(4, 6), (2, 3)]).plain()
    expected = ms_deform_attn(value, shapes, starts, locations, weights)
    odd_strides = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (value, locations, weights)]
    assert not odd_strides[0].is_contiguous()
    given_output = ms_deform_attn(odd_strides[0], shapes, starts, *odd_strides[1:])
    torch.testing.assert_close(given_output, expected, rtol=0, atol=0)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    tensors = rounded(draw([(9, 11), (5, 6)], queries=2500, heads=3, dim=32).plain(), torch.float32)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = as_leaves(tensors)
            output = ms_deform_attn(*leaves)
            output.square().sum().backward()
            results.append([output, leaves[0].grad, leaves[3].grad, leaves[4].grad])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("queries", [0, 3])
def test_empty_batches_and_queries(batch: int, queries: int) -> None:
    leaves = as_leaves(draw([(3, 4)], batch=batch, queries=queries).plain())
    output = ms_deform_attn(*leaves)
    output.sum().backward()
    assert output.shape == (batch, queries, 16)
    assert leaves[0].grad.shape == leaves[0].shape
    assert queries or not leaves[0].grad.any()


def test_half_precision_conversion_matches_torch_for_every_number() -> None:
    # One 1x1 map per number, sampled at its centre with weight 1, is widened, narrowed and returned.
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        value = every.view(1, 1, -1, 8)
        heads = value.shape[2]
        one = torch.ones(1, 1, heads, 1, 1, dtype=dtype)
        centre = torch.full((1, 1, heads, 1, 1, 2), 0.5, dtype=dtype)
        output = ms_deform_attn(value, torch.tensor([[1, 1]]), torch.tensor([0]), centre, one).flatten()
        torch.testing.assert_close(output, every, rtol=0, atol=0, equal_nan=True)


def test_rounding_to_half_is_to_nearest_even() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        # Sums of two equal numbers' halves land between representable ones: weights 1/2 + 1/4.
        value = (
            (torch.randn(2, 1, 512, 8, generator=generator) * 1e-3)
            .to(dtype)
            .transpose(0, 1)
            .reshape(1, 2, 512, 8)
        )
        weights = torch.tensor([0.5, 0.25], dtype=dtype).expand(1, 1, 512, 1, 2).contiguous()
        places = torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=dtype).expand(1, 1, 512, 1, 2, 2).contiguous()
        output = ms_deform_attn(value, torch.tensor([[1, 2]]), torch.tensor([0]), places, weights)
        exact = value[:, 0].float() * 0.5 + value[:, 1].float() * 0.25
        torch.testing.assert_close(output.view(exact.shape), exact.to(dtype), rtol=0, atol=0)
