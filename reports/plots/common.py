"""What the figures share: a page to draw on, a caption below it, labels that keep clear of each other."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.style import (
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
    "r18": "R18",
    "stdc1": "STDC1",
    "stdc2": "STDC2",
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


class NothingMatches(ValueError):
    """There is nothing to draw; the line tells what was asked for."""


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
