"""Trade-offs between cost and quality: Pareto fronts, circles, configurations, backbones."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.common import (
    DATASET_TITLES,
    OWN_COLOUR,
    NothingMatches,
    Point,
    Window,
    backbone_title,
    finish,
    key,
    legend_above,
    legend_rows,
    mark,
    new_figure,
    point_away,
    style,
    window,
)
from segmeter.reports.plots.labels import Label, place_labels
from segmeter.reports.plots.pareto import HIGHER_IS_BETTER, pareto_front
from segmeter.reports.plots.style import (
    FADED_INK,
    FRONT_INK,
    MARKER_TITLES,
    OWN_LOOK,
    SYSTEM_LOOKS,
    SYSTEM_TITLES,
    Look,
    look_of,
)

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
LINES: Any = (("-", "solid"), ("--", "dashed"), (":", "dotted"), ("-.", "dash-dotted"))
FADED = 0.35


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
    caption = _caption(points, x, y, found, only_cost)
    backbones = {p["backbone"] for p in points if p["backbone"]}
    wide = len(points) > 12
    bars = [bar for p in points for bar in _bars(p, x, y)]
    view = window([(p[x], p[y]) for p in points], [end for bar in bars for end in bar])
    with style():
        handles = _legend(points, found, x, y, only_cost)
        columns, rows = legend_rows([str(handle.get_label()) for handle in handles], wide)
        figure, (axes,) = new_figure(wide, (3.2 if wide else 2.5) + 0.14 * rows, caption)
        view.show(axes)
        _draw_points(axes, points, (x, y), view, on_front)
        lines = []
        for index, group in enumerate(g for g in found.values() if g):
            line = staircase([(p[x], p[y]) for p in group], view)
            lines.append(line)
            dashes = LINES[index % len(LINES)][0]
            axes.plot(
                *zip(*line, strict=True),
                color=FRONT_INK,
                linewidth=0.9,
                linestyle=dashes,
                zorder=1,
                gid="front",
            )
        for p in only_cost:
            axes.axvline(p[x], color=OWN_COLOUR, linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"{AXES[x]} ({'higher' if x in HIGHER_IS_BETTER else 'lower'} is better)")
        axes.set_ylabel(AXES[y])
        axes.grid(True, axis="both")
        legend_above(figure, handles, columns)
        finish(figure)
        for p in points:
            if not view.holds((p[x], p[y])):
                point_away(axes, view, (p[x], p[y]), _look(p).light)
        text = [
            Label(
                *view.edge((p[x], p[y])),
                _name(p, len(backbones) > 1) + _beyond(p, x, y, view),
                "black" if id(p) in on_front or p["source"] == "own" else FADED_INK,
                4.0 if p["source"] == "own" else 2.6,
            )
            for p in sorted(points, key=lambda p: (id(p) not in on_front, p[x], p[y], p["label"]))
        ]
        text += [Label(p[x], axes.get_ylim()[0], p["label"], OWN_COLOUR, 2.0) for p in only_cost]
        lines += bars
        lines += [[(p[x], end) for end in axes.get_ylim()] for p in only_cost]
        place_labels(axes, text, lines)
    return figure, caption


def staircase(group: Sequence[tuple[float, float]], view: Window) -> list[tuple[float, float]]:
    """A front's corners: until the next point on it is paid for, quality stays what the last one gives.

    Args:
        group: the points on the front, from the end with the least quality on.
        view: what the chart shows; the stairs begin at its bottom and end at its side.
    """
    (x0, x1), (y0, _) = view.across, view.up
    corners = [(group[0][0], min(y0, group[0][1])), group[0]]
    for place in group[1:]:
        corners += [(place[0], corners[-1][1]), place]
    dearer = group[-1][0] >= group[0][0] if len(group) > 1 else True
    return [*corners, (max(x1, corners[-1][0]) if dearer else min(x0, corners[-1][0]), corners[-1][1])]


def _beyond(p: Point, x: str, y: str, view: Window) -> str:
    """A point's values where no axis shows them."""
    if view.holds((p[x], p[y])):
        return ""
    told = [
        f"{AXES[name].split(', ')[0] if name == y else 'at'} {p[name]:.2f}"
        for name, drawn in zip((x, y), view.edge((p[x], p[y])), strict=True)
        if p[name] != drawn
    ]
    return f": {', '.join(told)}"


def _bars(p: Point, x: str, y: str) -> list[list[tuple[float, float]]]:
    """The point's error bars as lines, for labels to keep off."""
    spread = p["spread"] or {}
    bars = []
    if x in spread:
        bars.append([(spread[x]["low"], p[y]), (spread[x]["high"], p[y])])
    if y in spread:
        bars.append([(p[x], spread[y]["low"]), (p[x], spread[y]["high"])])
    return bars


