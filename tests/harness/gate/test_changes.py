"""What a change is put down to: facts of small models, module by module."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.gate import changes as changes_module
from segmeter.harness.gate.capture import snapshot_of
from segmeter.harness.gate.changes import Change, causes, changes_between
from segmeter.harness.gate.snapshot import ModuleCost, Snapshot
from segmeter.harness.models.structure import meta_copy


class Layer(nn.Module):
    """One linear layer, and a product of its own in ``forward``: ``repeats`` times 8x8 MACs a token."""

    def __init__(self, repeats: int = 1, width: int = 8) -> None:
        super().__init__()
        self.repeats = repeats
        self.linear = nn.Linear(8, width, bias=False)
        self.own = nn.Parameter(torch.zeros(width, 8))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        for _ in range(self.repeats):
            x = F.linear(y, self.own.T)
        return x if memory is None else x + (x @ memory.mT) @ memory


class Net(nn.Module):
    def __init__(self, layers: list[Layer], tokens: int = 4) -> None:
        super().__init__()
        self.layers, self.tokens = nn.ModuleList(layers), tokens

    def forward(self, x: Tensor) -> Tensor:
        memory = x[:, :1].expand(-1, self.tokens, -1)
        for layer in self.layers:
            x = layer(x, memory=memory)
        return x


def shot(model: nn.Module, tokens: int = 16) -> Snapshot:
    model = meta_copy(model).eval()
    _, count = run_and_count(model, torch.empty(1, tokens, 8, device="meta"))
    return snapshot_of("net", None, "macs", (count,), model)


def net(repeats: int = 1, width: int = 8, layers: int = 3, tokens: int = 4) -> Net:
    return Net([Layer(repeats, width) for _ in range(layers)], tokens)


def test_an_edit_of_the_forward_is_told_as_one() -> None:
    before, after = shot(net(1)), shot(net(3))
    (change,) = changes_between(before, after)
    assert (change.kind, change.path) == ("changed", "layers.0")
    # Two more products of 8x8 for each of 16 tokens, in each of three layers.
    assert change.work == 3 * 2 * 16 * 8 * 8 == after.total - before.total
    assert change.text == (
        "layers.0 and 2 more: the forward or the settings of Layer changed: other work on the same input "
        "1x16x8 1x4x8"
    )
    assert set(change.components) == {"layers.0", "layers.1", "layers.2"}


def test_settings_that_leave_no_weight_are_told_as_a_change_of_the_module() -> None:
    before = shot(nn.Sequential(nn.Conv1d(16, 8, 3, bias=False)))
    after = shot(nn.Sequential(nn.Conv1d(16, 8, 3, stride=2, bias=False)))
    (change,) = changes_between(before, after)
    assert (change.kind, change.path) == ("changed", "0")
    assert change.text.endswith("on the same input 1x16x8, giving 1x8x3 instead of 1x8x6")
    assert change.work == -3 * 8 * 16 * 3


def test_other_inputs_are_told_with_their_shapes_whatever_their_place() -> None:
    """The layers' second input, given by name, has four times the tokens."""
    changes = changes_between(shot(net(tokens=4)), shot(net(tokens=16)))
    (change,) = [c for c in changes if c.components == ("layers.0",)]
    assert change.kind == "reshaped"
    assert change.text == "layers.0, unchanged themselves: input 1x16x8 1x4x8 became 1x16x8 1x16x8"
    # Two products of 8 channels for each of 16 x 12 more pairs.
    assert change.work == 2 * 16 * 12 * 8


def test_what_moved_inside_is_no_edit_of_what_is_around_it() -> None:
    changes = changes_between(shot(net(width=8)), shot(net(width=24)))
    kinds = {c.path: c.kind for c in changes}
    assert kinds["layers.0.linear"] == "changed"
    assert {c.text for c in changes if c.path == "layers.0.linear"} == {
        "layers.0.linear: Linear weight 8x8 became weight 24x8"
    }


