"""The op's contract: borders, odd locations, registration, cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segmeter.cuda_ops import ms_deform_attn
from segmeter.cuda_ops.formulas import backward_macs, forward_macs, fvcore_handles, sampled_elements


def starts_of(shapes: torch.Tensor) -> torch.Tensor:
    return torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])


def inputs(
    sizes: list[tuple[int, int]],
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    dim: int = 8,
    points: int = 3,
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor(sizes)
    tokens = int(shapes.prod(1).sum())
    levels = len(sizes)
    draw = {"dtype": torch.float64, "generator": generator}
    value = torch.randn(batch, tokens, heads, dim, **draw)
    locations = torch.rand(batch, queries, heads, levels, points, 2, **draw) * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, levels, points, **draw)
    return value, shapes, starts_of(shapes), locations, weights


def test_a_constant_map_gives_the_sum_of_the_weights() -> None:
    value, shapes, starts, locations, weights = inputs([(4, 6), (2, 3)])
    # Half a pixel or more inside every map, all four corners lie in it.
    inside = locations.clamp(0.3, 0.7)
    output = ms_deform_attn(torch.ones_like(value), shapes, starts, inside, weights)
    expected = weights.sum((-1, -2)).repeat_interleave(value.shape[-1], dim=2)
    torch.testing.assert_close(output, expected)


def test_pixel_centres_return_the_pixels_themselves() -> None:
    value, shapes, starts, _, _ = inputs([(3, 4)], batch=1, heads=1)
    y, x = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    centres = torch.stack(((x + 0.5) / 4, (y + 0.5) / 3), -1).reshape(1, 12, 1, 1, 1, 2).double()
    output = ms_deform_attn(value, shapes, starts, centres, torch.ones(1, 12, 1, 1, 1).double())
    torch.testing.assert_close(output, value.flatten(2))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 1e30, -5.0, 6.0])
def test_a_location_off_the_map_contributes_nothing_whatever_its_weight(odd: float) -> None:
    value, shapes, starts, locations, weights = inputs([(4, 6), (2, 3)])
    without = weights.clone()
    without[:, :, :, 0, 1] = 0
    expected = ms_deform_attn(value, shapes, starts, locations, without)
    locations[:, :, :, 0, 1, 0] = odd
    weights[:, :, :, 0, 1] = float("inf")
    torch.testing.assert_close(ms_deform_attn(value, shapes, starts, locations, weights), expected)


def test_gradients_agree_with_finite_differences() -> None:
    value, shapes, starts, locations, weights = inputs([(3, 4), (2, 2)], batch=1, queries=3, dim=2)
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, at, w: ms_deform_attn(v, shapes, starts, at, w), leaves, eps=1e-6, atol=1e-6
    )


def test_the_registration_holds_what_torch_asks_of_a_custom_op() -> None:
    value, shapes, starts, locations, weights = inputs([(3, 4), (2, 2)])
    arguments = (
        value.requires_grad_(),
        shapes,
        starts,
        locations.requires_grad_(),
        weights.requires_grad_(),
    )
    torch.library.opcheck(torch.ops.segmeter.ms_deform_attn.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    value, shapes, starts, locations, weights = inputs([(8, 8)], queries=20)
    exact = ms_deform_attn(value, shapes, starts, locations, weights)
    rounded = ms_deform_attn(value.to(dtype), shapes, starts, locations.to(dtype), weights.to(dtype))
    assert rounded.dtype is dtype
    # Locations keep 8 (bfloat16) or 11 bits: on an 8-pixel map that is 1/32 or 1/256 of a pixel.
    error = (rounded.double() - exact).norm() / exact.norm()
    assert error < (0.06 if dtype is torch.bfloat16 else 0.01)


def test_no_queries_give_an_empty_output() -> None:
    value, shapes, starts, locations, weights = inputs([(3, 4)], queries=0)
    assert ms_deform_attn(value, shapes, starts, locations, weights).shape == (2, 0, 16)


def test_cost_is_five_macs_per_sampled_element() -> None:
    # B 2, Q 5, M 2, L 2, P 3, D 8: 2*5*2*2*3 = 120 samples of 8 channels, 960 elements.
    arguments = inputs([(4, 6), (2, 3)])
    value, locations = arguments[0], arguments[3]
    assert sampled_elements(value.shape, locations.shape) == 960
    assert forward_macs(value.shape, locations.shape) == 960 * 4 + 960
    with FlopCounterMode(display=False) as counter:
        ms_deform_attn(*arguments)
    assert counter.get_total_flops() == 2 * 5 * 960
    for leaf in (0, 3, 4):
        arguments[leaf].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        ms_deform_attn(*arguments).sum().backward()
    assert counter.get_total_flops() == 2 * (5 * 960 + backward_macs(value.shape, locations.shape))


def test_fvcore_counts_the_op_by_its_handle() -> None:
    from fvcore.nn import FlopCountAnalysis

    _, shapes, starts, locations, weights = (
        t.float() if t.is_floating_point() else t for t in inputs([(4, 6)])
    )

    class OneCall(torch.nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return ms_deform_attn(value, shapes, starts, locations, weights)

    value = inputs([(4, 6)])[0].float()
    analysis = FlopCountAnalysis(OneCall(), (value,)).set_op_handle(**fvcore_handles())
    assert analysis.total() == forward_macs(value.shape, locations.shape)
    assert "segmeter::ms_deform_attn" not in analysis.unsupported_ops()


@pytest.mark.parametrize(
    ("position", "change", "named"),
    [
        (0, lambda t: t[0], "value"),
        (0, lambda t: t.long(), "value"),
        (1, lambda t: t[:, :1], "spatial_shapes"),
        (1, lambda t: t.int(), "spatial_shapes"),
        (1, lambda t: t + 1, "spatial_shapes"),
        (2, lambda t: t[:0], "level_start_index"),
        (3, lambda t: t[..., :1], "sampling_locations"),
        (3, lambda t: t[:, :, :1], "sampling_locations"),
        (3, lambda t: t.float(), "sampling_locations"),
        (4, lambda t: t[:, :-1], "attention_weights"),
        (4, lambda t: t.float(), "attention_weights"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(position: int, change: object, named: str) -> None:
    arguments = list(inputs([(4, 6), (2, 3)]))
    arguments[position] = change(arguments[position])  # type: ignore[operator]
    with pytest.raises((ValueError, TypeError)) as error:
        ms_deform_attn(*arguments)
    assert named in str(error.value) and "\n" not in str(error.value)
