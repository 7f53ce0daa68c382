"""What a figure is to be drawn of, checked, and drawn: for `segmeter plot` and for a paper's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmeter.commands.console import warn

# Option -> the kinds it goes with; the others would pass over it in silence.
GOES_WITH = {
    "x": ("pareto",),
    "y": ("pareto",),
    "gflops": ("pareto",),
    "paper": ("pareto",),
    "add": ("pareto",),
    "dataset": ("pareto", "circles"),
    "backbone": (
        *("pareto", "breakdown", "circles", "configurations", "stages"),
        *("lpe", "resolution", "layers", "not-counted", "realised"),
    ),
    "from": ("pareto", "realised"),
    "model": ("pareto", "breakdown", "resolution", "not-counted"),
}
X = {
    "gflops-encoder": "gflops_encoder",
    "gflops-total": "gflops_total",
    "fps": "fps",
    "latency": "latency_ms",
}
Y = ("pq", "miou", "ap")
DEFAULT_RECORDS = Path("results")
GFLOPS = ("measured", "published", "both")


@dataclass(frozen=True)
class Choice:
    """What was asked for, checked."""

    kind: str
    x: str
    y: str
    dataset: str
    backbones: Sequence[str]
    papers: Sequence[str]
    gflops: str
    models: Sequence[str]
    add: Path | None
    records: Path | None

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"pareto-{self.x}-{self.y}-{self.dataset}" if self.kind == "pareto" else self.kind

    @property
    def backbone(self) -> str:
        """The one backbone of a kind that has one.

        Raises:
            ValueError: several, or one that is not known.
        """
        from segmeter.encoders.backbones.table import check_backbone
        from segmeter.encoders.systems.table import SYSTEMS
        from segmeter.model_text import ModelText

        if len(self.backbones) > 1:
            raise ValueError(f"{self.kind} takes one --backbone, got {' and '.join(self.backbones)}")
        if self.backbones:
            check_backbone(self.backbones[0])
        if self.backbones:
            return self.backbones[0]
        # The encoders beside a model of one's own are on its backbone, if it names one that they take.
        written = [ModelText.named(model) for model in self.models]
        named = {
            one.backbone for one in written if one.name not in SYSTEMS or SYSTEMS[one.name].backbones is None
        }
        named -= {""}
        return named.pop() if len(named) == 1 else "swin-t"


def choose(kind: str | None, given: Mapping[str, Any]) -> Choice:
    """What is to be drawn, with the usual of what is not said.

    Args:
        kind: of figure.
        given: x, y, gflops, paper, add, dataset, backbone, from, model; None or empty for the usual.

    Raises:
        ValueError: a kind or a value that is none, or an option that does not go with the kind.
    """
    check_kind(kind, given)
    assert kind is not None
    backbones = given.get("backbone") or []
    return Choice(
        kind=kind,
        x=one_of("--x", (given.get("x") or default_cost(backbones)).replace("_", "-"), list(X)),
        y=one_of("--y", given.get("y") or "pq", Y),
        dataset=given.get("dataset") or "coco",
        backbones=backbones,
        papers=given.get("paper") or ["pro-scale"],
        gflops=one_of("--gflops", given.get("gflops") or "measured", GFLOPS),
        models=given.get("model") or [],
        add=given.get("add"),
        records=given.get("from"),
    )


def check_kind(kind: str | None, given: Mapping[str, Any]) -> None:
    """Raise ValueError where the kind is none, or an option does not go with it."""
    from segmeter.reports.plots.named import KINDS
    from segmeter.words import nearest

    if kind is None:
        raise ValueError(f"no kind of figure given; choose from {', '.join(KINDS)}")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of figure {kind!r}{nearest(kind, list(KINDS))}")
    for option, value in given.items():
        if value and kind not in GOES_WITH[option]:
            name = "a MODEL" if option == "model" else f"--{option}"
            raise ValueError(f"{name} does not go with {kind}, only with {', '.join(GOES_WITH[option])}")


def one_of(option: str, value: str, choices: Sequence[str]) -> str:
    """The value, if it is one of the choices; else ValueError with the nearest."""
    from segmeter.words import nearest

    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{nearest(value, choices)}")
    return value


def draw(choice: Choice) -> tuple[Any, str, Any]:
    """Figure, caption, and the data that were drawn."""
    from segmeter.harness import tradeoff as data
    from segmeter.reports.plots import named as figures

    kind = choice.kind
    if kind == "pareto":
        return _draw_pareto(choice)
    found: Any
    if kind in ("circles", "configurations", "stages", "backbones", "lpe"):
        points = data.points_data(None, None, ())
    if kind == "breakdown":
        found = data.breakdown_data(choice.backbone, choice.models)
        figure, caption = figures.breakdown_picture(found)
    elif kind == "circles":
        found = points
        figure, caption = figures.circles_figure(points, choice.dataset, choice.backbone)
    elif kind == "configurations":
        found = points
        figure, caption = figures.configurations_figure(points, choice.backbone)
    elif kind == "stages":
        found = points
        figure, caption = figures.stages_figure(points, choice.backbone)
    elif kind == "backbones":
        found = points
        figure, caption = figures.backbones_figure(points)
    elif kind == "lpe":
        found = data.lpe_data(choice.backbone)
        figure, caption = figures.lpe_figure(found, points)
    elif kind == "resolution":
        found = data.resolution_data(choice.backbone, choice.models)
        figure, caption = figures.resolution_figure(found)
    elif kind == "layers":
        found = data.layers_data(choice.backbone)
        figure, caption = figures.layers_figure(found)
    elif kind == "not-counted":
        found = data.not_counted_data(choice.backbone, choice.models)
        figure, caption = figures.not_counted_figure(found)
    else:
        folder = _records(choice.records or (DEFAULT_RECORDS if DEFAULT_RECORDS.is_dir() else None))
        found = data.realised_data(folder)
        figure, caption = figures.realised_figure(found, choice.backbone if choice.backbones else None)
    return figure, caption, found


def _draw_pareto(choice: Choice) -> tuple[Any, str, Any]:
    from segmeter.harness.tradeoff import points_data
    from segmeter.reports.plots.tradeoff import fronts, pareto_figure, select

    x, y = X[choice.x], choice.y
    backbone = choice.backbones[0] if len(choice.backbones) == 1 else "swin-t"
    points = points_data(_records(choice.records), choice.add, choice.models, backbone)
    for option, key, values in (
        ("--dataset", "dataset", [choice.dataset]),
        ("--backbone", "backbone", choice.backbones),
        ("--paper", "paper", [p for p in choice.papers if p != "all"]),
    ):
        for value in values:
            one_of(option, value, sorted({p[key] for p in points if p[key]}))
    papers = () if "all" in choice.papers else choice.papers
    shown = select(points, x, y, choice.dataset, choice.backbones, papers, choice.gflops)
    unscored = [
        p
        for p in points
        if p["source"] == "own" and p[y] is None and p[x] is not None and p["dataset"] == choice.dataset
    ]
    _tell_undrawn(points, [*shown, *unscored], choice)
    figure, caption = pareto_figure(shown, x, y, unscored)
    best = {id(p) for group in fronts(shown, x, y).values() for p in group}
    return figure, caption, [{**p, "on_front": id(p) in best} for p in [*shown, *unscored]]


def _tell_undrawn(
    points: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]], choice: Choice
) -> None:
    """Name the user's own points that the chart has no place for, and why."""
    names = {p["label"] for p in drawn}
    missing: dict[str, list[str]] = {}
    for point in points:
        if point["source"] != "own" or point["label"] in names:
            continue
        lacking = [column for column in (X[choice.x], choice.y) if point[column] is None]
        if point["dataset"] not in ("", choice.dataset):
            why = f"of {point['dataset']}, the chart is of {choice.dataset} (--dataset)"
        elif lacking:
            why = f"without {' and '.join(lacking)}"
        else:
            why = f"of backbone {point['backbone'] or 'unknown'} (--backbone)"
        missing.setdefault(why, []).append(point["label"])
    for why, labels in missing.items():
        warn(f"not drawn: {', '.join(labels[:3])}{' ...' if len(labels) > 3 else ''}: {why}")


def _records(folder: Path | None) -> Path | None:
    """The folder of records, its damaged files named."""
    from segmeter.harness.tradeoff import read_records

    if folder is not None:
        for damaged in read_records(folder).damaged:
            warn(f"passed over {damaged.path}: {damaged.reason}")
    return folder


def default_cost(backbones: Sequence[str]) -> str:
    """Encoders are compared on one backbone; where backbones differ, what they cost belongs in the figure."""
    return "gflops-encoder" if len(backbones) == 1 else "gflops-total"