@pytest.mark.parametrize("wide", [True, False])
def test_changes_add_up_to_the_difference(wide: bool) -> None:
    first, second = shot(net(1, 8, 2, 4)), shot(net(2, 16 if wide else 8, 3, 8), 32)
    for before, after in ((first, second), (second, first)):
        changes = changes_between(before, after)
        assert sum(c.work for c in changes) == after.total - before.total
        assert sum(c.params for c in changes) == after.params - before.params


# Unit tests on snapshots made by hand ----------------------------------------------------------------------


def cost(kind: str = "Linear", work: int = 10, **more: object) -> ModuleCost:
    fields = {"weights": "weight 2x5", "params": 10, "calls": 1, "inputs": "1x5", "output": "1x2"}
    return ModuleCost(**{"kind": kind, "work": work, "component": "", **fields, **more})  # type: ignore[arg-type]


def made(**modules: ModuleCost) -> Snapshot:
    found = {path.replace("__", "."): each for path, each in modules.items()}
    found = {
        p: each if each.component else ModuleCost(**{**vars(each), "component": p})
        for p, each in found.items()
    }
    total, params = sum(c.work for c in found.values()), sum(c.params for c in found.values())
    return Snapshot("m", "", "macs", total, params, 0, found, {})


@pytest.mark.parametrize(
    ("before", "after", "kind", "path", "text", "work", "params"),
    [
        (made(), made(a=cost()), "added", "a", "a was added: Linear weight 2x5 giving 1x2", 10, 10),
        (made(a=cost()), made(), "removed", "a", "a was removed: Linear weight 2x5 giving 1x2", -10, -10),
        (
            made(x=cost(), a__b=cost()),
            made(x=cost()),
            "removed",
            "a",
            "a was removed: Linear weight 2x5 giving 1x2",
            -10,
            -10,
        ),
        (
            made(),
            made(a__b=cost(), a__c=cost(work=20, calls=3)),
            "added",
            "a",
            "a was added: 2 modules, among them Linear weight 2x5 giving 1x2, 3x",
            30,
            20,
        ),
        (
            made(a=cost()),
            made(a=cost(weights="weight 4x5", params=20, work=20)),
            "changed",
            "a",
            "a: Linear weight 2x5 became weight 4x5",
            10,
            10,
        ),
        (
            made(a=cost(weights="weight 2x5 (= b.weight)", params=0)),
            made(a=cost()),
            "changed",
            "a",
            "a: Linear weight 2x5 (= b.weight) became weight 2x5, no longer shared",
            0,
            10,
        ),
        (
            made(a=cost()),
            made(a=cost("Pool", weights="", params=0)),
            "changed",
            "a",
            "a: Linear weight 2x5 giving 1x2 became Pool giving 1x2",
            0,
            -10,
        ),
        (
            made(a=cost()),
            made(a=cost(calls=2, work=20)),
            "reshaped",
            "a",
            "a, unchanged themselves: runs 2x instead of 1x",
            10,
            0,
        ),
        (
            made(a=cost()),
            made(a=cost(inputs="2x5", output="2x2", work=20)),
            "reshaped",
            "a",
            "a, unchanged themselves: output 1x2 became 2x2",
            10,
            0,
        ),
        (
            made(a=cost(inputs="")),
            made(a=cost(work=20)),
            "reshaped",
            "a",
            "a, unchanged themselves: its inputs or its forward changed",
            10,
            0,
        ),
        (made(a=cost()), made(b=cost()), "renamed", "b", "a was renamed to b", 0, 0),
    ],
)
def test_a_change_has_its_kind_its_words_and_its_sign(
    before: Snapshot, after: Snapshot, kind: str, path: str, text: str, work: int, params: int
) -> None:
    (change,) = changes_between(before, after)
    assert change == Change(kind, path, text, work, params, change.components)
    assert change.components


def test_a_parent_that_begins_to_work_hides_no_module_that_came() -> None:
    found = changes_between(made(a__b=cost()), made(a=cost(work=7), a__b=cost(), c=cost()))
    assert [(c.kind, c.path, c.work) for c in found] == [("added", "c", 10), ("changed", "a", 7)]