def _look(p: Point) -> Look:
    return look_of(p["encoder"], p["source"] == "own")


def _draw_points(
    axes: "Axes", points: Sequence[Point], names: tuple[str, str], view: Window, on_front: set[int]
) -> None:
    """Markers with their error bars; one that lies under others is larger, so that its rim shows."""
    x, y = names
    shown = sorted(
        (p for p in points if view.holds((p[x], p[y]))),
        key=lambda p: (id(p) in on_front, p["source"] == "own"),
    )
    width, height = (high - low for low, high in (view.across, view.up))
    for place, p in enumerate(shown):
        upon = [
            q
            for q in shown[place + 1 :]
            if abs(q[x] - p[x]) < 0.006 * width and abs(q[y] - p[y]) < 0.012 * height
        ]
        best = id(p) in on_front
        alpha = 1.0 if best or p["source"] == "own" else FADED
        look = _look(p)
        mark(
            axes, (p[x], p[y]), look, p["source"] == "published", alpha, 16.0 * (1 + 1.4 * len(upon)),
            3 + 0.01 * place if best else 2 + 0.001 * place,
        )  # fmt: skip
        for bar in _bars(p, x, y):
            axes.plot(
                *zip(*bar, strict=True), color=look.light, alpha=alpha, linewidth=0.7, zorder=1.9,
                marker="|" if bar[0][1] == bar[1][1] else "_", markersize=3, gid="bar",
            )  # fmt: skip


def _name(p: Point, with_backbone: bool) -> str:
    label = str(p["label"])
    if p["encoder"] == "pro-scale" and label.startswith("PRO-SCALE ("):
        label = label.removeprefix("PRO-SCALE ")
    if not with_backbone or not p["backbone"]:
        return label
    return f"{label}, {backbone_title(p['backbone'])}"


def _legend(
    points: Sequence[Point], found: Mapping[str, Sequence[Point]], x: str, y: str, only_cost: Sequence[Point]
) -> list[Any]:
    """A handle for every mark in the chart: each system, where figures come from, fronts, bars."""
    from matplotlib.lines import Line2D

    systems = sorted({p["encoder"] for p in points if p["source"] != "own"})
    order = [s for s in SYSTEM_LOOKS if s in systems] + [s for s in systems if s not in SYSTEM_LOOKS]
    handles = [key(look_of(system), _system_title(system, points)) for system in order]
    sources = {p["source"] for p in points}
    handles += [
        key(None, MARKER_TITLES[name], name == "published")
        for name in ("published", "measured")
        if name in sources
    ]
    if "own" in sources:
        handles.append(key(OWN_LOOK, MARKER_TITLES["own"]))
    drawn = [name for name, group in found.items() if group]
    handles += [
        Line2D(
            [], [], color=FRONT_INK, linewidth=0.9, linestyle=LINES[i % len(LINES)][0],
            label="front" if len(drawn) == 1 else f"front, {name}",
        )
        for i, name in enumerate(drawn)
    ]  # fmt: skip
    if any(_bars(p, x, y) for p in points):
        handles.append(
            Line2D([], [], color="#555555", linewidth=0.7, marker="|", markersize=3, label="spread")
        )
    if only_cost:
        handles.append(
            Line2D([], [], color=OWN_COLOUR, linewidth=0.8, linestyle="--", label="own, cost only")
        )
    return handles


def _system_title(system: str, points: Sequence[Point]) -> str:
    """A system as its papers write it."""
    if system in SYSTEM_TITLES:
        return SYSTEM_TITLES[system]
    return str(next(p["label"] for p in points if p["encoder"] == system)).split(" (")[0]


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
        parts.append(f"Different {what} are not to be compared: each has a front of its own.")
    if x == "gflops_encoder" and len(backbones) > 1:
        parts.append("Encoders alone: what the backbones cost is not in it, so a larger one looks free.")
    parts.append("Faded: dominated.")
    kinds = {s["kind"] for p in points for name, s in (p["spread"] or {}).items() if name in (x, y)}
    if kinds:
        parts.append(f"Bars: {', '.join(sorted(kinds))}.")
    if only_cost:
        parts.append("Dashed upright: own model without a quality.")
    view = window([(p[x], p[y]) for p in points])
    if not all(view.holds((p[x], p[y])) for p in points):
        parts.append("Arrow: a point beyond the axes, its value written beside it.")
    return " ".join(parts)
