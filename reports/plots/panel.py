"""One panel of a trade-off: markers, error bars, the front as a staircase, labels, and the legend's keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.common import (
    OWN_COLOUR,
    Point,
    Window,
    backbone_title,
    key,
    legend_name,
    mark,
    point_away,
)
from segmeter.reports.plots.labels import Label, place_labels
from segmeter.reports.plots.style import (
    FADED_INK,
    FRONT_INK,
    MARKER_TITLES,
    OWN_LOOK,
    SYSTEM_LOOKS,
    SYSTEM_TITLES,
    Look,
    look_of,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUALITY_TITLES = {"pq": "PQ", "miou": "mIoU", "ap": "AP"}
FADED = 0.35
MARK_AREA = 16.0


@dataclass(frozen=True)
class Panel:
    """Points that compare with one another, and how they are shown.

    Attributes:
        title, basis: of what sets this panel apart from others.
        points: all of it; ``front`` those that no other beats, from the cheap end to the dear one.
        view: the part of the axes that is shown.
        only_cost: own models without a quality.
        with_backbone: whether labels name it.
        most_named: points that get a label; of more, only the front and own points.
    """

    title: str
    basis: str
    points: Sequence[Point]
    front: Sequence[Point]
    view: Window
    only_cost: Sequence[Point]
    with_backbone: bool
    most_named: int

    @property
    def crowded(self) -> bool:
        """Whether not all points are named."""
        return len(self.points) > self.most_named

    def beyond(self, x: str, y: str) -> list[Point]:
        """Points that the axes do not reach."""
        return [p for p in self.points if not self.view.holds((p[x], p[y]))]


def draw_panel(axes: "Axes", panel: Panel, x: str, y: str) -> None:
    """Draw a panel's points, front and labels; call it when layout and limits are set."""
    on_front = {id(p) for p in panel.front}
    lines = [bar for p in panel.points for bar in error_bars(p, x, y)]
    _draw_points(axes, panel, x, y, on_front)
    if panel.front:
        stairs = staircase([(p[x], p[y]) for p in panel.front], panel.view)
        lines.append(stairs)
        axes.plot(*zip(*stairs, strict=True), color=FRONT_INK, linewidth=0.9, zorder=1, gid="front")
    for p in panel.only_cost:
        axes.axvline(p[x], color=OWN_COLOUR, linewidth=0.8, linestyle="--")
        lines.append([(p[x], end) for end in axes.get_ylim()])
    for p in panel.beyond(x, y):
        lines.append(point_away(axes, panel.view, (p[x], p[y]), _look(p).light))
    named = [p for p in panel.points if not panel.crowded or id(p) in on_front or p["source"] == "own"]
    text = [
        Label(
            *panel.view.edge((p[x], p[y])),
            _name(p, panel.with_backbone) + _values_beyond(p, x, y, panel.view),
            "black" if id(p) in on_front or p["source"] == "own" else FADED_INK,
            4.0 if p["source"] == "own" else 2.6,
        )
        for p in sorted(named, key=lambda p: (id(p) not in on_front, p[x], p[y], p["label"]))
    ]
    text += [Label(p[x], axes.get_ylim()[0], p["label"], OWN_COLOUR, 2.0) for p in panel.only_cost]
    place_labels(axes, text, lines, [(p[x], p[y]) for p in panel.points if panel.view.holds((p[x], p[y]))])


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


def error_bars(p: Point, x: str, y: str) -> list[list[tuple[float, float]]]:
    """The point's error bars as lines."""
    spread = p["spread"] or {}
    bars = []
    if x in spread:
        bars.append([(spread[x]["low"], p[y]), (spread[x]["high"], p[y])])
    if y in spread:
        bars.append([(p[x], spread[y]["low"]), (p[x], spread[y]["high"])])
    return bars


