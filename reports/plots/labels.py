"""Labels beside points that keep clear of each other, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_POINTS = 6.0
# Distances from a marker's edge that a label tries, points; beyond the third it gets a line to its marker.
DISTANCES = (2.0, 5.0, 9.0, 14.0, 20.0, 27.0, 35.0)
DIRECTIONS = 16


@dataclass(frozen=True)
class Label:
    """A text beside a point, in data coordinates; ``radius`` of its marker in points."""

    x: float
    y: float
    text: str
    colour: str = "black"
    radius: float = 3.0


class _Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


Place = tuple[float, float]


def place_labels(axes: "Axes", labels: Sequence[Label], avoid: Sequence[Sequence[Place]] = ()) -> None:
    """Write each label beside its point, clear of other labels, markers and the lines to avoid.

    Every label tries places around its point, near ones first, and takes the cheapest: covering a label or
    marker costs most, then a line, then standing nearer to another marker, then distance. The order is that
    of ``labels``, so the outcome is the same every time. Call it when layout and limits are set.

    Args:
        avoid: lines as their corners, in data coordinates.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    frame = _box(axes)
    centres = [_pixels(axes, (label.x, label.y)) for label in labels]
    taken = [
        _Box(x - r, y - r, x + r, y + r)
        for (x, y), r in zip(centres, (label.radius * scale for label in labels), strict=True)
    ]
    taken += [_box(text) for text in axes.texts]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(_box(legend))
    dots = [dot for line in avoid for dot in _dots([_pixels(axes, p) for p in line], 2 * scale)]
    for label, centre in zip(labels, centres, strict=True):
        text = axes.text(label.x, label.y, label.text, fontsize=LABEL_POINTS, color=label.colour)
        size = _box(text)
        place, distance = _best(
            label, centre, (size.x1 - size.x0, size.y1 - size.y0), scale, frame, centres, taken, dots
        )
        taken.append(place)
        text.set_position(_data(axes, (place.x0, place.y0)))
        if distance > DISTANCES[2]:
            nearest = (min(max(centre[0], place.x0), place.x1), min(max(centre[1], place.y0), place.y1))
            end = _data(axes, nearest)
            axes.plot(
                [label.x, end[0]], [label.y, end[1]], color=label.colour, linewidth=0.4, zorder=1.5, alpha=0.7
            )


def _best(
    label: Label,
    centre: Place,
    size: tuple[float, float],
    scale: float,
    frame: _Box,
    centres: Sequence[Place],
    taken: Sequence[_Box],
    dots: Sequence[Place],
) -> tuple[_Box, float]:
    """The cheapest place of a label, and its distance in points."""
    others = [other for other in centres if other != centre]
    best: tuple[float, _Box, float] | None = None
    for distance in DISTANCES:
        # No place this far out is cheaper than its distance.
        if best is not None and best[0] <= distance:
            break
        for step in range(DIRECTIONS):
            angle = 2 * pi * step / DIRECTIONS
            place = _beside(centre, (label.radius + distance) * scale, angle, size)
            cost = distance + 0.5 * (step % 4 != 0)
            cost += 400 * sum(_share(place, other) for other in taken)
            # A line right across the text meets it in three dots at least.
            cost += 25 * min(1.0, sum(_holds(place, dot) for dot in dots) / 3)
            # A label nearer to another marker would be read as that one's.
            gap = _gap(place, centre) - 0.5 * scale
            cost += 60 * any(_gap(place, other) < gap for other in others)
            cost += 0 if _holds(frame, place[:2]) and _holds(frame, place[2:]) else 1000
            if best is None or cost < best[0]:
                best = (cost, place, distance)
    assert best is not None
    return best[1], best[2]


def _beside(centre: Place, reach: float, angle: float, size: tuple[float, float]) -> _Box:
    """A box of a size that touches the circle around the centre from outside."""
    dx, dy = cos(angle), sin(angle)
    left = centre[0] + reach * dx - size[0] / 2 * (1 - dx)
    bottom = centre[1] + reach * dy - size[1] / 2 * (1 - dy)
    return _Box(left, bottom, left + size[0], bottom + size[1])


def _share(box: _Box, other: _Box) -> float:
    """Share of the box that another covers, and a little for touching."""
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    if width < 0 or height < 0:
        return 0.0
    return width * height / ((box.x1 - box.x0) * (box.y1 - box.y0)) + 0.02


def _holds(box: _Box, point: Place) -> bool:
    return box.x0 <= point[0] <= box.x1 and box.y0 <= point[1] <= box.y1


def _gap(box: _Box, point: Place) -> float:
    """Distance from a point to the nearest edge of a box, 0 inside."""
    dx = max(box.x0 - point[0], 0.0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0.0, point[1] - box.y1)
    return hypot(dx, dy)


def _dots(corners: Sequence[Place], step: float) -> list[Place]:
    """Points along a line, a step apart."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        number = max(1, round(hypot(x1 - x0, y1 - y0) / step))
        found += [(x0 + (x1 - x0) * i / number, y0 + (y1 - y0) * i / number) for i in range(number + 1)]
    return found


def _box(artist: Any) -> _Box:
    return _Box(*(float(edge) for edge in artist.get_window_extent().extents))


def _pixels(axes: "Axes", point: Place) -> Place:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _data(axes: "Axes", point: Place) -> Place:
    x, y = axes.transData.inverted().transform(point)
    return float(x), float(y)
