"""Trade-offs between cost and quality: Pareto fronts, circles, configurations, backbones."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.common import (
    DATASET_TITLES,
    OWN_COLOUR,
    NothingMatches,
    Point,
    backbone_title,
    beyond,
    clamped,
    colour_of,
    finish,
    new_figure,
    style,
)
from segmeter.reports.plots.labels import Label, place_labels
from segmeter.reports.plots.pareto import HIGHER_IS_BETTER, pareto_front
from segmeter.reports.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "gflops_encoder": "encoder, GMACs",
    "gflops_total": "whole model, GMACs",
    "fps": "images per second",
    "latency_ms": "latency, ms",
    "pq": "PQ, %",
    "miou": "mIoU, %",
    "ap": "AP, %",
}
BASES = {"gflops_encoder": "encoder_basis", "gflops_total": "total_basis"}
MARKERS = {"published": "o", "measured": "s", "own": "*"}
MARKER_TITLES = {
    "published": "published",
    "measured": "cost measured",
    "own": "own",
}
SIZES = {"published": 16.0, "measured": 15.0, "own": 55.0}
LINES = (("-", "solid"), ("--", "dashed"), (":", "dotted"), ("-.", "dash-dotted"))
FADED = 0.35
FADED_INK = "#6B6B6B"


def select(
    points: Sequence[Point],
    x: str,
    y: str,
    dataset: str | None = None,
    backbones: Sequence[str] = (),
    papers: Sequence[str] = (),
    gflops: str = "measured",
) -> list[Point]:
    """The points that a chart of two figures shows.

    Args:
        points: records as of :func:`harness.tradeoff.collect.all_points`.
        x, y: figures, e.g. "gflops_encoder" and "pq".
        dataset: None for all.
        backbones: none for all; the user's own points pass where they name no backbone.
        papers: whose published rows to show; none for all.
        gflops: "measured": GFLOPs measured at one size wherever segmeter has the model; "published": as
            printed; "both".

    Raises:
        ValueError: nothing matches; the line tells what was asked for.
    """
    found = [p for p in points if p[x] is not None and p[y] is not None]
    found = [p for p in found if dataset is None or p["dataset"] == dataset or not p["dataset"]]
    if backbones:
        found = [
            p for p in found if p["backbone"] in backbones or (p["source"] == "own" and not p["backbone"])
        ]
    if papers:
        found = [p for p in found if not p["paper"] or p["paper"] in papers]
    if x.startswith("gflops"):
        if gflops == "measured":
            found = [p for p in found if not (p["source"] == "published" and p["model"])]
        elif gflops == "published":
            found = [p for p in found if p["source"] != "measured"]
    found = _once(found, x, y)
    if not found:
        asked = [
            f"{x} and {y}",
            f"data set {dataset}" if dataset else "",
            f"backbone {' or '.join(backbones)}",
        ]
        asked = asked if backbones else asked[:2]
        hint = "" if x.startswith("gflops") else "; give timing records with --from or your own with --add"
        raise NothingMatches(f"nothing matches: no point has {', '.join(a for a in asked if a)}{hint}")
    return found


def _once(points: Sequence[Point], x: str, y: str) -> list[Point]:
    """Without points that would be drawn upon themselves."""
    kept: dict[tuple[Any, ...], Point] = {}
    for p in points:
        kept.setdefault((p["label"], p["backbone"], p["dataset"], p["source"], p[x], p[y], basis(p, x)), p)
    return list(kept.values())


def basis(p: Point, x: str) -> str:
    """What a cost was taken on, the input or the machine: ``encoder_basis`` and the like of a point."""
    return str(p[BASES.get(x, "speed_basis")])


def fronts(points: Sequence[Point], x: str, y: str) -> dict[str, list[Point]]:
    """Basis -> the points on its front, from the cheap end to the dear one, the largest group first.

    The user's own points without a basis join the largest group, by the user's word; others without one are
    compared with nothing.
    """
    groups: dict[str, list[Point]] = {}
    for p in points:
        if basis(p, x):
            groups.setdefault(basis(p, x), []).append(p)
    loose = groups.pop("own", [])
    groups = dict(sorted(groups.items(), key=lambda item: -len(item[1])))
    if loose:
        groups.setdefault(next(iter(groups), "own"), []).extend(loose)
    return {name: [group[i] for i in pareto_front(group, x, y)] for name, group in groups.items()}


def pareto_figure(
    points: Sequence[Point], x: str, y: str, only_cost: Sequence[Point] = ()
) -> tuple["Figure", str]:
    """Cost against quality: fronts drawn, dominated points faded, own models marked; figure and caption.

    Args:
        points: of :func:`select`.
        x, y: their figures.
        only_cost: own models without a quality, drawn as lines at their cost.
    """
    found = fronts(points, x, y)
    on_front = {id(p) for group in found.values() for p in group}
    others = sorted({p["encoder"] for p in points if p["source"] != "own"})
    caption = _caption(points, x, y, found, only_cost)
    backbones = {p["backbone"] for p in points if p["backbone"]}
    wide = len(points) > 12
    clamp = clamped(points, x, y)
    with style():
        figure, (axes,) = new_figure(wide, 2.5 if not wide else 3.2, caption)
        axes.margins(x=0.12, y=0.14)
        for p in sorted(points, key=lambda p: id(p) in on_front):
            _draw_point(axes, p, (x, y), clamp(p), id(p) in on_front, others)
        lines = []
        for index, group in enumerate(g for g in found.values() if len(g) > 1):
            line = [clamp(p) for p in group]
            lines.append(line)
            dashes = LINES[index % len(LINES)][0]
            axes.plot(*zip(*line, strict=True), color="#444444", linewidth=0.9, linestyle=dashes, zorder=1)
        for p in only_cost:
            axes.axvline(p[x], color=OWN_COLOUR, linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"{AXES[x]} ({'higher' if x in HIGHER_IS_BETTER else 'lower'} is better)")
        axes.set_ylabel(AXES[y])
        axes.grid(True, axis="both")
        _legend(axes, points)
        finish(figure)
        text = [
            Label(
                *clamp(p),
                _name(p, len(backbones) > 1) + beyond(p, x, y, clamp(p)),
                "black" if id(p) in on_front or p["source"] == "own" else FADED_INK,
                4.0 if p["source"] == "own" else 2.6,
            )
            for p in sorted(points, key=lambda p: (id(p) not in on_front, p[x], p[y], p["label"]))
        ]
        text += [Label(p[x], axes.get_ylim()[0], p["label"], OWN_COLOUR, 2.0) for p in only_cost]
        lines += [bar for p in points for bar in _bars(p, x, y)]
        lines += [[(p[x], end) for end in axes.get_ylim()] for p in only_cost]
        place_labels(axes, text, lines)
    return figure, caption


def _bars(p: Point, x: str, y: str) -> list[list[tuple[float, float]]]:
    """The point's error bars as lines, for labels to keep off."""
    spread = p["spread"] or {}
    bars = []
    if x in spread:
        bars.append([(spread[x]["low"], p[y]), (spread[x]["high"], p[y])])
    if y in spread:
        bars.append([(p[x], spread[y]["low"]), (p[x], spread[y]["high"])])
    return bars


