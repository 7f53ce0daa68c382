"""Labels beside points that keep clear of each other, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from segmeter.reports.plots.style import FADED_INK, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_POINTS = 6.0
# Distances from a marker's edge that a label tries, points; beyond the third it gets a line to its marker.
DISTANCES = (2.0, 5.0, 9.0, 14.0, 20.0, 27.0, 35.0, 45.0, 57.0)
DIRECTIONS = 24
# Every label is placed once more when all others are.
ROUNDS = 3
MOST_TEXT = 96


@dataclass(frozen=True)
class Label:
    """A text beside a point, in data coordinates; ``radius`` of its marker in points."""

    x: float
    y: float
    text: str
    colour: str = "black"
    radius: float = 3.0


Place = tuple[float, float]
# (n, 4) left, bottom, right, top, pixels.
Boxes = np.ndarray


def place_labels(
    axes: "Axes",
    labels: Sequence[Label],
    avoid: Sequence[Sequence[Place]] = (),
    marks: Sequence[Place] = (),
) -> None:
    """Write each label beside its point, clear of other labels, markers and the lines to avoid.

    Every label tries places around its point and takes the cheapest: covering a label or marker costs most,
    then standing nearer to another marker, then a line, then distance. When all have a place, each looks for
    a better one among the others. The order is that of ``labels``, so the outcome is the same every time.
    Call it when layout and limits are set.

    Args:
        avoid: lines as their corners, in data coordinates.
        marks: markers without a label that no label may cover or seem to name, in data coordinates.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    frame = _box(axes)
    named = {(one.x, one.y) for one in labels}
    # Those with a label first, in their order.
    places = [(one.x, one.y) for one in labels] + [place for place in marks if place not in named]
    centres = np.array([axes.transData.transform(place) for place in places]).reshape(-1, 2)
    radii = np.full(len(places), 2.6 * scale)
    radii[: len(labels)] = [one.radius * scale for one in labels]
    markers = np.column_stack([centres - radii[:, None], centres + radii[:, None]])
    others = [_box(text) for text in axes.texts]
    legend = axes.get_legend()
    fixed = np.array([*others, *([_box(legend)] if legend is not None else [])]).reshape(-1, 4)
    dots = np.array(
        [dot for line in avoid for dot in _dots(axes.transData.transform(np.array(line, float)), 2 * scale)]
    ).reshape(-1, 2)
    drawn = [
        axes.text(one.x, one.y, shortened(one.text, MOST_TEXT), fontsize=LABEL_POINTS, color=one.colour)
        for one in labels
    ]
    sizes = [(box[2] - box[0], box[3] - box[1]) for box in map(_box, drawn)]
    placed: list[np.ndarray | None] = [None] * len(labels)
    led = [False] * len(labels)
    for _ in range(ROUNDS):
        for number in range(len(labels)):
            elsewhere = [box for i, box in enumerate(placed) if box is not None and i != number]
            taken = np.vstack([markers, fixed, np.array(elsewhere).reshape(-1, 4)])
            placed[number], led[number] = _best(
                centres, number, radii[number], sizes[number], scale, frame, taken, dots
            )
    for one, text, box, with_line in zip(labels, drawn, placed, led, strict=True):
        assert box is not None
        text.set_position(_data(axes, box[:2]))
        if with_line:
            centre = axes.transData.transform((one.x, one.y))
            end = _data(axes, np.clip(centre, box[:2], box[2:]))
            axes.plot(
                [one.x, end[0]], [one.y, end[1]], color=FADED_INK, linewidth=0.4, zorder=1.5, gid="leader"
            )


