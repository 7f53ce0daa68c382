"""Figures of a system's tokens block by block: likeness, what windows merge, purity; what reducers leave."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from segmeter.reports.plots.common import finish, new_figure
from segmeter.reports.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, paper_style, shortened
from segmeter.reports.units import giga

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Measure -> label, colour, marker.
LIKENESS = {
    "window2_cosine": ("2x2 windows", BLUE, "o"),
    "window4_cosine": ("4x4 windows", GREEN, "s"),
    "image_cosine": ("whole image", ORANGE, "^"),
}
ALIKE = {"window2_alike": ("2x2 windows", BLUE, "o"), "window4_alike": ("4x4 windows", GREEN, "s")}
PURITY = {
    "window2_purity": ("2x2 windows", BLUE, "o"),
    "window4_purity": ("4x4 windows", GREEN, "s"),
    "purity": ("tokens", PURPLE, "D"),
}


def likeness_figure(record: Mapping[str, Any]) -> "Figure":
    """Cosine, share of alike windows and, where labels were given, purity in class against the block."""
    from matplotlib.ticker import MaxNLocator

    panels = [
        ("mean cosine of pairs", LIKENESS),
        (f"share of windows of {record['threshold']:g} or more", ALIKE),
        ("share of pixels of their token's class", PURITY),
    ]
    blocks = record["blocks"]
    drawn = [(title, known) for title, known in panels if any(name in b for b in blocks for name in known)]
    bands = "; bands: one standard deviation over images" if len(record["images"]) > 1 else ""
    stages = "; grey lines: stages" if _borders(record) else ""
    caption = (
        f"Tokens that enter each block of {record['title']} at {record['size']}, "
        f"{len(record['images'])} image{'s' if len(record['images']) != 1 else ''}{bands}{stages}. "
        f"Weights: {record['weights']}."
    )
    with paper_style():
        figure, axes = new_figure(True, 2.2, caption, len(drawn))
        for place, (title, known) in zip(axes, drawn, strict=True):
            for name, look in known.items():
                _line(place, record, name, *look)
            for border in _borders(record):
                place.axvline(border, color=GREY, linewidth=0.6, zorder=0)
            place.set_title(title)
            place.set_xlabel("block")
            place.set_xlim(0.5, len(blocks) + 0.5)
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
            place.set_ylim(top=1.02)
            place.legend(loc="best", frameon=True, framealpha=0.8, edgecolor="none")
        return finish(figure)


def left_figure(record: Mapping[str, Any]) -> "Figure":
    """GMACs with each reducer, and their range over the images."""
    rows = [row for row in record["what_if"] if "total_gmacs" in row]
    caption = (
        f"{record['title']} at {record['size']} with each reducer's published settings (convention "
        f"published), mean and range over {max(row['images'] for row in rows)} images. "
        f"Weights: {record['weights']}."
    )
    totals = [row["total_gmacs"] for row in rows]
    ranges = np.array([[row["total_gmacs"] - row["range_gmacs"][0] for row in rows]] * 2, dtype=float)
    ranges[1] = [row["range_gmacs"][1] - row["total_gmacs"] for row in rows]
    with paper_style():
        figure, (axes,) = new_figure(False, 0.5 + 0.24 * len(rows), caption)
        places = range(len(rows))
        axes.barh(
            places, totals, height=0.6, color=BLUE, xerr=ranges.clip(min=0), ecolor="#555555", capsize=2
        )
        for place, row in zip(places, rows, strict=True):
            axes.annotate(
                giga(row["total_gmacs"]),
                (row["range_gmacs"][1], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.set_yticks(places, [shortened(row["title"], 32) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(row["range_gmacs"][1] for row in rows))
        axes.set_xlabel("GMACs")
        axes.grid(False, axis="y")
        return finish(figure)


def _line(axes: "Axes", record: Mapping[str, Any], name: str, label: str, colour: str, marker: str) -> None:
    seen = [(n, b[name], b["std_images"][name]) for n, b in enumerate(record["blocks"], 1) if name in b]
    if not seen:
        return
    at, mean, spread = (np.array(column, dtype=float) for column in zip(*seen, strict=True))
    axes.plot(at, mean, color=colour, marker=marker, markersize=2.5, linewidth=1.1, label=label)
    if len(record["images"]) > 1:
        # No mean of cosines is above 1, and no share below 0.
        low = mean - spread if name.endswith("cosine") else (mean - spread).clip(min=0)
        axes.fill_between(at, low, (mean + spread).clip(max=1), color=colour, alpha=0.15, linewidth=0)


def _borders(record: Mapping[str, Any]) -> list[float]:
    """Between which blocks the tokens' stage changes: where the path before the block's number does."""
    stages = [block["layer"].rpartition(".")[0] for block in record["blocks"]]
    return [n + 0.5 for n in range(1, len(stages)) if stages[n] != stages[n - 1]]
