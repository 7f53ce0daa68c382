"""A layer's work on rows of channels: against torch in float64, at sizes that are no powers of two."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmeter.cuda_ops import implementation_for, rows, use_implementation

# Rows, channels in, channels out: below, at and above a tile's rows, a panel's columns and a cache line.
SHAPES = ((1, 1, 1), (5, 3, 7), (12, 16, 32), (13, 256, 33), (48, 7, 16), (61, 20, 96), (300, 64, 31))
pytestmark = pytest.mark.skipif(
    implementation_for("cpu", torch.float32).name != "cpu-kernel", reason="there is no C++ compiler"
)


def close(found: Tensor, exact: Tensor, scale: float = 1.0) -> None:
    # A few units in the last place of float32, in sums of up to 300 numbers of about `scale`.
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_float64(
    shape: tuple[int, int, int], kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.setattr(rows, "packed", lambda weight: None)
    torch.manual_seed(0)
    count, depth, columns = shape
    weight, bias = torch.randn(columns, depth), torch.randn(columns)
    by_row, by_channel = torch.randn(count, depth), torch.randn(depth, count).t()
    every_other = torch.randn(2 * count, depth)[::2]
    for left in (by_row, by_channel, every_other):
        exact = left.double() @ weight.double().t()
        # A row beyond the end must keep what it had.
        for relu, plus in ((False, bias), (True, bias), (False, None), (True, None)):
            memory = torch.full((count + 1, columns), 7.0)
            found = rows.product(left, weight, plus, memory[:count], relu)
            wanted = exact if plus is None else exact + plus.double()
            close(found, wanted.relu() if relu else wanted, depth**0.5)
            assert memory[count].eq(7.0).all()


def test_what_is_not_a_number_stays_so_through_relu() -> None:
    left = torch.tensor([[float("nan")], [-1.0]])
    out = rows.product(left, torch.ones(1, 1), torch.zeros(1), torch.empty(2, 1), relu=True)
    assert out[0].isnan() and out[1] == 0


@pytest.mark.parametrize("channels", [1, 17, 256])
def test_the_norm_of_a_sum(channels: int) -> None:
    torch.manual_seed(0)
    # A mean far from 0 would show sums of squares that cancel.
    one, other = torch.randn(2, 300, channels) + 50
    norm = nn.LayerNorm(channels)
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    exact = F.layer_norm(
        (one + other).double(), (channels,), norm.weight.double(), norm.bias.double(), norm.eps
    )
    found = rows.add_norm(one, other, norm, torch.empty_like(one))
    # The sum itself is about 100, of which float32 tells 1e-5 apart.
    torch.testing.assert_close(found.double(), exact.detach(), rtol=0, atol=5e-5)
    assert rows.add_norm(one, other, norm, one).equal(found)


@pytest.mark.parametrize(("pixels", "channels", "groups"), [(1, 8, 2), (33, 6, 3), (1000, 256, 32)])
def test_group_norm_in_place(pixels: int, channels: int, groups: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(pixels, channels) + 50
    norm = nn.GroupNorm(groups, channels)
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    exact = F.group_norm(maps.double().t()[None], groups, norm.weight.double(), norm.bias.double(), norm.eps)[
        0
    ].t()
    found = rows.group_norm_(maps.clone(), norm)
    torch.testing.assert_close(found.double(), exact.detach(), rtol=0, atol=5e-5)
    assert rows.group_norm_(maps.clone(), norm, relu=True).equal(found.relu())


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 33), (7, 1, 32), (6, 9, 70)])
def test_pooling_in_place_is_torchs_to_the_bit(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(size) - 5
    pixels[0, 0, 0] = float("nan")
    pooled = F.max_pool2d(pixels.permute(2, 0, 1)[None], kernel_size=3, stride=1, padding=1)
    wanted = pooled[0].permute(1, 2, 0)
    assert torch.equal(rows.max_pool_(pixels).nan_to_num(), wanted.nan_to_num())
    assert pixels.isnan().equal(wanted.isnan())


@pytest.mark.parametrize(("small", "large"), [((1, 1), (2, 3)), ((5, 7), (10, 14)), ((6, 5), (11, 16))])
def test_an_enlarged_map_is_added(small: tuple[int, int], large: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pixels, other = torch.randn(*large, 19), torch.randn(*small, 19)
    resized = F.interpolate(
        other.double().permute(2, 0, 1)[None], size=large, mode="bilinear", align_corners=False
    )
    exact = pixels.double() + resized[0].permute(1, 2, 0)
    close(rows.add_enlarged_(pixels, other), exact)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    left, weight, bias = torch.randn(3000, 64), torch.randn(96, 64), torch.randn(96)
    norm, before = nn.GroupNorm(8, 96), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = rows.product(left, weight, bias, rows.empty(3000, 96))
            rows.max_pool_(rows.group_norm_(out, norm).view(50, 60, 96))
            found.append(out)
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_rows_serve_inference_in_float32_that_nobody_watches() -> None:
    tensor, linear = torch.randn(4, 8), nn.Linear(8, 8)
    assert not rows.serve(tensor, linear)
    with torch.no_grad():
        assert rows.serve(tensor, linear)
        assert not rows.serve(tensor.double(), linear)
        assert not rows.serve(tensor.to("meta"), linear)
        assert not rows.serve(tensor, nn.Linear(8, 8, dtype=torch.bfloat16))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not rows.serve(tensor, linear)
        with FlopCounterMode(display=False):
            assert not rows.serve(tensor, linear)
        with use_implementation("reference"):
            assert not rows.serve(tensor, linear)
        seen: list[bool] = []
        compiled = torch.compile(lambda x: x if rows.serve(x, linear) else x + 1, backend="eager")
        seen.append(bool(compiled(tensor).equal(tensor)))
        assert seen == [False]
