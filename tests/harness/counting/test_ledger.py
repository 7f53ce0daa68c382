"""What a count books of a run: whose work it is, what it wrote and saw, the range of its branches."""

import contextlib
import threading
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.counting.flow import Flow, Step
from segmeter.harness.counting.ledger import Branch, Count, Ledger, ModuleRun, Moved, Work
from segmeter.harness.counting.op_costs import Cost


def count_of(module: nn.Module, *inputs: object) -> Count:
    return run_and_count(module.eval(), *inputs)[1]


class Within(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, *inputs: object) -> object:
        return self.inside(*inputs)


class Calls(nn.Module):
    def __init__(self, call: object) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: object) -> object:
        return self.call(*inputs)  # type: ignore[operator]


def test_bytes_written_are_those_of_what_has_products() -> None:
    # 4 x 16 floats out of a linear layer; the activation and its sum have no products.
    count = count_of(nn.Sequential(nn.Linear(8, 16), nn.GELU()), torch.zeros(4, 8))
    assert count.activation_bytes == 4 * 16 * 4
    assert {w.operator: w.output_bytes for w in count.work} == {"linear": 256, "elementwise": 0}
    half = count_of(nn.Linear(8, 16).half(), torch.zeros(4, 8, dtype=torch.half))
    assert half.activation_bytes == 4 * 16 * 2


def test_of_several_outputs_the_first_is_written() -> None:
    # A norm gives its statistics too, which nothing behind it reads.
    assert count_of(nn.GroupNorm(2, 8), torch.zeros(1, 8, 4)).activation_bytes == 8 * 4 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_writes_more_than_its_output_says_how_much(dtype: torch.dtype) -> None:
    # Three steps of an LSTM: four gates of 16 by each of two matrices, in the outputs' precision.
    count = count_of(nn.LSTM(8, 16, dtype=dtype), torch.zeros(3, 1, 8, dtype=dtype, device="cpu"))
    assert count.activation_bytes == 3 * 2 * 4 * 16 * dtype.itemsize


def test_moves_of_one_module_add_up() -> None:
    once = count_of(Calls(lambda x: x.sort()), torch.ones(3, 3)).moves
    twice = count_of(Calls(lambda x: (x.sort(), x.sort())), torch.ones(3, 3)).moves
    assert once and all(each.amount > 0 for each in once)
    assert [2 * each.amount for each in once] == [each.amount for each in twice]


def test_what_no_branch_can_count_is_told_whichever_runs() -> None:
    class Either(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y @ y, lambda y: torch.linalg.qr(y)[0], (x,))  # type: ignore[no-any-return]

    for value in (1.0, -1.0):
        assert [u.operator for u in count_of(Either(), torch.full((3, 3), value)).unknown] == [
            "aten::linalg_qr"
        ]


def test_a_module_knows_what_it_was_given_and_gave() -> None:
    class Pair(nn.Module):
        def forward(self, first: Tensor, rest: dict[str, list[Tensor]]) -> dict[str, object]:
            return {"x": [first, rest["b"][0]], "y": None}

    inputs = torch.zeros(2, 3), {"a": [torch.zeros(4)], "b": [torch.zeros(5, 6), 7]}
    runs = {run.module: run for run in count_of(Within(Pair()), *inputs).runs}
    assert runs["inside"].inputs == ((2, 3), (4,), (5, 6))
    assert runs["inside"].output == (2, 3)
    assert runs["inside"].calls == 1
    nothing = {run.module: run for run in count_of(Within(Calls(lambda: None))).runs}
    assert nothing["inside"].output is None
    assert nothing["inside"].inputs == ()


def test_what_is_unknown_stands_under_its_module_with_every_shape() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> None:
            for _ in range(2):
                torch.linalg.lstsq(x, x)

    (unknown,) = count_of(Within(Twice()), torch.eye(3)).unknown
    assert (unknown.module, unknown.calls, unknown.shapes[:2]) == ("inside", 2, ((3, 3), (3, 3)))


