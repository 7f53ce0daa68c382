"""However a model is run (compiled, under inference mode, scripted, in threads), its work is the same."""

import copy
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from segmeter.harness.api import OverBudgetError, assert_within_budget, count
from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.counter import DataDependentError, run_and_count
from segmeter.harness.gate.capture import snapshot_of
from segmeter.harness.models import named_parts
from tests.helpers.fresh import Fresh

SHAPE = (1, 3, 16, 16)
INPUTS = [SHAPE, torch.zeros(SHAPE)]


def same(module: nn.Module) -> nn.Module:
    return module


class Net(nn.Module):
    """A stem, a backbone of two convolutions, attention, einsum, a linear layer and resizing."""

    # 16 x 16 pixels: 1x1 from 3 to 8, 3x3 from 8 to 16 and from 16 to 16.
    backbone_macs = 256 * 9 * (8 * 16 + 16 * 16)
    macs = 256 * 3 * 8 + backbone_macs + 2 * 256 * 256 * 16 + 256 * 256 * 16 + 256 * 16 * 5 + 4 * 16 * 1024

    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = same) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.backbone = wrap(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(self.stem(x))
        tokens = maps.flatten(2).mT
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        scores = torch.einsum("bnc,bmc->bnm", tokens, tokens)
        larger = F.interpolate(maps, scale_factor=2, mode="bilinear")
        return F.linear(tokens, tokens.new_ones(5, 16)), scores, larger


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module)  # type: ignore[return-value]


@pytest.mark.parametrize("inputs", INPUTS, ids=["meta", "real"])
def test_a_compiled_part_counts_as_it_is_written(inputs: object) -> None:
    plain = count(Net(), inputs)
    assert plain.macs == Net.macs
    for model in (Net(compiled), torch.compile(Net()), torch.compile(Net(compiled))):
        found = count(model, inputs)  # type: ignore[arg-type]
        assert (found.macs, found.flops, found.params) == (plain.macs, plain.flops, plain.params)
        assert found.components == plain.components
        assert found.snapshot == plain.snapshot


def test_a_budget_sees_what_a_compiled_part_costs() -> None:
    with pytest.raises(OverBudgetError, match=f"total {Net.macs:,} MACs"):
        assert_within_budget(Net(compiled), SHAPE, total=Net.macs - 1)
    with pytest.raises(OverBudgetError, match=f"backbone {Net.backbone_macs:,} MACs"):
        assert_within_budget(Net(compiled), SHAPE, limits={"backbone": 1})


def test_paths_speak_of_no_wrapper() -> None:
    paths = [path for path, _ in named_parts(torch.compile(Net(compiled)))]  # type: ignore[arg-type]
    assert paths == [path for path, _ in Net().named_modules()]


def test_work_that_belongs_to_no_module_is_an_error_and_not_dropped() -> None:
    net = Net().to("meta")
    _, work = run_and_count(net, torch.empty(SHAPE, device="meta"))
    net.backbone = nn.Identity()
    with pytest.raises(AssertionError, match=r"work of backbone\.0, backbone\.1 belongs to no module"):
        snapshot_of("", None, "macs", (work,), net)


class InferenceInside(Net):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x)


@pytest.mark.parametrize("inputs", INPUTS, ids=["meta", "real"])
def test_inference_mode_changes_nothing(inputs: object) -> None:
    plain = count(Net(), inputs)
    inside = count(InferenceInside(), inputs)
    with torch.inference_mode():
        around = count(Net(), inputs)
    assert around.snapshot == plain.snapshot
    assert (inside.macs, inside.flops, inside.components) == (plain.macs, plain.flops, plain.components)
    assert inside.not_counted == around.not_counted == {}