def _draw_point(
    axes: "Axes",
    p: Point,
    names: tuple[str, str],
    place: tuple[float, float],
    on_front: bool,
    others: Sequence[str],
) -> None:
    colour = OWN_COLOUR if p["source"] == "own" else colour_of(p["encoder"], others)
    alpha = 1.0 if on_front or p["source"] == "own" else FADED
    hollow = p["source"] == "published"
    axes.scatter(
        [place[0]],
        [place[1]],
        s=SIZES[p["source"]],
        marker=MARKERS[p["source"]],
        facecolor="white" if hollow else colour,
        edgecolor=colour,
        linewidth=0.9,
        alpha=alpha,
        zorder=3 if on_front else 2,
    )
    spread = p["spread"] or {}
    for name, drawn, direction in zip(names, place, ("xerr", "yerr"), strict=True):
        if name in spread and drawn == p[name]:
            low, high = spread[name]["low"], spread[name]["high"]
            ends = [[max(0.0, p[name] - low)], [max(0.0, high - p[name])]]
            bar: dict[str, Any] = {direction: ends}
            axes.errorbar(*place, **bar, color=colour, alpha=alpha, linewidth=0.7, capsize=1.5, zorder=2)


def _name(p: Point, with_backbone: bool) -> str:
    label = str(p["label"])
    if p["encoder"] == "pro-scale" and label.startswith("PRO-SCALE ("):
        label = label.removeprefix("PRO-SCALE ")
    if not with_backbone or not p["backbone"]:
        return label
    return f"{label}, {backbone_title(p['backbone'])}"


def _legend(axes: "Axes", points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            marker=MARKERS[source],
            linestyle="",
            color=GREY,
            label=MARKER_TITLES[source],
            markerfacecolor="white" if source == "published" else GREY,
            markersize=6 if source == "own" else 4,
        )
        for source in MARKERS
        if any(p["source"] == source for p in points)
    ]
    handles.append(Line2D([], [], color="#444444", linewidth=0.9, label="front"))
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.13),
        ncols=4,
        columnspacing=1.2,
        handlelength=1.2,
    )


def _caption(
    points: Sequence[Point], x: str, y: str, found: Mapping[str, Sequence[Point]], only_cost: Sequence[Point]
) -> str:
    """Convention, input size or machine, and what may not be compared."""
    datasets = " and ".join(
        sorted({DATASET_TITLES.get(p["dataset"], str(p["dataset"])) for p in points if p["dataset"]})
    )
    backbones = sorted({backbone_title(p["backbone"]) for p in points if p["backbone"]})
    parts = [f"{datasets}; backbone {', '.join(backbones)}." if backbones else f"{datasets}."]
    bases = list(found)
    if any(p["encoder"] == "pro-scale" for p in points):
        parts.append("(p1,p2,p3): PRO-SCALE's layers in each stage.")
    if x.startswith("gflops"):
        parts.append(f"GMACs (printed as GFLOPs): convention 'published', batch 1, {', '.join(bases)}.")
    else:
        parts.append(f"Speed: {'; '.join(bases)}.")
    if any(p["source"] == "measured" for p in points):
        parts.append("Quality as printed by the papers or as recorded.")
    if y == "miou" and {p["paper"] for p in points} - {"", "pro-scale"}:
        parts.append("Other papers' mIoU may be of models for semantic segmentation alone.")
    if any(not basis(p, x) for p in points):
        parts.append("Points of an unknown input size are on no front.")
    if len(bases) > 1:
        what = "inputs" if x.startswith("gflops") else "machines"
        drawn = [name for name, group in found.items() if len(group) > 1]
        styles = [f"{LINES[i % len(LINES)][1]} {name}" for i, name in enumerate(drawn)]
        parts.append(f"Different {what} are not to be compared; fronts: {'; '.join(styles) or 'none'}.")
    parts.append("Faded: dominated.")
    kinds = {s["kind"] for p in points for name, s in (p["spread"] or {}).items() if name in (x, y)}
    if kinds:
        parts.append(f"Bars: {', '.join(sorted(kinds))}.")
    if only_cost:
        parts.append("Dashed upright: own model without a quality.")
    return " ".join(parts)