def _best(
    centres: np.ndarray,
    number: int,
    radius: float,
    size: tuple[float, float],
    scale: float,
    frame: np.ndarray,
    taken: Boxes,
    dots: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """The cheapest place of a label, and whether a line must lead to it."""
    centre = centres[number]
    angles = 2 * pi * np.arange(DIRECTIONS) / DIRECTIONS
    distance = np.repeat(np.array(DISTANCES), DIRECTIONS)
    way = np.tile(np.column_stack([np.cos(angles), np.sin(angles)]), (len(DISTANCES), 1))
    # Boxes of the label's size that touch circles around the centre from outside.
    low = centre + (radius + distance * scale)[:, None] * way - np.array(size) / 2 * (1 - way)
    boxes = np.column_stack([low, low + np.array(size)])
    rivals = np.array([c for c in centres if hypot(*(c - centre)) > scale]).reshape(-1, 2)
    own, nearest = _gaps(boxes, centre[None])[:, 0], np.full(len(boxes), np.inf)
    if len(rivals):
        nearest = _gaps(boxes, rivals).min(axis=1)
    # What stands nearer to another marker, or far away, would be read as no one's without a line.
    astray = nearest < own + 1.0 * scale
    leader = astray | (distance > DISTANCES[2])
    step = np.tile(np.arange(DIRECTIONS), len(DISTANCES))
    cost = distance + 0.5 * (step % (DIRECTIONS // 4) != 0) + 12.0 * astray + 6.0 * leader
    cost = cost + 400 * _shares(boxes, taken).sum(axis=1)
    if len(dots):
        # A line right across the text meets it in three dots at least.
        cost = cost + 30 * np.minimum(1.0, _holds(boxes, dots).sum(axis=1) / 2)
    outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
    cost = cost + 1000 * outside
    best, least = 0, np.inf
    # A line to the label only adds to its cost: what is dearer without one need not be looked at.
    for place in np.argsort(cost, kind="stable"):
        if cost[place] >= least:
            break
        total = cost[place]
        if leader[place]:
            total += 30 * _crossed(centre, boxes[place], radius + scale, taken, scale)
        if total < least:
            best, least = int(place), total
    return boxes[best], bool(leader[best])


def _crossed(centre: np.ndarray, box: np.ndarray, radius: float, taken: Boxes, scale: float) -> int:
    """How many dots of the line from a marker to its label lie on other labels and markers."""
    path = np.array(_dots(np.array([centre, np.clip(centre, box[:2], box[2:])]), 2 * scale))
    # Its own marker is where the line begins.
    path = path[np.hypot(*(path - centre).T) > radius]
    return int(_holds(taken, path).any(axis=0).sum()) if len(path) else 0


def _shares(boxes: Boxes, others: Boxes) -> np.ndarray:
    """(n, m): the share of each box that another covers, and a little for touching."""
    width = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    height = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    # A name without letters has no area.
    area = np.maximum(1e-9, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    touching = (width >= 0) & (height >= 0)
    return np.where(touching, width * height / area[:, None] + 0.02, 0.0)


def _holds(boxes: Boxes, points: np.ndarray) -> np.ndarray:
    """(n, m): whether a box holds a point."""
    x, y = points[:, 0], points[:, 1]
    across = (boxes[:, None, 0] <= x) & (x <= boxes[:, None, 2])
    return across & (boxes[:, None, 1] <= y) & (y <= boxes[:, None, 3])


def _gaps(boxes: Boxes, points: np.ndarray) -> np.ndarray:
    """(n, m): distance from a point to the nearest edge of a box, 0 inside."""
    x, y = points[:, 0], points[:, 1]
    across = np.maximum(np.maximum(boxes[:, None, 0] - x, x - boxes[:, None, 2]), 0.0)
    up = np.maximum(np.maximum(boxes[:, None, 1] - y, y - boxes[:, None, 3]), 0.0)
    return np.hypot(across, up)


def _dots(corners: Any, step: float) -> list[np.ndarray]:
    """Points along a line, a step apart."""
    found = []
    for start, end in pairwise(np.asarray(corners, float)):
        number = min(2000, max(1, round(hypot(*(end - start)) / step)))
        found += [start + (end - start) * i / number for i in range(number + 1)]
    return found


def _box(artist: Any) -> np.ndarray:
    return np.array(artist.get_window_extent().extents, dtype=float)


def _data(axes: "Axes", point: Any) -> Place:
    x, y = axes.transData.inverted().transform(point)
    return float(x), float(y)
