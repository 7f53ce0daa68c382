"""The counter on small nets that carry their own answer."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.counter import DataDependentError, run_and_count
from segmeter.harness.counting.op_costs import attention_costs


class TwoBranches(nn.Module):
    """Its cost is derived from its sizes: input (2, 3, 8, 10)."""

    macs: ClassVar = {
        # 2*16*8*10 outputs, each a sum over 3*3*3 = 27
        ("conv", "conv"): 2 * 16 * 80 * 27,
        # 5 per element of the (2, 16, 8, 10) map
        ("norm", "group_norm"): 5 * 2 * 16 * 80,
        # (2*80, 16) times (16, 24), and the bias is not a multiply-accumulate
        ("linear", "linear"): 2 * 80 * 16 * 24,
        # scores (2, 80, 80) over 24 channels
        ("", "matmul"): 2 * 80 * 80 * 24,
        # 4 per output element of (2, 16, 16, 20)
        ("", "upsample_bilinear"): 4 * 2 * 16 * 320,
    }

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.linear = nn.Linear(16, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = F.relu(self.norm(self.conv(x)))
        F.interpolate(maps, scale_factor=2, mode="bilinear")
        tokens = self.linear(maps.flatten(2).transpose(1, 2).contiguous())
        return tokens @ tokens.transpose(1, 2)


def macs_of(count: object) -> dict[tuple[str, str], int]:
    return {(w.module, w.operator): w.macs for w in count.work if w.macs}  # type: ignore[attr-defined]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_every_module_and_operator_has_its_closed_form(device: str) -> None:
    net = TwoBranches().to(device)
    _, count = run_and_count(net, torch.empty(2, 3, 8, 10, device=device))
    assert macs_of(count) == TwoBranches.macs
    assert count.unknown == ()


def test_flops_are_twice_the_products_plus_norm_and_elementwise_work() -> None:
    net = TwoBranches().to("meta")
    _, count = run_and_count(net, torch.empty(2, 3, 8, 10, device="meta"))
    elements = 2 * 16 * 80
    products = sum(m for (_, op), m in TwoBranches.macs.items() if op != "group_norm")
    biases = elements + 2 * 80 * 24  # of the convolution and of the linear layer
    # group norm 8 per element, ReLU 1 per element
    assert count.flops == 2 * products + biases + 8 * elements + elements


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_one_thing_on_every_device(device: str, masked: bool) -> None:
    class Attend(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(7, 11, dtype=torch.bool, device=device) if masked else None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    q, k, v = (torch.randn(2, 4, n, d, device=device) for n, d in ((7, 8), (11, 8), (11, 6)))
    output, count = run_and_count(Attend(), q, k, v)
    assert output.shape == (2, 4, 7, 6)
    # 2*4 heads, 7 queries, 11 keys: 616 scores over 8 channels, then 6 channels of values
    assert macs_of(count) == {("", "attention_scores"): 616 * 8, ("", "attention_values"): 616 * 6}
    assert next(w for w in count.work if w.operator == "softmax").flops == 5 * 616


def test_grouped_query_attention_counts_the_heads_of_the_queries() -> None:
    costs = attention_costs((1, 8, 10, 16), (1, 2, 12, 16), (1, 2, 12, 16))
    # 8 query heads: 8*10*12 scores over 16 channels
    assert costs[0].macs == 8 * 10 * 12 * 16


def test_multihead_attention_in_eval_mode_is_not_hidden_by_the_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    _, count = run_and_count(layer, torch.randn(1, 5, 16))
    # q, k, v and output: 4 * 5*16*16; FFN 2 * 5*16*32; scores and values 2 * 5*5*16
    assert sum(macs_of(count).values()) == 4 * 5 * 256 + 2 * 5 * 512 + 2 * 5 * 5 * 16 + 2 * 5 * 80
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_a_shared_module_is_counted_each_time_it_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    _, count = run_and_count(Twice(), torch.randn(3, 4))
    assert [(w.module, w.calls, w.macs) for w in count.work] == [("layer", 2, 2 * 3 * 16)]


def test_a_module_that_raises_leaves_no_hooks_behind() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("inside")

    with pytest.raises(KeyError):
        run_and_count(nn.Sequential(nn.Linear(4, 4), Broken()), torch.randn(1, 4))
    _, count = run_and_count(nn.Linear(4, 4), torch.randn(1, 4))
    assert count.macs == 16


def test_an_operator_without_a_formula_is_reported_with_its_shapes() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.qr(x)[0]

    _, count = run_and_count(Odd(), torch.randn(5, 3))
    assert [(u.operator, u.calls, u.shapes) for u in count.unknown] == [("aten::linalg_qr", 1, ((5, 3),))]
    figures = apply_convention(count, lambda path: path, "macs")
    assert figures.not_counted == {"aten::linalg_qr": None}


def test_transposed_and_grouped_convolutions() -> None:
    up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False)
    _, count = run_and_count(up, torch.randn(1, 6, 5, 5))
    # every one of 6*25 inputs feeds 4*2*2 weights
    assert count.macs == 6 * 25 * 16
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    _, count = run_and_count(grouped, torch.randn(1, 8, 5, 5))
    # 8*25 outputs over 8/4 channels of 3x3
    assert count.macs == 8 * 25 * 2 * 9


class Reads(nn.Module):
    def __init__(self, read: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.read(x)
        return x


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.unique(x),
        lambda x: bool(x.max() > 0),
        lambda x: x.flatten().topk(int((x > 0).sum())),
        lambda x: torch.equal(x, x + 1),
        # These never reach the dispatcher.
        lambda x: x.mean((0, 2, 3)).tolist(),
        lambda x: x.numpy(),
        lambda x: f"{x.mean():.3f}",
        # The places of an unknown mask may be written to; how many there are nobody knows.
        lambda x: x[torch.where(x > 0)] + 1,
        # A constant into which unknown values were written has none any more.
        lambda x: bool(torch.zeros(1, 3, 4, 4).copy_(x).any()),
    ],
)
def test_what_reads_values_is_noticed_on_meta_and_counted_on_real_inputs(
    read: Callable[[torch.Tensor], object],
) -> None:
    with pytest.raises(DataDependentError, match="count on real inputs"):
        run_and_count(Reads(read), torch.empty(1, 3, 4, 4, device="meta"))
    assert run_and_count(Reads(read), torch.rand(1, 3, 4, 4))[1].unknown == ()


def test_an_operator_that_gives_one_number_is_counted_each_time_it_runs() -> None:
    twice = Reads(lambda x: (x.sum(), x.sum(), x.sum()))
    count = run_and_count(twice, torch.empty(7, 11, device="meta"))[1]
    assert count.flops == 3 * 7 * 11


def test_the_model_s_own_error_is_not_taken_for_one_about_values() -> None:
    with pytest.raises(RuntimeError, match="broadcast") as caught:
        run_and_count(Reads(lambda x: x + x[:, :2]), torch.empty(1, 3, 4, 4, device="meta"))
    assert not isinstance(caught.value, DataDependentError)
