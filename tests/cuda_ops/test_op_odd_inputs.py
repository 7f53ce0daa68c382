"""Odd inputs, for both ops, every dtype and every implementation: NaN, inf, empty, strided, many levels."""

from collections.abc import Callable

import pytest
import torch

from segmeter.cuda_ops import ms_deform_attn, ms_deform_attn_fused, use_implementation
from tests.helpers.op_inputs import Inputs, as_leaves, draw, relative_error

CPU = torch.device("cpu")
Device = torch.device
Op = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]
both_ops = pytest.mark.parametrize(
    ("op", "form"), [(ms_deform_attn, "plain"), (ms_deform_attn_fused, "fused")], ids=["plain", "fused"]
)
both_choices = pytest.mark.parametrize("choice", ["auto", "reference"])
# 53, 24, 11 and 8 bits of each result, over sums of a few dozen terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def to(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def results(op: Op, tensors: Tensors, choice: str = "auto", device: Device = CPU) -> list[torch.Tensor]:
    """Output and gradients, worked out on ``device``, all in float64 on the CPU."""
    leaves = as_leaves(tuple(t.to(device) for t in tensors))
    with use_implementation(choice):
        output = op(*leaves)
        generator = torch.Generator().manual_seed(1)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        output.backward(grad.to(output))
    given = [output.detach(), *(t.grad for t in leaves if t.grad is not None)]
    return [t.cpu().double() for t in given]


def check_like_reference(op: Op, tensors: Tensors, dtype: torch.dtype, device: Device) -> None:
    """As the float64 reference on the CPU, and not finite at the same places."""
    rounded = to(tensors, dtype)
    expected = results(op, to(rounded, torch.float64), "reference")
    for mine, theirs in zip(results(op, rounded, device=device), expected, strict=True):
        assert torch.equal(mine.isfinite(), theirs.isfinite())
        fine = mine.isfinite()
        assert relative_error(mine[fine], theirs[fine]) < TOLERANCE[dtype]


@both_ops
@every_dtype
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 6e4])
def test_an_odd_place_contributes_nothing(
    op: Op, form: str, dtype: torch.dtype, odd: float, device: Device
) -> None:
    tensors = getattr(draw([(4, 6), (2, 3)], queries=4), form)()
    places = tensors[-2]
    for query in range(3):
        # x alone, y alone, both.
        for axis in ((0,), (1,), (0, 1))[query]:
            places[:, query, :, 0, 1, axis] = odd
    check_like_reference(op, tensors, dtype, device)
    output, *_, grad_places, _ = results(op, to(tensors, dtype), device=device)
    assert output.isfinite().all()
    assert not grad_places[:, 0, :, 0, 1].any()


@every_dtype
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_an_odd_reference_point_contributes_nothing(dtype: torch.dtype, odd: float, device: Device) -> None:
    tensors = draw([(4, 6), (2, 3)], queries=4).fused()
    tensors[3][:, 1, 0] = odd
    check_like_reference(ms_deform_attn_fused, tensors, dtype, device)


@both_ops
@every_dtype
@pytest.mark.parametrize("position", [0, -1], ids=["value", "weights"])
def test_nan_in_value_or_weights_goes_where_the_reference_sends_it(
    op: Op, form: str, dtype: torch.dtype, position: int, device: Device
) -> None:
    tensors = getattr(draw([(4, 6), (2, 3)], queries=12), form)()
    tensors[position][0, 3] = float("nan")
    check_like_reference(op, tensors, dtype, device)


@both_ops
@both_choices
def test_strides_do_not_matter_in_either_direction(op: Op, form: str, choice: str) -> None:
    tensors = getattr(draw([(4, 6), (2, 3)], batch=2, queries=4), form)()
    expected = results(op, tensors, choice)
    strided = []
    for t in tensors:
        # Every second element of a larger tensor that has its first dimension last.
        wide = torch.stack((t, t), -1).movedim(0, -1).contiguous().movedim(-1, 0)[..., 0]
        assert torch.equal(wide, t) and (not wide.is_contiguous() or t.dim() == 1)
        strided.append(wide.detach().requires_grad_() if t.is_floating_point() else wide)
    with use_implementation(choice):
        output = op(*strided)
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        output.backward(grad.mT.contiguous().mT)
    given = [output.detach(), *(t.grad for t in strided if t.grad is not None)]
    for mine, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)  # the order of sums, in float64


@both_ops
@both_choices
def test_expanded_inputs_are_taken(op: Op, form: str, choice: str) -> None:
    tensors = getattr(draw([(4, 6)], batch=1, queries=4), form)()
    many = tuple(t.expand(3, *t.shape[1:]) if t.is_floating_point() else t for t in tensors)
    with use_implementation(choice):
        torch.testing.assert_close(op(*many), op(*tensors).expand(3, -1, -1))


@both_ops
@both_choices
@every_dtype
@pytest.mark.parametrize(("batch", "queries"), [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_do_is_done(
    op: Op, form: str, choice: str, dtype: torch.dtype, batch: int, queries: int
) -> None:
    tensors = to(getattr(draw([(3, 4)], batch=batch, queries=queries), form)(), dtype)
    leaves = as_leaves(tensors)
    with use_implementation(choice):
        output = op(*leaves)
        output.sum().backward()
    assert (output.shape, output.dtype) == ((batch, queries, 16), dtype)
    for leaf in leaves:
        if leaf.is_floating_point():
            assert leaf.grad.shape == leaf.shape and not leaf.grad.any()


@both_ops
@every_dtype
def test_many_levels_and_points(op: Op, form: str, dtype: torch.dtype, device: Device) -> None:
    # 20 levels of 16 points, from 1x1 to 5x4: 320 samples a query and head.
    sizes = [(1 + i % 5, 1 + i // 5) for i in range(20)]
    inputs: Inputs = draw(sizes, batch=1, queries=3, points=16)
    check_like_reference(op, getattr(inputs, form)(), dtype, device)


@both_ops
def test_maps_of_one_pixel_and_one_channel(op: Op, form: str, device: Device) -> None:
    inputs = draw([(1, 1), (1, 7), (7, 1)], queries=20, heads=1, dim=1, points=1)
    check_like_reference(op, getattr(inputs, form)(), torch.float32, device)
