"""Ten seeded changes of a small encoder: each is caught or let pass, and put down to the right module."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.gate.budgets import Limit, ModelBudget
from segmeter.harness.gate.capture import snapshot_of
from segmeter.harness.gate.judge import judge_measured
from segmeter.harness.gate.verdict import OVER, UNCOUNTED, WITHIN, Measured
from segmeter.harness.models.structure import meta_copy

DIM = 16


@torch.library.custom_op("gate_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Layer(nn.Module):
    def __init__(self, ffn: int, heads: int, name: str = "linear1") -> None:
        super().__init__()
        self.first = name
        self.attention = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(heads))
        setattr(self, name, nn.Linear(DIM, ffn))
        self.linear2 = nn.Linear(ffn, DIM)

    def forward(self, x: Tensor) -> Tensor:
        for head in self.attention:
            x = x + head(x)
        return x + self.linear2(F.relu(getattr(self, self.first)(x)))


class PixelEmbedding(nn.Module):
    """PRO-SCALE's LPE is a 3x3 max-pool, which has no MACs; M2F has a 3x3 convolution in its place."""

    def __init__(self, conv: bool) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(DIM, DIM, 3, padding=1, bias=False) if conv else nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(x)


@dataclass
class Seed:
    """What is planted; the defaults are the model on the main branch."""

    ffn: int = 32
    layers: int = 2
    heads: int = 2
    queries: int = 10
    levels: int = 1
    conv: bool = False
    custom_op: bool = False
    shared: bool = True
    bias: bool = True
    ffn_name: str = "linear1"


class Encoder(nn.Module):
    def __init__(self, seed: Seed) -> None:
        super().__init__()
        self.seed = seed
        self.input_proj = nn.ModuleList(nn.Conv2d(4, DIM, 1) for _ in range(seed.levels))
        self.layers = nn.ModuleList(Layer(seed.ffn, seed.heads, seed.ffn_name) for _ in range(seed.layers))
        self.pixel_embedding = PixelEmbedding(seed.conv)
        self.query = nn.Embedding(seed.queries, DIM)
        self.embed = nn.Linear(DIM, DIM, bias=seed.bias)
        self.head = nn.Linear(DIM, DIM, bias=seed.bias)
        if seed.shared:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.avg_pool2d(x, 2**i) if i else x for i in range(1, self.seed.levels + 1)]
        tokens = torch.cat(
            [proj(m).flatten(2) for proj, m in zip(self.input_proj, reversed(maps), strict=True)], 2
        ).mT
        for layer in self.layers:
            tokens = layer(tokens)
        self.pixel_embedding(self.input_proj[0](x))
        scores = self.embed(self.query.weight) @ self.head(tokens).mT
        return twice(scores) if self.seed.custom_op else scores


def measured(seed: Seed, limits: dict[str, Limit] | None = None) -> Measured:
    model = meta_copy(Encoder(seed)).eval()
    _, count = run_and_count(model, torch.empty(1, 4, 8, 8, device="meta"))
    budget = ModelBudget("tiny", "tiny", limits=limits or {})
    return Measured(budget, snapshot_of("tiny", None, "macs", (count,), model), model)


def test_an_unchanged_model_passes_without_a_change() -> None:
    verdicts, changes = judge_measured(measured(Seed()), measured(Seed()).snapshot)
    assert changes == []
    assert {(v.what, v.status, v.now - v.before) for v in verdicts} == {
        ("total", WITHIN, 0),
        ("params", WITHIN, 0),
    }


# The model of the main branch has one level of 4x4 = 16 tokens (8x8 pooled by 2), 10 queries, 2 layers.
TOKENS, QUERIES = 16, 10


@pytest.mark.parametrize(
    ("seed", "more_macs", "kind", "path"),
    [
        # Two linear layers in each of two layers: 16 more hidden channels x 16 x 16 tokens.
        pytest.param(Seed(ffn=48), 4 * 16 * DIM * TOKENS, "changed", "layers.0.linear1", id="wider-ffn"),
        # Two attention projections and two FFN products.
        pytest.param(
            Seed(layers=3),
            TOKENS * (2 * DIM * DIM + 2 * DIM * 32),
            "added",
            "layers.2",
            id="extra-layer",
        ),
        # 8x8 places, each a sum over 9 * 16, for 16 channels.
        pytest.param(
            Seed(conv=True), 64 * 9 * DIM * DIM, "added", "pixel_embedding", id="lpe-swapped-for-conv"
        ),
        # Ten more queries through `embed`, and against every token.
        pytest.param(
            Seed(queries=20),
            QUERIES * DIM * DIM + QUERIES * DIM * TOKENS,
            "changed",
            "query",
            id="doubled-queries",
        ),
        pytest.param(Seed(heads=3), 2 * TOKENS * DIM * DIM, "added", "layers.0.attention.2", id="added-head"),
        # A second level of 8x8 = 64 pixels pooled by 4 to 2x2 = 4 tokens beside the 16.
        pytest.param(
            Seed(levels=2),
            4 * 4 * DIM + 2 * 4 * (2 * DIM * DIM + 2 * DIM * 32) + 4 * DIM * DIM + QUERIES * DIM * 4,
            "added",
            "input_proj.1",
            id="added-level",
        ),
    ],
)
def test_a_regression_of_work_is_caught_and_attributed(
    seed: Seed, more_macs: int, kind: str, path: str
) -> None:
    verdicts, _ = judge_measured(measured(seed), measured(Seed()).snapshot)
    total = next(v for v in verdicts if v.what == "total")
    assert total.status == OVER
    assert total.now - (total.before or 0) == more_macs
    assert (total.causes[0].kind, total.causes[0].path) == (kind, path)


