"""What the figures share: a page to draw on, a caption below it, labels that keep clear of each other."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.style import (
    COLUMN_INCHES,
    DARK,
    GRID,
    INK,
    OWN_LOOK,
    PAGE,
    PAGE_INCHES,
    Look,
    look_of,
    paper_style,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, Any]
OWN_COLOUR = OWN_LOOK.light
BACKBONE_TITLES = {
    "swin-t": "Swin-T",
    "swin-s": "Swin-S",
    "swin-b": "Swin-B",
    "swin-l": "Swin-L",
    "mvit-t": "MViT-T",
    "r50": "R50",
    "r101": "R101",
    "r18": "R18",
    "stdc1": "STDC1",
    "stdc2": "STDC2",
    "convnext-l": "ConvNeXt-L",
    "mit-b5": "MiT-B5",
    "vit-ti/16": "ViT-Ti/16",
    "vit-s/16": "ViT-S/16",
    "vit-b/16": "ViT-B/16",
    "vit-l/16": "ViT-L/16",
}
DATASET_TITLES = {"coco": "COCO", "cityscapes": "Cityscapes", "ade20k": "ADE20K", "": "any data set"}
CAPTION_POINTS = 6.0
# Characters of the caption that fit a column.
COLUMN_CHARACTERS = 74
# Letters of a caption; the settings of many records are not all told.
MOST_CAPTION = 2000


class NothingMatches(ValueError):
    """There is nothing to draw; the line tells what was asked for."""


def new_figure(
    wide: bool, height: float, caption: str, panels: int = 1, rows: int = 1, **layout: Any
) -> tuple["Figure", list["Axes"]]:
    """An empty figure of a column's or page's width (inches) with its caption below; draw in ``paper_style``.

    Args:
        wide: across the page instead of one column.
        height: of the panels, all rows together, inches; the caption's lines come on top of it.
        caption: convention, input size and what else a reader must know.
        panels: side by side.
        rows: of panels below each other; they are given back row by row.
        layout: for ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = PAGE_INCHES if wide else COLUMN_INCHES
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, panels, squeeze=False, **layout)
    told = figure.supxlabel("", fontsize=CAPTION_POINTS, x=0.01, ha="left", linespacing=1.25)
    said = shortened(caption, MOST_CAPTION)
    # As many letters to a line as fit: capitals and figures are wider than most.
    for letters in range(round(COLUMN_CHARACTERS * width / COLUMN_INCHES), 20, -2):
        lines = textwrap.wrap(said, letters)
        told.set_text("\n".join(lines))
        if told.get_window_extent().width <= 0.98 * figure.bbox.width:
            break
    figure.set_figheight(height + 0.115 * len(lines))
    return figure, list(axes.flat)


def finish(figure: "Figure") -> "Figure":
    """Lay out once, so that the figure is the same in every format."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


@dataclass(frozen=True)
class Window:
    """The part of two axes that a chart shows: all points but those far from all others.

    Those have no marker, as it would stand where the value is not: an arrow at the edge points to them.
    """

    across: tuple[float, float]
    up: tuple[float, float]

    def holds(self, place: tuple[float, float]) -> bool:
        """Whether a marker can stand where its values are."""
        (x0, x1), (y0, y1) = self.across, self.up
        return x0 <= place[0] <= x1 and y0 <= place[1] <= y1

    def edge(self, place: tuple[float, float]) -> tuple[float, float]:
        """The nearest place on the window's edge, where the arrow's head is."""
        (x0, x1), (y0, y1) = self.across, self.up
        return min(max(place[0], x0), x1), min(max(place[1], y0), y1)

    def show(self, axes: "Axes") -> None:
        """Set the axes' limits."""
        axes.set_xlim(*self.across)
        axes.set_ylim(*self.up)


def window(
    places: Sequence[tuple[float, float]], ends: Sequence[tuple[float, float]] = (), room: float = 0.13
) -> Window:
    """What a chart of these points shows, with some room around them.

    Args:
        places: where the markers stand.
        ends: of error bars; they only widen the window.
        room: at each side, share of what is shown.
    """
    sides = []
    for axis in (0, 1):
        low, high = _fences([place[axis] for place in places])
        # Error bars of what is far away are far away as well.
        near = [end[axis] for end in ends if low - (high - low) <= end[axis] <= high + (high - low)]
        low, high = min([low, *near]), max([high, *near])
        more = room * ((high - low) or abs(high) or 1.0)
        sides.append((low - more, high + more))
    return Window(sides[0], sides[1])


