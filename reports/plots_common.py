"""What the figures share: a page to draw on, a caption below it, labels that keep clear of each other."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import cos, hypot, pi, sin
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from reports.style import (
    AMBER,
    BLUE,
    COLUMN_INCHES,
    GREEN,
    GREY,
    ORANGE,
    PAGE_INCHES,
    PURPLE,
    SKY,
    paper_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, Any]
ENCODER_COLOURS = {"m2f": BLUE, "lite-m2f": SKY, "rt-m2f": GREEN, "pro-scale": ORANGE}
OTHER_COLOURS = (PURPLE, AMBER, GREY)
OWN_COLOUR = "black"
BACKBONE_TITLES = {
    "swin-t": "Swin-T",
    "swin-s": "Swin-S",
    "swin-b": "Swin-B",
    "swin-l": "Swin-L",
    "mvit-t": "MViT-T",
    "r50": "R50",
    "r101": "R101",
}
DATASET_TITLES = {"coco": "COCO", "cityscapes": "Cityscapes", "ade20k": "ADE20K", "": "any data set"}
CAPTION_POINTS, LABEL_POINTS = 6.0, 6.0
# Characters of the caption that fit a column.
COLUMN_CHARACTERS = 74


class NothingMatches(ValueError):
    """There is nothing to draw; the line tells what was asked for."""


@dataclass(frozen=True)
class Label:
    """A text beside a point, in data coordinates; ``radius`` of its marker in points."""

    x: float
    y: float
    text: str
    colour: str = "black"
    radius: float = 3.0


def new_figure(
    wide: bool, height: float, caption: str, panels: int = 1, **layout: Any
) -> tuple["Figure", list["Axes"]]:
    """An empty figure of a column's or page's width (inches) with its caption below; draw in ``paper_style``.

    Args:
        wide: across the page instead of one column.
        height: of the panels, inches; the caption's lines come on top of it.
        caption: convention, input size and what else a reader must know.
        panels: side by side.
        layout: for ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = PAGE_INCHES if wide else COLUMN_INCHES
    lines = textwrap.wrap(caption, round(COLUMN_CHARACTERS * width / COLUMN_INCHES))
    figure = Figure(figsize=(width, height + 0.115 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, **layout)
    figure.supxlabel("\n".join(lines), fontsize=CAPTION_POINTS, x=0.01, ha="left", linespacing=1.25)
    return figure, list(axes[0])


def finish(figure: "Figure") -> "Figure":
    """Lay out once, so that the figure is the same in every format."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def place_labels(
    axes: "Axes", labels: Sequence[Label], avoid: Sequence[Sequence[tuple[float, float]]] = ()
) -> None:
    """Write each label beside its point, clear of other labels, markers and the lines to avoid.

    Every label tries places around its point, near ones first, and takes the cheapest: covering a label or
    marker costs most, then a line, then distance. The order is that of ``labels``, so the outcome is the same
    every time. Call it after :func:`finish`, with the axes' limits set.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside = axes.get_window_extent(renderer)
    centres = [tuple(axes.transData.transform((label.x, label.y))) for label in labels]
    taken = [
        Bbox.from_bounds(x - r, y - r, 2 * r, 2 * r)
        for (x, y), r in zip(centres, (label.radius * scale for label in labels), strict=True)
    ]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    lines = [_dots([tuple(axes.transData.transform(p)) for p in line], 2 * scale) for line in avoid]
    for label, (x, y) in zip(labels, centres, strict=True):
        text = axes.text(label.x, label.y, label.text, fontsize=LABEL_POINTS, color=label.colour)
        box = text.get_window_extent(renderer)
        best = None
        for distance, angle in product((2.0, 5.0, 9.0, 14.0, 20.0, 27.0, 35.0), range(16)):
            reach = (label.radius + distance) * scale
            dx, dy = cos(angle * pi / 8), sin(angle * pi / 8)
            place = _beside(x + reach * dx, y + reach * dy, dx, dy, box.width, box.height)
            cost = distance + 0.5 * (angle % 4 != 0)
            cost += 400 * _share(place, taken) + 25 * _share_of_dots(place, lines)
            cost += 0 if _within(place, inside) else 1000
            # A label nearer to another marker would be read as that one's.
            gap = _gap(place, (x, y)) - 0.5 * scale
            cost += 12 * any(_gap(place, other) < gap for other in centres if other != (x, y))
            if best is None or cost < best[0]:
                best = (cost, place, distance)
        assert best is not None
        _, place, distance = best
        taken.append(place)
        text.set_position(tuple(axes.transData.inverted().transform((place.x0, place.y0))))
        if distance > 9:
            _leader(axes, (x, y), place, label)


def _beside(x: float, y: float, dx: float, dy: float, width: float, height: float) -> Any:
    """A box that touches (x, y) from the side that (dx, dy) points to."""
    from matplotlib.transforms import Bbox

    left = x - width / 2 * (1 - dx)
    bottom = y - height / 2 * (1 - dy)
    return Bbox.from_bounds(left, bottom, width, height)


def _share(box: Any, others: Sequence[Any]) -> float:
    """Share of the box that others cover, 1 at most for each."""
    from matplotlib.transforms import Bbox

    covered = 0.0
    for other in others:
        both = Bbox.intersection(box, other)
        if both is not None:
            covered += both.width * both.height / (box.width * box.height) + 0.02
    return covered


def _share_of_dots(box: Any, lines: Sequence[Sequence[tuple[float, float]]]) -> float:
    """How much of the box's width lines cross."""
    inside = sum(box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1 for line in lines for x, y in line)
    return min(1.0, inside / 10)


def _gap(box: Any, point: tuple[float, float]) -> float:
    """Distance from a point to the nearest edge of a box, 0 inside."""
    dx = max(box.x0 - point[0], 0.0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0.0, point[1] - box.y1)
    return hypot(dx, dy)


def _dots(corners: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    found = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        number = max(1, round(hypot(x1 - x0, y1 - y0) / step))
        found += [(x0 + (x1 - x0) * i / number, y0 + (y1 - y0) * i / number) for i in range(number + 1)]
    return found


def _within(box: Any, frame: Any) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _leader(axes: "Axes", centre: tuple[float, float], place: Any, label: Label) -> None:
    """A thin line from the point to the nearest edge of its label."""
    x = min(max(centre[0], place.x0), place.x1)
    y = min(max(centre[1], place.y0), place.y1)
    end = tuple(axes.transData.inverted().transform((x, y)))
    axes.plot([label.x, end[0]], [label.y, end[1]], color=label.colour, linewidth=0.4, zorder=1.5, alpha=0.7)


def clamped(points: Sequence[Point], x: str, y: str) -> Callable[[Point], tuple[float, float]]:
    """Where to draw a point: one far from all others goes to the edge, so that the others keep their room."""
    ends = [_fences([p[name] for p in points]) for name in (x, y)]

    def place(p: Point) -> tuple[float, float]:
        a, b = (min(max(p[name], low), high) for name, (low, high) in zip((x, y), ends, strict=True))
        return a, b

    return place


def _fences(values: Sequence[float]) -> tuple[float, float]:
    """Tukey's outer fences, drawn in to the last value within them and some room beyond.

    They hold only where the values within them would get less than a third of the axis.
    """
    if len(values) < 5:
        return min(values), max(values)
    first, _, third = quantiles(values, n=4, method="inclusive")
    reach = 3 * (third - first)
    inside = [v for v in values if first - reach <= v <= third + reach]
    low, high = min(inside), max(inside)
    if 3 * (high - low) > max(values) - min(values):
        return min(values), max(values)
    room = 0.12 * (high - low)
    return (low - room if min(values) < low else low), (high + room if max(values) > high else high)


def beyond(p: Point, x: str, y: str, place: tuple[float, float]) -> str:
    """What to add to the label of a point that :func:`clamped` puts at the edge."""
    off = [
        f"{name.upper() if name in ('pq', 'miou', 'ap') else 'at'} {p[name]:.0f}"
        for name, drawn in zip((x, y), place, strict=True)
        if p[name] != drawn
    ]
    return f" ({', '.join(off)}, off the chart)" if off else ""


def colour_of(encoder: str, others: Sequence[str] = ()) -> str:
    """An encoder's colour; systems of others take theirs by their place in ``others``."""
    if encoder in ENCODER_COLOURS:
        return ENCODER_COLOURS[encoder]
    return (
        OTHER_COLOURS[list(others).index(encoder) % len(OTHER_COLOURS)] if encoder in others else OWN_COLOUR
    )


def backbone_title(backbone: str) -> str:
    """A backbone as papers write it."""
    return BACKBONE_TITLES.get(backbone, backbone)


def style() -> Any:
    """The context to draw in."""
    return paper_style()
