"""Trade-offs between cost and quality: which points a chart shows, which compare, and the chart."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.common import (
    DATASET_TITLES,
    NothingMatches,
    Point,
    Window,
    backbone_title,
    finish,
    legend_above,
    legend_rows,
    new_figure,
    shared_parts,
    style,
    window,
    without,
)
from segmeter.reports.plots.panel import Panel, draw_panel, error_bars, legend_handles
from segmeter.reports.plots.pareto import HIGHER_IS_BETTER, pareto_front
from segmeter.reports.plots.style import shortened

if TYPE_CHECKING:
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
# Panels of settings that a figure has at most, and points that a panel names at most.
MOST_PANELS = 8
MOST_NAMED = {"wide": 32, "narrow": 16}


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


def groups(points: Sequence[Point], x: str) -> dict[str, list[Point]]:
    """Basis -> the points that compare with one another, the largest group first.

    The user's own points without a basis join the largest group, by the user's word. Those of an unknown
    basis, "", are last and compare with nothing.
    """
    found: dict[str, list[Point]] = {}
    for p in points:
        found.setdefault(basis(p, x), []).append(p)
    loose, unknown = found.pop("own", []), found.pop("", [])
    found = dict(sorted(found.items(), key=lambda item: _plainest_first(item[0], len(item[1]))))
    if loose:
        found.setdefault(next(iter(found), "own"), []).extend(loose)
    return found | ({"": unknown} if unknown else {})


def _plainest_first(name: str, number: int) -> tuple[Any, ...]:
    """Settings with most points first; of equal ones fp32, batch 1, without options."""
    return (-number, "fp32" not in name, "batch 1," not in name, len(name), name)


def one_setting(points: Sequence[Point], x: str = "latency_ms") -> list[Point]:
    """The points of the setting with most of them, of equal ones the plainest: fp32, batch 1."""
    return next(iter(groups(points, x).values()), [])


def fronts(points: Sequence[Point], x: str, y: str) -> dict[str, list[Point]]:
    """Basis -> the points on its front, from the cheap end to the dear one; see :func:`groups`."""
    return {
        name: [group[i] for i in pareto_front(group, x, y)]
        for name, group in groups(points, x).items()
        if name
    }


def pareto_figure(
    points: Sequence[Point], x: str, y: str, only_cost: Sequence[Point] = ()
) -> tuple["Figure", str]:
    """Cost against quality: fronts drawn, dominated points faded, own models marked; figure and caption.

    Costs of different inputs, and times of different machines or settings, stand in panels of their own.

    Args:
        points: of :func:`select`.
        x, y: their figures.
        only_cost: own models without a quality, drawn as lines at their cost.
    """
    panels, left_out = _panels(points, x, y, only_cost)
    drawn = [p for panel in panels for p in panel.points]
    caption = _caption(panels, drawn, x, y, left_out)
    several = len(panels) > 1
    wide = several or len(drawn) > 12
    across = 2 if several else 1
    rows = ceil(len(panels) / across)
    crowded = max(len(panel.points) for panel in panels) > 12
    tall = (2.6 if several else 3.2) if crowded else 2.3
    with style():
        handles = legend_handles(panels, x, y)
        columns, lines = legend_rows([str(handle.get_label()) for handle in handles], wide)
        figure, places = new_figure(wide, tall * rows + 0.2 + 0.14 * lines, caption, across, rows)
        for axes, panel in zip(places, panels, strict=False):
            panel.view.show(axes)
            axes.grid(True, axis="both")
            if several:
                axes.set_title(panel.title, fontsize=7)
        for number, axes in enumerate(places[: len(panels)]):
            # Titles of panels stand between a panel and the one above it: only the last row names its axis.
            if number >= len(panels) - across:
                axes.set_xlabel(f"{AXES[x]} ({'higher' if x in HIGHER_IS_BETTER else 'lower'} is better)")
            if number % across == 0:
                axes.set_ylabel(AXES[y])
        for axes in places[len(panels) :]:
            axes.remove()
        legend_above(figure, handles, columns)
        finish(figure)
        for axes, panel in zip(places, panels, strict=False):
            draw_panel(axes, panel, x, y)
    return figure, caption


def _panels(
    points: Sequence[Point], x: str, y: str, only_cost: Sequence[Point]
) -> tuple[list[Panel], list[Panel]]:
    """A panel for each basis, and those that a figure has no room for; all of one height."""
    found = groups(points, x)
    shared = shared_parts([name for name in found if name]) if len(found) > 1 else []
    kept = [p for name in list(found)[:MOST_PANELS] for p in found[name]]
    up = _window(kept, x, y).up
    backbones = len({p["backbone"] for p in points if p["backbone"]}) > 1
    best = fronts(points, x, y)
    panels: list[Panel] = []
    for name, group in found.items():
        alone = [p for p in only_cost if basis(p, x) == name]
        if not panels:
            alone += [p for p in only_cost if basis(p, x) not in found]
        panels.append(
            Panel(
                title=shortened(without(name, shared)) if name else _unknown(x),
                basis=name,
                points=group,
                front=best.get(name, []),
                view=Window(_window([*group, *alone], x, y).across, up),
                only_cost=alone,
                with_backbone=backbones,
                most_named=MOST_NAMED["narrow" if len(found) > 1 else "wide"],
            )
        )
    return panels[:MOST_PANELS], panels[MOST_PANELS:]


def _window(points: Sequence[Point], x: str, y: str) -> Window:
    scored = [p for p in points if p[x] is not None and p[y] is not None]
    costs = [p[x] for p in points if p[y] is None]
    heights = [p[y] for p in scored] or [0.0]
    places = [(p[x], p[y]) for p in scored] + [(cost, heights[0]) for cost in costs]
    return window(places, [end for p in scored for bar in error_bars(p, x, y) for end in bar])


def _unknown(x: str) -> str:
    return "input not told" if x.startswith("gflops") else "machine not told"


def _caption(
    panels: Sequence[Panel], points: Sequence[Point], x: str, y: str, left_out: Sequence[Panel]
) -> str:
    """Convention, input size or machine, and what may not be compared."""
    datasets = " and ".join(
        sorted({DATASET_TITLES.get(p["dataset"], shortened(p["dataset"])) for p in points if p["dataset"]})
    )
    backbones = sorted({shortened(backbone_title(p["backbone"])) for p in points if p["backbone"]})
    parts = [f"{datasets}; backbone {', '.join(backbones)}." if backbones else f"{datasets}."]
    bases = [shortened(panel.basis, 120) for panel in panels if panel.basis]
    cost = x.startswith("gflops")
    if any(p["encoder"] == "pro-scale" for p in points):
        parts.append("(p1,p2,p3): PRO-SCALE's layers in each stage.")
    if cost:
        parts.append(f"GMACs (printed as GFLOPs): convention 'published', batch 1, {', '.join(bases)}.")
    else:
        shared = shared_parts(bases) if len(bases) > 1 else bases
        parts.append(f"Speed: {', '.join(shared) or 'several machines'}.")
    if len(panels) > 1:
        what = "inputs" if cost else "machines or settings"
        parts.append(f"Different {what} are not to be compared: a panel with a front for each.")
    if left_out:
        number = sum(len(panel.points) for panel in left_out)
        parts.append(f"{len(left_out)} more settings with {number} points are not shown; --json lists them.")
    if any(p["source"] == "measured" for p in points):
        parts.append("Quality as printed by the papers or as recorded.")
    if y == "miou" and {p["paper"] for p in points} - {"", "pro-scale"}:
        parts.append("Other papers' mIoU may be of models for semantic segmentation alone.")
    if any(not panel.basis for panel in panels):
        parts.append(f"{_unknown(x).capitalize()}: on no front.")
    if any(p["source"] == "own" and basis(p, x) == "own" for p in points) and bases != ["own"]:
        told = "input size" if cost else "machine"
        parts.append(f"Own points name no {told}: shown as given, compared on your word.")
    if x == "gflops_encoder" and len(backbones) > 1:
        parts.append("Encoders alone: what the backbones cost is not in it, so a larger one looks free.")
    parts.append("Faded: dominated.")
    if any(panel.crowded for panel in panels):
        parts.append("Where a panel is crowded, only the front and own points are named; --json lists all.")
    kinds = {s["kind"] for p in points for name, s in (p["spread"] or {}).items() if name in (x, y)}
    if kinds:
        parts.append(f"Bars: {', '.join(sorted(shortened(kind) for kind in kinds))}.")
    if any(panel.only_cost for panel in panels):
        parts.append("Dashed upright: own model without a quality.")
    if any(panel.beyond(x, y) for panel in panels):
        parts.append("Arrow: a point beyond the axes, its value written beside it.")
    return " ".join(parts)