def test_the_same_is_no_change() -> None:
    assert changes_between(made(a=cost(), b__c=cost()), made(a=cost(), b__c=cost())) == []


def test_causes_come_first_and_the_largest_first_whatever_their_sign() -> None:
    before = made(small=cost(), large=cost(work=900), seen=cost(inputs="1x5"), same=cost())
    after = made(
        small=cost(weights="weight 1x5", work=5, params=5),
        large=cost(weights="weight 1x5", work=100, params=5),
        seen=cost(inputs="9x5", work=5000),
        same=cost(),
        new=cost(work=1),
    )
    found = changes_between(before, after)
    assert [(c.kind, c.path, c.work) for c in found] == [
        ("added", "new", 1),
        ("changed", "large", -800),
        ("changed", "small", -5),
        ("reshaped", "seen", 4990),
    ]
    assert [c.path for c in causes(found, "")] == ["new", "large", "small"]
    assert [c.path for c in causes(found, "", limit=1)] == ["new"]
    assert [c.path for c in causes(found, "seen")] == ["seen"]
    assert causes(found, "see") == [] and causes(found, "seen.more") == []


def test_a_change_without_a_figure_is_no_cause() -> None:
    assert causes(changes_between(made(a=cost()), made(b=cost())), "") == []


def test_of_two_modules_alike_the_one_of_the_same_name_is_the_renamed_one() -> None:
    found = changes_between(made(old__a=cost(), old__b=cost()), made(new__b=cost(), new__a=cost()))
    assert [(c.kind, c.text) for c in found] == [("renamed", "old was renamed to new")]


def test_a_rename_takes_one_module_each() -> None:
    found = changes_between(made(a=cost(), b=cost()), made(c=cost()))
    assert sorted(c.kind for c in found) == ["removed", "renamed"]


@pytest.mark.parametrize(
    ("pattern", "touched"),
    [
        ("layers.*.ffn", True),
        ("layers.?.ffn.linear1", True),
        ("layers.2", True),
        ("layers", True),
        ("*", True),
        ("layers.*.norm", True),  # the layer came whole, with all that is in it
        ("layers.1.ffn", False),
        ("layer", False),
        ("head", False),
    ],
)
def test_a_pattern_is_touched_by_what_came_whole(pattern: str, touched: bool) -> None:
    found = changes_between(
        made(layers__1__ffn=cost()), made(layers__1__ffn=cost(), layers__2__ffn__linear1=cost())
    )
    assert bool(causes(found, pattern)) == touched


def test_what_the_budget_file_asks_is_told_first() -> None:
    before, after = made(a=cost()), made(a=cost(inputs="9x5", work=90))
    asked = replace(after, size="64x64", model="n")
    found = changes_between(before, asked)
    assert (found[0].kind, found[0].text) == (
        "asked",
        "in the budget file model m became n and size none became 64x64",
    )
    assert [c.kind for c in causes(found, "a")] == ["asked", "reshaped"]
    # To have asked for something else is no work; what it did to the modules is.
    assert sum(c.work for c in found) == asked.total - before.total
    assert sum(c.params for c in found) == asked.params - before.params


def test_a_rename_keeps_at_least_one_name_of_each_path() -> None:
    for old, new in (("a.b", "b"), ("b", "a.b")):
        (change,) = changes_module._renamed({old: new}, {new: cost()})
        assert change.text == f"{old} was renamed to {new}"
    (cut,) = changes_module._renamed({"a.x.b": "a.y.b"}, {"a.y.b": cost()})
    assert cut.text == "a.x was renamed to a.y"


def test_one_changed_module_has_no_others() -> None:
    rows = [("a", cost(work=1), cost(work=5)), ("b", cost(work=1), cost(work=2))]
    assert "more" not in changes_module._rewritten(rows[:1]).text
    assert "a and 1 more" in changes_module._rewritten(rows).text
