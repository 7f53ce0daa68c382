"""Overlay pictures: what encoders make of a photo, side by side (the papers' qualitative figures)."""

import colorsys
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segmeter.reports.plots.style import PAGE_INCHES, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segmeter.harness.quality import PhotoResult

OPACITY = 0.6
LEGEND_CLASSES = 18
VOID_COLOUR = (0.75, 0.75, 0.75)
Colour = tuple[float, float, float]


def class_colour(index: int) -> Colour:
    """A class's colour, the same in every picture: hues a golden section apart, in four strengths."""
    hue = (0.61 + index * 0.6180339887) % 1
    # Classes 13, 21, 34, 55 or 89 apart have nearly one hue; four strengths tell them apart, three do not.
    saturation, value = ((0.75, 0.9), (0.5, 1.0), (0.95, 0.6), (0.4, 0.7))[index % 4]
    return colorsys.hsv_to_rgb(hue, saturation, value)


def overlay_figure(results: Sequence["PhotoResult"]) -> "Figure":
    """One photo: itself and a legend on the left, then a column for each model.

    Rows are the panoptic segments, instances (score 0.5 or more) and the semantic map; a detector has boxes
    in the row of the instances and nothing in the others, which are left out where all are detectors.

    Args:
        results: of one photo, one for each model.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(results) + 1
    detectors = all(result.boxes is not None for result in results)
    kinds = ("instances",) if detectors else ("panoptic", "instances", "semantic")
    height, width = results[0].image.shape[:2]
    cell = max(PAGE_INCHES / columns, 2.2)
    row_height = min(max(cell * height / width, 0.6), 6.0)
    with paper_style():
        figure = Figure(
            figsize=(cell * columns, (2 if detectors else 3) * row_height + 0.35), layout="constrained"
        )
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2 if detectors else 3, columns)
        photo = figure.add_subplot(grid[0, 0])
        photo.imshow(results[0].image)
        photo.set_title(results[0].photo)
        _legend(figure.add_subplot(grid[1:, 0]), results)
        photo.set_axis_off()
        for column, result in enumerate(results, start=1):
            for row, kind in enumerate(kinds):
                axes = figure.add_subplot(grid[row, column])
                if result.boxes is None:
                    axes.imshow(DRAWN[kind](result))
                elif kind == "instances":
                    _draw_boxes(axes, result)
                else:
                    axes.imshow(result.image, alpha=0.25)
                    axes.text(0.5, 0.5, "boxes alone", transform=axes.transAxes, ha="center", va="center")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                for side in axes.spines.values():
                    side.set_visible(False)
                if row == 0:
                    axes.set_title(result.title)
                if column == 1:
                    axes.set_ylabel("boxes" if detectors else kind)
        return figure


def picture_bytes(figure: "Figure") -> bytes:
    """A figure as PNG; the same results give the same file."""
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def shown_classes(results: Sequence["PhotoResult"]) -> list[int]:
    """Classes in any of the pictures, the largest first, at most as many as the legend holds."""
    pixels: Counter[int] = Counter()
    for result in results:
        for segment, category in result.segments.items():
            pixels[category] += int((result.panoptic == segment).sum())
        for mask, category, _ in result.instances:
            pixels[category] += int(mask.sum())
        for (_, _, width, height), category, _ in result.boxes or ():
            pixels[category] += max(1, round(width * height))
        found = [] if result.boxes is not None else np.bincount(result.semantic.ravel()).tolist()
        for category, count in enumerate(found):
            if count:
                pixels[category] += count
    return [category for category, _ in pixels.most_common(LEGEND_CLASSES)]


def _panoptic(result: "PhotoResult") -> np.ndarray:
    colours = np.zeros((int(result.panoptic.max()) + 1, 3))
    colours[0] = VOID_COLOUR
    seen: Counter[int] = Counter()
    for segment, category in result.segments.items():
        # Instances of one class differ in brightness.
        colours[segment] = _shade(class_colour(category), seen[category])
        seen[category] += 1
    return _blend(result.image, colours[result.panoptic], _edges(result.panoptic))


def _instances(result: "PhotoResult") -> np.ndarray:
    """Each pixel has the colour of the best instance over it; the photo shows where there is none."""
    owner = np.zeros(result.image.shape[:2], dtype=np.int64)
    colours = [(0.0, 0.0, 0.0)]
    seen: Counter[int] = Counter()
    for number, (mask, category, _) in enumerate(result.instances, start=1):
        owner[mask & (owner == 0)] = number
        colours.append(_shade(class_colour(category), seen[category]))
        seen[category] += 1
    picture = result.image / 255
    tinted = _blend(result.image, np.array(colours)[owner], _edges(owner))
    picture[owner > 0] = tinted[owner > 0]
    return picture


def _semantic(result: "PhotoResult") -> np.ndarray:
    colours = np.array([class_colour(category) for category in range(len(result.classes))])
    return _blend(result.image, colours[result.semantic], _edges(result.semantic))


DRAWN = {"panoptic": _panoptic, "instances": _instances, "semantic": _semantic}


def _draw_boxes(axes: "Axes", result: "PhotoResult") -> None:
    """The photo with a frame in its class's colour and the score at each box, the best on top."""
    from matplotlib.patches import Rectangle

    axes.imshow(result.image)
    for (left, top, width, height), category, score in reversed(result.boxes or ()):
        colour = class_colour(category)
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=1.2))
        box = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.6, "pad": 0.8, "alpha": 0.85}
        # Above the box, but for those at the picture's upper edge.
        place = "bottom" if top > result.image.shape[0] / 20 else "top"
        axes.text(left, top, f"{score:.2f}", fontsize=5, va=place, bbox=box, clip_on=True)


def _shade(colour: Colour, turn: int) -> Colour:
    lightness = (1.0, 0.72, 1.25, 0.85, 1.12)[turn % 5]
    red, green, blue = (min(1.0, part * lightness) for part in colour)
    return red, green, blue


def _blend(image: np.ndarray, colours: np.ndarray, edges: np.ndarray) -> np.ndarray:
    picture = (1 - OPACITY) * image / 255 + OPACITY * colours
    picture[edges] = 1
    return picture


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges


def _legend(axes: "Axes", results: Sequence["PhotoResult"]) -> None:
    from matplotlib.patches import Patch

    names = results[0].classes
    handles = [
        Patch(color=class_colour(category), label=names[category][0]) for category in shown_classes(results)
    ]
    if any(result.boxes is None and (result.panoptic == 0).any() for result in results):
        handles.append(Patch(color=VOID_COLOUR, label="no segment"))
    axes.set_axis_off()
    axes.legend(
        handles=handles, loc="upper left", ncols=2, handlelength=1.0, columnspacing=1.0, borderaxespad=0
    )