class Chooses(nn.Module):
    """One product of 4^3 or two."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y @ y, lambda y: y @ y @ y, (x,))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("value", "booked"), [(1.0, 64), (-1.0, 128)])
def test_a_branch_is_booked_where_it_is_chosen(value: float, booked: int) -> None:
    count = count_of(Within(Chooses()), torch.full((4, 4), value))
    assert count.macs == booked
    assert {work.module for work in count.work if work.macs} == {"inside"}
    (branch,) = count.branches
    assert branch.module == "inside"
    assert [alternative.macs for alternative in branch.alternatives] == [64, 128]
    assert count.between(lambda work: work.macs) == (64, 128)


def test_branches_are_independent_of_each_other() -> None:
    # Two choices of 1 or 5, of which 5 and 1 were taken, beside 10 that always run.
    one, five = Count((Work("a", "x", 1, 1, 0),)), Count((Work("a", "x", 1, 5, 0),))
    count = Count(
        (Work("a", "x", 2, 6, 0), Work("", "x", 1, 10, 0)),
        branches=(Branch("a", (one, five), 1), Branch("a", (one, five), 0)),
    )
    assert count.between(lambda work: work.macs) == (12, 20)


def test_a_count_under_a_name_is_the_same_work_elsewhere() -> None:
    count = count_of(Within(Chooses()), torch.ones(4, 4)) + count_of(
        Calls(lambda x: (x.sort(), torch.linalg.qr(x))), torch.ones(3, 3)
    )
    moved = Count(moves=(Moved("", "sort", 3),))
    under = (count + moved).under("encoder")
    assert (under.macs, under.flops, under.activation_bytes) == (
        count.macs,
        count.flops,
        count.activation_bytes,
    )
    assert under.work[0].module.startswith("encoder")
    assert {run.module for run in under.runs} == {"encoder", "encoder.inside"}
    assert {unknown.module for unknown in under.unknown} == {"encoder"}
    assert under.moves[-1] == Moved("encoder", "sort", 3)
    assert under.branches[0].module == "encoder.inside"
    assert under.branches[0].alternatives[1].work[0].module == "encoder.inside"
    assert count.under("") == count


def test_a_count_does_not_change_once_it_is_made() -> None:
    count = count_of(nn.Linear(2, 2), torch.zeros(1, 2))
    for part, name in (
        (count, "work"),
        (count.work[0], "macs"),
        (count.runs[0], "calls"),
        (Moved("", "", 0), "kind"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, None)
    (unknown,) = count_of(Calls(torch.linalg.qr), torch.eye(2)).unknown
    for each, name in ((unknown, "calls"), (Branch("", (), 0), "booked")):
        with pytest.raises(FrozenInstanceError):
            setattr(each, name, None)


def test_a_fault_within_a_branch_leaves_nothing_of_it_behind() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with contextlib.suppress(RuntimeError):
                torch.cond(x.sum() > 0, lambda y: y @ y, lambda y: y @ y[:3], (x,))
            return x @ x

    assert count_of(Fails(), torch.ones(4, 4)).macs == 64


def test_a_thread_that_is_taken_over_books_where_its_parent_was() -> None:
    ledger = Ledger()
    ledger.here.path.append("inside")
    with ledger.silent():
        there = ledger.taken_over()
    seen = []

    def child() -> None:
        seen.append(ledger.here.watched)
        with there():
            seen.append((ledger.here.watched, ledger.here.muted, ledger.here.path))
            ledger.record([Cost("linear", 5, 10)], torch.zeros(3))
        seen.append((ledger.here.watched, ledger.here.path))

    thread = threading.Thread(target=child)
    thread.start()
    thread.join()
    assert seen == [False, (True, False, ["", "inside"]), (False, [""])]
    assert ledger.count().work == (Work("inside", "linear", 1, 5, 10, 12),)


def test_the_data_flow_hears_of_products_by_the_first_ones_name() -> None:
    image = torch.zeros(2, 3, device="meta")
    flow = Flow(image)
    ledger = Ledger(flow)
    ledger.here.path.append("inside")
    out = torch.empty(2, 3, device="meta")
    add = torch.ops.aten.add.Tensor
    kinds = [Cost("elementwise", 0, 6), Cost("scores", 5, 10), Cost("values", 7, 14)]
    ledger.record_step(add, ((image, image), {}), out, kinds)
    # Below what is booked whole, and where the cost is unknown, a step has no work.
    with ledger.silent():
        ledger.record_step(add, ((image, image), {}), out, kinds)
    ledger.record_step(add, ((image, image), {}), out, None)
    needs = frozenset({0})
    assert flow.steps[1:] == [
        Step("inside", "scores", 12, needs),
        Step("inside", "", 0, needs),
        Step("inside", "", 0, needs),
    ]


def test_what_a_branch_ran_is_booked_with_its_modules() -> None:
    ledger = Ledger()
    taken = Count((Work("a", "linear", 1, 5, 10),), runs=(ModuleRun("a", 2, (3,), ((4,),)),))
    ledger.record_branch((Count(), taken), 1)
    found = ledger.count()
    assert (found.work, found.runs) == (taken.work, taken.runs)
    assert found.branches == (Branch("", (Count(), taken), 1),)


def test_an_output_that_is_no_tensor_has_no_bytes() -> None:
    ledger = Ledger()
    ledger.record([Cost("recurrent", 5, 10, written=3), Cost("linear", 1, 2)], None)
    assert [work.output_bytes for work in ledger.count().work] == [0, 0]
    assert ledger.count().activation_bytes == 0