@pytest.mark.parametrize("inputs", INPUTS, ids=["meta", "real"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiheadAttention(16, 4, batch_first=True),
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        nn.GRU(16, 8),
        nn.Sequential(nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(2)),
        nn.Sequential(nn.LayerNorm(16), nn.GELU(), nn.Softmax(-1), nn.Dropout()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_inference_mode_changes_nothing_for_any_layer(layer: nn.Module, inputs: object) -> None:
    layer, x = copy.deepcopy(layer), torch.zeros(2, 8, 16)
    if inputs is SHAPE:
        layer, x = layer.to("meta"), x.to("meta")
    given = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else x
    plain = count(layer, given)
    with torch.inference_mode():
        around = count(layer, given)
    assert (around.macs, around.flops) == (plain.macs, plain.flops)
    assert plain.macs > 0


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_model_is_counted_under_its_own_path() -> None:
    traced = torch.jit.trace(nn.Linear(8, 4, bias=False), torch.ones(3, 8))
    net = nn.Sequential(nn.Linear(8, 8, bias=False), traced)
    for inputs in ((3, 8), torch.ones(3, 8)):
        assert count(net, inputs).components == {"0": 3 * 64, "1": 3 * 32}


class Flex(nn.Module):
    def __init__(self, mask: object = None) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return flex_attention(x, x, x, block_mask=self.mask)  # type: ignore[arg-type, return-value]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("inputs", [(2, 4, 300, 16), torch.zeros(2, 4, 300, 16)], ids=["meta", "real"])
def test_flex_attention_without_a_mask_is_attention(inputs: object) -> None:
    found = count(Flex(), inputs)
    assert found.macs == 2 * 4 * 300 * 300 * (16 + 16)
    # Making a mask of one block sums its one number.
    assert found.flops == 2 * found.macs + 5 * 2 * 4 * 300 * 300 + 1


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(("batch", "heads"), [(None, None), (1, 4), (2, 4)])
def test_flex_attention_costs_the_blocks_that_its_mask_keeps(batch: int | None, heads: int | None) -> None:
    def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q >= k

    mask = create_block_mask(causal, batch, heads, 300, 300, device="cpu")
    # Blocks of 128: rows 0 to 127 see one, rows 128 to 255 two, the last 44 rows all 300 keys.
    scores = 128 * 128 + 128 * 256 + 44 * 300
    assert count(Flex(mask), torch.zeros(2, 4, 300, 16)).macs == 2 * 4 * scores * (16 + 16)
    with pytest.raises(DataDependentError, match="count on real inputs"):
        count(Flex(mask), (2, 4, 300, 16))


class Chooses(nn.Module):
    """One product of 8 x 8, or two of 8 x 64, by the sum of the input."""

    less, more = 4 * 8 * 8, 4 * 8 * 64 * 2

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(8, 8, bias=False)
        self.large = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Linear(64, 8, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: self.small(t), lambda t: self.large(t), (x,))


def test_both_branches_of_cond_are_a_range() -> None:
    on_meta, few, many = (count(Chooses(), x) for x in ((4, 8), torch.ones(4, 8), -torch.ones(4, 8)))
    assert {c.macs_range for c in (on_meta, few, many)} == {(Chooses.less, Chooses.more)}
    # What ran is booked; where no values tell, the dearest.
    assert (on_meta.macs, few.macs, many.macs) == (Chooses.more, Chooses.less, Chooses.more)
    assert few.components == {"small": Chooses.less}
    assert not (on_meta.not_counted or few.not_counted)


def test_a_branch_within_a_branch_widens_the_range() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Chooses()

        def forward(self, x: Tensor) -> Tensor:
            once = self.inner(x)
            return torch.cond(x.sum() > 1, lambda t: self.inner(t), lambda t: t + 0, (once,))

    found = count(Nested(), (4, 8))
    assert found.macs_range == (Chooses.less, 2 * Chooses.more)
    assert found.macs == 2 * Chooses.more


def test_figures_say_the_range_in_every_convention() -> None:
    _, work = run_and_count(Chooses().to("meta"), torch.empty(4, 8, device="meta"))
    for convention, weight in (("macs", 1), ("published", 1), ("flops", 2)):
        figures = apply_convention(work, lambda path: path, convention)
        outside = 32 if convention == "flops" else 0  # the sum of 32 elements
        assert figures.least == weight * Chooses.less + outside
        assert figures.most == figures.total == weight * Chooses.more + outside


def test_the_branch_that_is_not_taken_leaves_no_trace() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda t: t + 0, lambda t: t.zero_() + 0, (x,))

    x = torch.ones(4)
    output, _ = run_and_count(Writes(), x)
    assert output.equal(x) and x.equal(torch.ones(4))


def test_loops_cost_what_they_run() -> None:
    class Loops(nn.Module):
        def __init__(self, by_input: bool) -> None:
            super().__init__()
            self.layer, self.by_input = nn.Linear(8, 8, bias=False), by_input

        def forward(self, x: Tensor) -> Tensor:
            step = torch.zeros((), dtype=torch.long, device=x.device)
            most = x.sum().long() if self.by_input else torch.tensor(3, device=x.device)
            body = torch._higher_order_ops.while_loop
            return body(lambda i, t: i < most, lambda i, t: (i + 1, self.layer(t)), (step, x))[1]

    # A constant is known on meta tensors too, what the input says is not.
    for inputs in ((4, 8), torch.ones(4, 8)):
        assert count(Loops(False), inputs).macs == 3 * 4 * 64
    assert count(Loops(True), torch.ones(1, 8)).macs == 8 * 64
    with pytest.raises(DataDependentError, match="count on real inputs"):
        count(Loops(True), (1, 8))


@pytest.mark.parametrize("inputs", [(4, 8), torch.ones(4, 8)], ids=["meta", "real"])
def test_what_wraps_a_function_is_seen_through(inputs: object) -> None:
    class Scans(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            last, _ = torch._higher_order_ops.scan(lambda c, t: (c + self.layer(t), c + t), x.new_zeros(8), x)
            each = torch.vmap(self.layer)(x)
            return last + torch.utils.checkpoint.checkpoint(self.layer, each, use_reentrant=False)

    assert count(Scans(), inputs).components == {"layer": 3 * 4 * 64}


UNLOADED = """
import sys
import torch
from segmeter.harness.counting.counter import run_and_count

class Chooses(torch.nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda t: t @ t, lambda t: t @ t @ t, (x,))

assert "torch._dynamo" not in sys.modules
print(run_and_count(Chooses(), torch.empty(4, 4, device="meta"))[1].macs)
"""


PLAIN = """
import sys
import torch
from segmeter.harness.counting.counter import run_and_count

model = torch.nn.Linear(4, 4, device="meta")
print(run_and_count(model, torch.empty(2, 4, device="meta"))[1].macs, "torch._dynamo" in sys.modules)
"""


def test_a_plain_count_does_not_load_the_compiler() -> None:
    # More than a second of every command on a model of one's own.
    assert Fresh(PLAIN).communicate() == ("32 False\n", "")


def test_a_branch_is_counted_where_nothing_has_loaded_the_compiler_yet() -> None:
    ran = subprocess.run([sys.executable, "-c", UNLOADED], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == 2 * 4**3


def test_threads_do_not_disturb_each_other() -> None:
    model, plain = Net().eval(), count(Net(), SHAPE)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x, tokens, found, stop = torch.zeros(SHAPE), torch.zeros(1, 9, 16), [], threading.Event()

    def run_beside() -> None:
        with torch.no_grad():
            while not stop.is_set():
                model(x)
                attention(tokens, tokens, tokens)

    def count_often() -> None:
        found.extend(count(model, inputs) for inputs in INPUTS * 5)
        found.extend(count(model, x) for _ in range(5))

    beside = threading.Thread(target=run_beside)
    beside.start()
    counting = [threading.Thread(target=count_often) for _ in range(3)]
    for thread in counting:
        thread.start()
    for thread in counting:
        thread.join()
    stop.set()
    beside.join()
    assert len(found) == 45
    assert {(c.macs, c.flops, c.activation_bytes) for c in found} == {
        (plain.macs, plain.flops, plain.activation_bytes)
    }
    assert all(c.components == plain.components for c in found)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class InThreads(nn.Module):
    """Three convolutions of 256 pixels, 9 x 3 x 8 each: one here, one in a thread, one in a pool."""

    macs = 3 * 256 * 9 * 3 * 8

    def __init__(self) -> None:
        super().__init__()
        self.here, self.beside, self.pooled = (nn.Conv2d(3, 8, 3, padding=1) for _ in range(3))
        # Its worker is there before any count begins.
        self.workers = [ThreadPoolExecutor(1)]
        self.workers[0].submit(int).result()

    def forward(self, x: Tensor) -> Tensor:
        found = []
        thread = threading.Thread(target=lambda: found.append(self.beside(x)))
        thread.start()
        pooled = self.workers[0].submit(self.pooled, x).result()
        thread.join()
        return self.here(x) + found[0] + pooled  # type: ignore[no-any-return]


def test_work_in_threads_that_the_model_starts_is_counted_where_it_belongs() -> None:
    model = InThreads().eval()
    with torch.no_grad():
        for _ in range(2):
            _, found = run_and_count(model, torch.zeros(SHAPE))
            by_path = {work.module: work.macs for work in found.work if work.macs}
            assert by_path == dict.fromkeys(("here", "beside", "pooled"), InThreads.macs // 3)
            assert found.macs == InThreads.macs
            # Whoever uses the pool between two counts is not counted.
            model.workers[0].submit(model.pooled, torch.zeros(SHAPE)).result()
    assert "watched" not in threading.Thread.start.__name__ + ThreadPoolExecutor.submit.__name__


class RowsOfSeveralLengths(nn.Module):
    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        self.linear, self.layout = nn.Linear(4, 16), layout

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.nested.nested_tensor([x[:3], x[3:8]], layout=self.layout)
        return self.linear(rows).to_padded_tensor(0.0)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_rows_of_several_lengths_cost_what_they_hold_or_are_told() -> None:
    x = torch.zeros(8, 4)
    _, jagged = run_and_count(RowsOfSeveralLengths(torch.jagged), x)
    assert (jagged.macs, [work.module for work in jagged.work if work.macs]) == (8 * 4 * 16, ["linear"])
    # torch's older kind has no shape at all.
    _, strided = run_and_count(RowsOfSeveralLengths(torch.strided), x)
    assert "aten::linear" in {unknown.operator for unknown in strided.unknown}


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_frozen_script_is_counted() -> None:
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3)).eval()))
    assert count(frozen, torch.zeros(SHAPE)).macs == 14 * 14 * 9 * 3 * 8


def test_a_forward_mode_derivative_costs_its_products_and_raises_no_alarm() -> None:
    class Tangent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.jvp(lambda y: self.linear(y) + y.sum(), (x,), (x,))[1]  # type: ignore[no-any-return]

    _, found = run_and_count(Tangent(), torch.zeros(3, 4))
    # Three products of 3 x 4 x 8: the output, and one each for the tangents of x and of the weights, though
    # the latter is zero: torch runs it too.
    assert found.macs == 3 * 3 * 4 * 8
    assert not found.unknown
