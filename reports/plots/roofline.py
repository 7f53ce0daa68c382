"""The roofline: what rate each component achieved, under the machine's measured roofs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.harness.records import PARTS
from segmeter.reports.plots.common import legend_name
from segmeter.reports.plots.style import COLUMN_INCHES, PART_COLOURS, paper_style, shortened
from segmeter.reports.units import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]


def roofline_figure(runs: Sequence[Record]) -> "Figure":
    """Achieved rate over intensity, component by component, under the machine's measured roofs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    peaks = runs[0]["figures"]
    top, slope = peaks["peak_tflops"], peaks["peak_gbytes_per_s"] / 1e3
    with paper_style():
        figure = Figure(figsize=(COLUMN_INCHES, 2.6 + 0.1 * max(0, 2 * len(runs) - 2)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        low, high = 0.02, max(1000.0, 4 * top / slope)
        axes.plot([low, top / slope, high], [low * slope, top, top], color="black", linewidth=0.8)
        for run, marker in zip(runs, "os^Dv<>Ph*" * len(runs), strict=False):
            points: dict[str, list[tuple[float, float]]] = {}
            for name, c in run["components"].items():
                if c.get("tflops_per_s"):
                    # Components of a model of one's own belong to none of the four parts.
                    part = name.partition(".")[0] if name.partition(".")[0] in PARTS else "model"
                    points.setdefault(part, []).append((c["flops_per_byte"], c["tflops_per_s"]))
            for part, found in sorted(points.items()):
                x, y = zip(*found, strict=True)
                name = shortened(run["title"], 32)
                label = legend_name(name if part == "model" else f"{name}: {title(part)}", 60)
                axes.scatter(
                    x,
                    y,
                    s=12,
                    marker=marker,
                    color=PART_COLOURS.get(part, "#777777"),
                    label=legend_name(label),
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_xlabel("FLOPs per byte moved, operators unfused")
        axes.set_ylabel("TFLOP/s")
        axes.set_title(shortened(f"{runs[0]['environment']['device_name']}, {runs[0]['settings']['dtype']}"))
        # Below the figure: inside, it would cover points of any model.
        figure.legend(loc="outside lower center", fontsize=5, ncols=2, frameon=False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return figure