def _fences(values: Sequence[float]) -> tuple[float, float]:
    """Tukey's outer fences, drawn in to the last value within them.

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
    return low, high


def point_away(
    axes: "Axes", view: Window, place: tuple[float, float], colour: str
) -> list[tuple[float, float]]:
    """An arrow at the edge towards a point beyond it; its head's other coordinate is the point's own.

    Returns:
        the arrow as a line, for labels to keep off.
    """
    head = view.edge(place)
    pixel = axes.transData.transform(head)
    beyond = [(p > h) - (p < h) for p, h in zip(place, head, strict=True)]
    scale = axes.figure.dpi / 72
    tail = axes.transData.inverted().transform(
        [c - 15 * scale * b for c, b in zip(pixel, beyond, strict=True)]
    )
    axes.annotate(
        "",
        head,
        (float(tail[0]), float(tail[1])),
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0},
        gid="off-the-chart",
    )
    return [(float(tail[0]), float(tail[1])), head]


def mark(
    axes: "Axes",
    place: tuple[float, float],
    look: Look,
    hollow: bool = False,
    alpha: float = 1.0,
    area: float = 16.0,
    zorder: float = 3.0,
) -> None:
    """A system's marker where its values are; hollow for a figure as published.

    A rim of the page's colour parts it from markers that it lies upon.
    """
    area *= 2.6 if look.marker == "*" else 1.0
    axes.scatter(
        [place[0]], [place[1]], s=area, marker=look.marker, facecolor=PAGE, edgecolor=PAGE, linewidth=2.2,
        zorder=zorder - 0.0005,
    )  # fmt: skip
    axes.scatter(
        [place[0]],
        [place[1]],
        s=area,
        marker=look.marker,
        facecolor=PAGE if hollow else look.light,
        edgecolor=look.light,
        linewidth=0.9,
        alpha=alpha,
        zorder=zorder,
    )


def key(look: Look | None, label: str, hollow: bool = False) -> Any:
    """A marker for a legend; without a look, the grey circle that shows what hollow or filled means."""
    from matplotlib.lines import Line2D

    colour, marker = (look.light, look.marker) if look else ("#555555", "o")
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        color=colour,
        markerfacecolor=PAGE if hollow else colour,
        markersize=6 if marker == "*" else 4,
        label=legend_name(label),
    )


def legend_name(name: str, most: int = 40) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    text = shortened(name, most)
    return f"\u200a{text}" if text.startswith("_") else text


def legend_rows(labels: Sequence[str], wide: bool) -> tuple[int, int]:
    """Columns and rows of a legend across a figure's top."""
    # A character takes a little over a twentieth of an inch, a marker and its gap about five characters.
    width = PAGE_INCHES if wide else COLUMN_INCHES
    columns = max(1, min(len(labels), int(width / (0.053 * (max(map(len, labels)) + 5)))))
    return columns, math.ceil(len(labels) / columns)


def legend_above(figure: "Figure", handles: Sequence[Any], columns: int) -> None:
    """A legend across the figure's top."""
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.1,
        handlelength=1.4,
        handletextpad=0.4,
        borderaxespad=0.1,
    )


def shared_parts(names: Sequence[str]) -> list[str]:
    """What the names of all settings share, such as the machine's."""
    first = names[0].split(", ") if names else []
    return [part for part in first if all(part in name.split(", ") for name in names)]


def without(name: str, parts: Sequence[str]) -> str:
    """A setting's name without what all share."""
    return ", ".join(part for part in name.split(", ") if part not in parts) or name


def on_ground() -> dict[str, Any]:
    """For a text: a ground of the page's colour, above the grid and below all marks."""
    return {"bbox": {"facecolor": PAGE, "edgecolor": "none", "pad": 0.2}, "zorder": 0.8}


def ground_legend() -> dict[str, Any]:
    """For a legend inside the axes: the same."""
    return {"frameon": True, "framealpha": 1.0, "facecolor": PAGE, "edgecolor": "none", "borderpad": 0.2}


def colour_of(encoder: str) -> str:
    """A system's colour."""
    return look_of(encoder).light


def darkened(figure: "Figure") -> "Figure":
    """The figure recoloured for a dark ground, in place; pictures and heat maps keep their colours."""
    import numpy as np
    from matplotlib.collections import Collection, QuadMesh
    from matplotlib.colors import to_hex, to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    known = {name.lower(): value for name, value in DARK.items()}

    def swapped(colour: Any) -> Any:
        if isinstance(colour, str) and colour in ("none", "face"):
            return colour
        new = known.get(to_hex(colour))
        return colour if new is None else (new, to_rgba(colour)[3])

    for axes in figure.axes:
        # Ticks are made again whenever an axis is laid out.
        axes.tick_params(colors=DARK[INK], grid_color=DARK[GRID])
    meshes = figure.findobj(QuadMesh)
    inside = {text for mesh in meshes for text in getattr(mesh.axes, "texts", ())}
    for text in figure.findobj(Text):
        if text not in inside:
            text.set_color(swapped(text.get_color()))
        ground = text.get_bbox_patch()
        if ground is not None:
            ground.set_facecolor(swapped(ground.get_facecolor()))
    for line in figure.findobj(Line2D):
        for get, put in (
            (line.get_markerfacecolor, line.set_markerfacecolor),
            (line.get_markeredgecolor, line.set_markeredgecolor),
            (line.get_color, line.set_color),
        ):
            put(swapped(get()))
    for patch in figure.findobj(Patch):
        if to_rgba(patch.get_facecolor())[3]:
            patch.set_facecolor(swapped(patch.get_facecolor()))
        if to_rgba(patch.get_edgecolor())[3]:
            patch.set_edgecolor(swapped(patch.get_edgecolor()))
    for drawn in figure.findobj(Collection):
        if not isinstance(drawn, QuadMesh):
            faces, edges = (
                [swapped(c) for c in np.atleast_2d(get()) if len(c)]
                for get in (drawn.get_facecolor, drawn.get_edgecolor)
            )
            drawn.set_facecolor(faces or "none")
            drawn.set_edgecolor(edges or "none")
    return figure


def backbone_title(backbone: str) -> str:
    """A backbone as papers write it."""
    return BACKBONE_TITLES.get(backbone, backbone)


def style() -> Any:
    """The context to draw in."""
    return paper_style()
