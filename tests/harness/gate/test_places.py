"""Where the gate points: at the class whose code was edited, relative to the repository, always somewhere."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.gate.budgets import Limit, ModelBudget
from segmeter.harness.gate.capture import snapshot_of
from segmeter.harness.gate.judge import judge_measured
from segmeter.harness.gate.places import place_of, repository_root
from segmeter.harness.gate.verdict import OVER, Measured
from tests.helpers.places import ROOT


class Ffn(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(8, hidden), nn.Linear(hidden, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.linear1(x))


class Layer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Linear(8, 8)
        self.ffn = Ffn(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ffn(self.attention(x))


class Encoder(nn.Module):
    def __init__(self, layers: int = 2, hidden: int = 16, head: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(hidden) for _ in range(layers))
        self.head = nn.Linear(8, head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class FfnTwice(Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ffn(self.ffn(self.attention(x)))


class MoreTokens(Encoder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat((x, x), 1))


class Mixed(Ffn):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x @ x.transpose(1, 2) @ x)


def with_layers(make: Callable[[], nn.Module]) -> Encoder:
    model = Encoder()
    model.layers = nn.ModuleList(make() for _ in range(2))
    return model


def with_ffn(ffn: nn.Module) -> Encoder:
    model = Encoder()
    model.layers[0].ffn = ffn
    return model


def measured(model: nn.Module, **limits: float) -> Measured:
    _, count = run_and_count(model.to("meta"), torch.empty(1, 4, 8, device="meta"))
    read = {name.replace("__", ".*."): Limit(most, relative=False) for name, most in limits.items()}
    return Measured(
        ModelBudget("tiny", "tiny", limits=read), snapshot_of("tiny", None, "macs", (count,), model), model
    )


def places(now: Measured, before: Measured | None, budgets: Path, root: Path = ROOT) -> dict[str, tuple]:
    verdicts, _ = judge_measured(now, before.snapshot if before else None)
    return {v.what: place_of(v, now, budgets, root) for v in verdicts if v.status == OVER}


@pytest.fixture
def budgets(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text('size = "32x64"\n\n[models.other]\nmodel = "m2f"\n\n[models.tiny]\nmodel = "tiny"\n')
    return path


def line_of(kind: type) -> int:
    return inspect.getsourcelines(kind)[1]


@pytest.mark.parametrize(
    ("now", "owner"),
    [
        # A third layer: the list's owner was edited, not the layer.
        (Encoder(layers=3), Encoder),
        (Encoder(layers=1), None),  # cheaper: nothing to point at
        # A wider projection inside the FFN: its class, since nn.Linear is not of this repository.
        (Encoder(hidden=32), Ffn),
        (Encoder(head=64), Encoder),
    ],
    ids=["one-more-layer", "one-less", "wider-ffn", "wider-head"],
)
def test_a_figure_points_at_the_class_that_was_edited(
    now: Encoder, owner: type | None, budgets: Path
) -> None:
    found = places(measured(now), measured(Encoder()), budgets)
    here = Path(__file__).relative_to(ROOT).as_posix()
    assert found.get("total") == ((here, line_of(owner)) if owner else None)


@pytest.mark.parametrize(
    ("now", "owner", "said"),
    [
        (with_layers(lambda: FfnTwice(16)), FfnTwice, "runs 2x instead of 1x"),
        (MoreTokens(), MoreTokens, "1x8x"),
        # Work of its own where there was none: the class was there, and was edited.
        (
            with_ffn(Mixed(16)),
            Mixed,
            "layers.0.ffn: the forward of Mixed changed: it does work of its own now",
        ),
    ],
    ids=["called-twice", "fed-more", "own-work"],
)
def test_an_edit_inside_forward_points_at_the_class_whose_forward_it_is(
    now: Encoder, owner: type, said: str, budgets: Path
) -> None:
    before = measured(Encoder())
    assert places(measured(now), before, budgets)["total"][1] == line_of(owner)
    judged, _ = judge_measured(measured(now), before.snapshot)
    (verdict,) = [v for v in judged if v.what == "total"]
    assert said in verdict.causes[0].text and "added" not in verdict.causes[0].text


@pytest.mark.parametrize(
    ("limit", "owner"),
    [("layers__ffn", Ffn), ("layers__attention", Layer), ("layers__ffn.linear1", Ffn), ("head", Encoder)],
)
def test_an_absolute_limit_points_at_what_it_names(limit: str, owner: type, budgets: Path) -> None:
    (place,) = places(measured(Encoder(), **{limit: 1}), None, budgets).values()
    assert place == (Path(__file__).relative_to(ROOT).as_posix(), line_of(owner))


def test_a_model_from_elsewhere_points_at_its_table_in_the_budget_file(budgets: Path) -> None:
    now = measured(nn.Sequential(nn.Linear(8, 8)), total=1)
    assert places(now, None, budgets, budgets.parent) == {"total": ("budgets.toml", 6)}
    # Outside the repository the path stays as it was given.
    assert places(now, None, budgets)["total"][0] == budgets.as_posix()


def test_a_limit_is_explained_by_changes_of_what_it_names_alone(budgets: Path) -> None:
    """The pattern's layers have an attention beside the FFN, which is no cause of the FFN's figure."""

    class Wider(Layer):
        def __init__(self, hidden: int) -> None:
            super().__init__(2 * hidden)
            self.attention = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    now = Encoder()
    now.layers = nn.ModuleList(Wider(16) for _ in range(2))
    judged, _ = judge_measured(measured(now, layers__ffn=1), measured(Encoder()).snapshot)
    (verdict,) = [v for v in judged if v.what == "layers.*.ffn"]
    assert verdict.causes
    assert all(".ffn" in cause.path for cause in verdict.causes)


def test_a_layer_that_came_whole_explains_what_is_inside_it(budgets: Path) -> None:
    judged, _ = judge_measured(measured(Encoder(layers=3), layers__ffn=1), measured(Encoder()).snapshot)
    (verdict,) = [v for v in judged if v.what == "layers.*.ffn"]
    assert [cause.path for cause in verdict.causes] == ["layers.2"]


def test_the_root_is_the_repository_s_or_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repository_root(ROOT / "results" / "budgets.toml") == ROOT
    monkeypatch.chdir(tmp_path)
    assert repository_root(tmp_path / "budgets.toml") == tmp_path
