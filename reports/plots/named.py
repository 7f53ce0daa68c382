"""Every figure under its name: what `segmeter plot` draws one of, and a report all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.harness.records import FlopsRecord
from segmeter.reports.plots.breakdown import breakdown_figure, caption
from segmeter.reports.plots.common import NothingMatches
from segmeter.reports.plots.configurations import (
    backbones_figure,
    circles_figure,
    configurations_figure,
    stages_figure,
)
from segmeter.reports.plots.cost import (
    layers_figure,
    lpe_figure,
    not_counted_figure,
    resolution_figure,
)
from segmeter.reports.plots.realised import realised_figure
from segmeter.reports.plots.tradeoff import one_setting, pareto_figure, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = Mapping[str, Any]
Picture = tuple["Figure", str]

# Name of a figure -> what it shows. Those with a data set in their name are what a report draws of "pareto".
KINDS = {
    "breakdown": "Compute by part and by the encoder's component (the paper's Figure 1b)",
    "circles": "Encoder GFLOPs against PQ with circles (Figure 2b)",
    "configurations": "PRO-SCALE's configurations against M2F's line (Figure 10)",
    "lpe": "Light-weight pixel embedding on and off (Table 4)",
    "stages": "What two more layers in each stage cost and gain (Table 6)",
    "backbones": "From M2F to PRO-SCALE on each backbone (tables 5 and 7)",
    "pareto": "Cost against quality with the front",
    "resolution": "Encoder cost against resolution",
    "layers": "Cost per level and layer",
    "not-counted": "What the published figures leave out",
    "realised": "What a clock sees of the FLOPs saved: claimed beside realised savings",
}
REPORT_PARETO = {
    "pareto-gflops-coco": ("gflops_total", "pq", "coco"),
    "pareto-gflops-cityscapes": ("gflops_total", "pq", "cityscapes"),
    "pareto-miou-cityscapes": ("gflops_total", "miou", "cityscapes"),
    "pareto-ap-cityscapes": ("gflops_total", "ap", "cityscapes"),
    "pareto-latency-coco": ("latency_ms", "pq", "coco"),
    "pareto-fps-cityscapes": ("fps", "pq", "cityscapes"),
}


def breakdown_picture(records: Sequence[FlopsRecord]) -> Picture:
    """:func:`reports.plots.breakdown.breakdown_figure` with its caption."""
    return breakdown_figure(records), caption(records[0])


def _realised(data: Data) -> Picture:
    """On the report's backbone, or on any that has records."""
    try:
        return realised_figure(data["realised"], backbone=data["backbone"])
    except NothingMatches:
        return realised_figure(data["realised"])


def report_figures(data: Data) -> dict[str, Picture]:
    """Every figure that can be drawn of the data, with its caption; what has no data is left out.

    Args:
        data: of :func:`harness.tradeoff.figure_data.collect_figures`.
    """
    drawn: dict[str, Picture] = {}
    backbone = data["backbone"]
    points = data["points"]

    def pareto(x: str, y: str, dataset: str) -> Callable[[], Picture]:
        def draw() -> Picture:
            found = select(points, x, y, dataset, (backbone,), ("pro-scale",))
            return pareto_figure(one_setting(found) if x == "latency_ms" else found, x, y)

        return draw

    makers: dict[str, Callable[[], Picture]] = {
        "breakdown": lambda: breakdown_picture(data["breakdown"]),
        **{name: pareto(*figures) for name, figures in REPORT_PARETO.items()},
        "circles": lambda: circles_figure(points, "coco", backbone),
        "configurations": lambda: configurations_figure(points),
        "stages": lambda: stages_figure(points),
        "lpe": lambda: lpe_figure(data["lpe"], points),
        "backbones": lambda: backbones_figure(points),
        "resolution": lambda: resolution_figure(data["resolution"]),
        "layers": lambda: layers_figure(data["layers"]),
        "not-counted": lambda: not_counted_figure(data["not_counted"]),
        "realised": lambda: _realised(data),
    }
    for name, make in makers.items():
        try:
            drawn[name] = make()
        except NothingMatches:
            continue
    return drawn