def test_a_higher_resolution_is_put_down_to_what_now_sees_more_tokens() -> None:
    before = measured(Seed())
    model = meta_copy(Encoder(Seed())).eval()
    _, count = run_and_count(model, torch.empty(1, 4, 16, 16, device="meta"))
    after = Measured(before.budget, snapshot_of("tiny", None, "macs", (count,), model), model)
    verdicts, changes = judge_measured(after, before.snapshot)
    assert [v.status for v in verdicts if v.what == "total"] == [OVER]
    assert {c.kind for c in changes} == {"reshaped"}
    # 16 tokens became 64.
    assert any("1x16x32 became 1x64x32" in c.text for c in changes)


def test_an_uncounted_custom_op_is_caught_with_its_shapes() -> None:
    verdicts, _ = judge_measured(measured(Seed(custom_op=True)), measured(Seed()).snapshot)
    found = [v for v in verdicts if v.status == UNCOUNTED]
    assert [v.what for v in found] == ["gate_test::twice"]
    assert found[0].detail == "1x, first in the model itself on 1x10x16"
    assert all(v.status == WITHIN for v in verdicts if v not in found)


def test_an_op_that_was_uncounted_before_is_no_alarm() -> None:
    now = measured(Seed(custom_op=True))
    assert all(v.status == WITHIN for v in judge_measured(now, now.snapshot)[0])


def test_a_lost_weight_sharing_is_caught_by_its_parameters() -> None:
    verdicts, _ = judge_measured(measured(Seed(shared=False)), measured(Seed()).snapshot)
    by_name = {v.what: v for v in verdicts}
    assert by_name["total"].status == WITHIN
    assert by_name["params"].status == OVER
    assert by_name["params"].now - (by_name["params"].before or 0) == DIM * DIM
    cause = by_name["params"].causes[0]
    assert (cause.kind, cause.path) == ("changed", "head")
    assert cause.text.endswith("no longer shared")


def test_a_removed_bias_passes_and_is_told() -> None:
    verdicts, changes = judge_measured(measured(Seed(bias=False)), measured(Seed()).snapshot)
    assert all(v.status == WITHIN for v in verdicts)
    assert {(c.kind, c.path, c.params) for c in changes} == {
        ("changed", "embed", -DIM),
        ("changed", "head", -DIM),
    }


def test_a_rename_is_no_change_of_cost_and_is_recognised() -> None:
    verdicts, changes = judge_measured(measured(Seed(ffn_name="expand")), measured(Seed()).snapshot)
    assert all(v.status == WITHIN and v.now == v.before for v in verdicts)
    assert [(c.kind, c.text) for c in changes] == [
        ("renamed", "layers.0.linear1 was renamed to layers.0.expand"),
        ("renamed", "layers.1.linear1 was renamed to layers.1.expand"),
    ]


@pytest.mark.parametrize(("percent", "status"), [(5.0, OVER), (60.0, WITHIN)])
def test_a_component_may_grow_by_its_tolerance(percent: float, status: str) -> None:
    limits = {"layers.*.linear1": Limit(percent, relative=True), "total": Limit(10**9, relative=False)}
    # 32 hidden channels became 48: half as much again.
    verdicts, _ = judge_measured(measured(Seed(ffn=48), limits), measured(Seed()).snapshot)
    assert [v.status for v in verdicts if v.what == "layers.*.linear1"] == [status]


def test_a_new_component_is_over_any_relative_limit() -> None:
    limits = {"pixel_embedding": Limit(10.0, relative=True), "total": Limit(10**9, relative=False)}
    verdicts, _ = judge_measured(measured(Seed(conv=True), limits), measured(Seed()).snapshot)
    assert [v.status for v in verdicts if v.what == "pixel_embedding"] == [OVER]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.limits.update({"layer": Limit(1, relative=False)}), "no component 'layer'"),
        (lambda b: b.limits.update({"total": Limit(1, relative=True)}), "no baseline to relate it to"),
    ],
)
def test_a_limit_that_cannot_hold_is_refused(change: Callable[[ModelBudget], None], message: str) -> None:
    now = measured(Seed(), {})
    change(now.budget)
    with pytest.raises(ValueError, match=message):
        judge_measured(now, None)
