"""The compute breakdown: where each model's work sits (as the PRO-SCALE paper's Figure 1b)."""

import io
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from segmeter.harness.records import PARTS, FlopsRecord, part_figure
from segmeter.plain import plain
from segmeter.reports.plots.common import ground_legend, on_ground
from segmeter.reports.plots.style import (
    ENCODER_PART_COLOURS,
    PAGE_INCHES,
    PART_COLOURS,
    paper_style,
    shortened,
)
from segmeter.reports.units import PART_TITLES, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
# What a format calls the date, which is left out.
_DATES = {"pdf": "CreationDate", "svg": "Date"}
OWN_PARTS_COLOUR = "#555555"


def breakdown_figure(records: Sequence[FlopsRecord]) -> "Figure":
    """Stacked bars: whole models by part on the left, their encoders by component on the right.

    Args:
        records: one record for each model, all at one size and in one convention.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with paper_style():
        figure = Figure(figsize=(PAGE_INCHES, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        whole, inside = figure.subplots(1, 2)
        backbones = list(dict.fromkeys(_backbone(record) for record in records))
        # Several backbones: each bar says which is in it.
        names = [_bar_name(record, len(backbones) > 1) for record in records]
        bars = {PART_TITLES[p]: [part_figure(r, p) for r in records] for p in PARTS}
        # A whole model of the user's own has parts of its own.
        bars["own parts"] = [r["total_gmacs"] - sum(part_figure(r, p) for p in PARTS) for r in records]
        _stack(whole, names, bars, [*(PART_COLOURS[p] for p in PARTS), OWN_PARTS_COLOUR])
        parts = {title(n): [_encoder_part(record, n) for record in records] for n in ENCODER_PART_COLOURS}
        encoders = [part_figure(record, "encoder") for record in records]
        known = [sum(values) for values in zip(*parts.values(), strict=True)]
        parts["own parts"] = [total - part for total, part in zip(encoders, known, strict=True)]
        _stack(inside, names, parts, [*ENCODER_PART_COLOURS.values(), OWN_PARTS_COLOUR])
        first = records[0]
        whole.set_ylabel(first["unit"])
        inside.set_ylabel(first["unit"])
        whole.set_title(
            f"Whole model, {shortened(backbones[0])}"
            if len(backbones) == 1
            else "Whole models, several backbones"
        )
        inside.set_title("Encoder alone")
        figure.supxlabel(caption(first), fontsize=6.5)
        # Lay out once: each format would do it again, with text a hair wider or narrower.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return figure


def _bar_name(record: FlopsRecord, with_backbone: bool) -> str:
    """A bar's name on lines of its own: the encoder, its configuration, its backbone where they differ."""
    title = shortened(record["encoder_title"], 28).replace(" (", "\n(")
    # A long name is broken between its words, so that it does not run into its neighbour's.
    name = "\n".join(line for part in title.split("\n") for line in wrap(part, 12, break_long_words=False))
    return f"{name}\n{shortened(_backbone(record), 16)}" if with_backbone else name


def _backbone(record: FlopsRecord) -> str:
    return record["title"].rsplit(", ", 1)[-1]


def figure_bytes(figure: "Figure", kind: str, name: str = "") -> bytes:
    """A figure as PDF, SVG or PNG; no date, author or path inside, so the same records give the same file.

    Args:
        kind: "pdf", "svg" or "png".
        name: what the file says of itself; PDF readers show it in their window's title.
    """
    from matplotlib.text import Text

    metadata: dict[str, str | None] = {} if kind == "png" else {_DATES[kind]: None}
    if name:
        metadata["Title"] = plain(name)
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        # Control codes are no XML, and no letters in any font.
        text.set_text("\n".join(map(plain, text.get_text().split("\n"))))
    with paper_style():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _stack(
    axes: "Axes", names: Sequence[str], layers: dict[str, list[float]], colours: Sequence[str]
) -> None:
    bottom = [0.0] * len(names)
    positions = range(len(names))
    # Below a thousandth there is nothing to see, and nothing but rounding in a rest.
    least = 1e-3 * max(sum(heights) for heights in zip(*layers.values(), strict=True))
    for (label, heights), colour in zip(layers.items(), colours, strict=True):
        if max(heights) <= least:
            continue
        axes.bar(
            positions,
            heights,
            0.62,
            bottom,
            label=label,
            color=colour,
            edgecolor="white",
            linewidth=0.5,
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for position, top in zip(positions, bottom, strict=True):
        axes.annotate(
            f"{top:.0f}" if top >= 100 else f"{top:.1f}",
            (position, top),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            **on_ground(),
        )
    crowded = len(names) > 4
    axes.set_xticks(positions, names, rotation=25 if crowded else 0, ha="right" if crowded else "center")
    axes.tick_params(axis="x", length=0)
    # Room for the legend, two parts a row, above the bars and their figures; of 1.9 inches
    rows = (len(axes.get_legend_handles_labels()[0]) + 1) // 2
    axes.set_ylim(0, max(bottom) / (1 - (0.14 * rows + 0.2) / 1.9))
    # On a ground of its own, so that no grid line runs through its words.
    axes.legend(loc="upper right", ncols=2, columnspacing=1.0, handlelength=1.0, **ground_legend())


def _encoder_part(record: FlopsRecord, name: str) -> float:
    encoder = record["components"].get("encoder")
    part = encoder["parts"].get(name) if encoder else None
    return part["gmacs"] if part else 0.0


def caption(record: FlopsRecord) -> str:
    """Convention, size, classes and queries of a record."""
    return (
        f"{record['unit']}, convention '{record['convention']}', {record['size']}, batch 1, "
        f"{record['num_classes']} classes, {record['num_queries']} queries"
    )