def _values_beyond(p: Point, x: str, y: str, view: Window) -> str:
    """A point's values where no axis shows them."""
    if view.holds((p[x], p[y])):
        return ""
    told = [
        f"{QUALITY_TITLES[y] if name == y else 'at'} {p[name]:.2f}"
        for name, drawn in zip((x, y), view.edge((p[x], p[y])), strict=True)
        if p[name] != drawn
    ]
    return f": {', '.join(told)}"


def _look(p: Point) -> Look:
    return look_of(p["encoder"], p["source"] == "own")


def _draw_points(axes: "Axes", panel: Panel, x: str, y: str, on_front: set[int]) -> None:
    """Markers with their error bars; one that lies under others is larger, so that its rim shows."""
    shown = sorted(
        (p for p in panel.points if panel.view.holds((p[x], p[y]))),
        key=lambda p: (id(p) in on_front, p["source"] == "own"),
    )
    pixels = [axes.transData.transform((p[x], p[y])) * 72 / axes.figure.dpi for p in shown]
    for place, p in enumerate(shown):
        # Nearer than a third of a marker, of four points, it would be hidden.
        upon = sum(
            max(abs(other[0] - pixels[place][0]), abs(other[1] - pixels[place][1])) < 1.4
            for other in pixels[place + 1 :]
        )
        best = id(p) in on_front
        alpha = 1.0 if best or p["source"] == "own" else FADED
        look = _look(p)
        mark(
            axes, (p[x], p[y]), look, p["source"] == "published", alpha, MARK_AREA * (1 + 1.4 * upon),
            3 + 0.01 * place if best else 2 + 0.001 * place,
        )  # fmt: skip
        for bar in error_bars(p, x, y):
            axes.plot(
                *zip(*bar, strict=True), color=look.light, alpha=alpha, linewidth=0.7, zorder=1.9,
                marker="|" if bar[0][1] == bar[1][1] else "_", markersize=3, gid="bar",
            )  # fmt: skip


def _name(p: Point, with_backbone: bool) -> str:
    label = shortened(p["label"])
    if p["encoder"] == "pro-scale" and label.startswith("PRO-SCALE ("):
        label = label.removeprefix("PRO-SCALE ")
    if not with_backbone or not p["backbone"]:
        return label
    return f"{label}, {backbone_title(p['backbone'])}"


def legend_handles(panels: Sequence[Panel], x: str, y: str) -> list[Any]:
    """A handle for every mark in the chart: each system, where figures come from, front, bars, arrows."""
    from matplotlib.lines import Line2D

    def line(label: str, **look: Any) -> Any:
        return Line2D([], [], label=legend_name(label), **look)

    points = [p for panel in panels for p in panel.points]
    systems = sorted({p["encoder"] for p in points if p["source"] != "own"})
    order = [s for s in SYSTEM_LOOKS if s in systems] + [s for s in systems if s not in SYSTEM_LOOKS]
    # A system that papers call by two names has one look and is one.
    looks = {(_system_title(system, points), look_of(system)): None for system in order}
    handles = [key(look, title) for title, look in looks]
    sources = {p["source"] for p in points}
    handles += [
        key(None, MARKER_TITLES[name], name == "published")
        for name in ("published", "measured")
        if name in sources
    ]
    if "own" in sources:
        handles.append(key(OWN_LOOK, MARKER_TITLES["own"]))
    if any(panel.front for panel in panels):
        handles.append(line("front", color=FRONT_INK, linewidth=0.9))
    if any(error_bars(p, x, y) for p in points):
        handles.append(line("spread", color="#555555", linewidth=0.7, marker="|", markersize=3))
    if any(panel.only_cost for panel in panels):
        handles.append(line("own, cost only", color=OWN_COLOUR, linewidth=0.8, linestyle="--"))
    return handles


def _system_title(system: str, points: Sequence[Point]) -> str:
    """A system as its papers write it."""
    if system in SYSTEM_TITLES:
        return SYSTEM_TITLES[system]
    return str(next(p["label"] for p in points if p["encoder"] == system)).split(" (")[0]
