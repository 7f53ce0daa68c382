"""Every figure: nothing clipped, no labels upon each other, units and convention told, the same bytes."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.tradeoff.figure_data import collect_figures, realised_data
from segmeter.reports.plots.breakdown import breakdown_figure, figure_bytes
from segmeter.reports.plots.common import CAPTION_POINTS, NothingMatches, darkened
from segmeter.reports.plots.configurations import circles_figure, configurations_figure, stages_figure
from segmeter.reports.plots.cost import not_counted_figure
from segmeter.reports.plots.named import KINDS, report_figures
from segmeter.reports.plots.realised import realised_figure, spread
from segmeter.reports.plots.style import (
    DARK,
    DATASET_COLOURS,
    ENCODER_PART_COLOURS,
    PART_COLOURS,
    SYSTEM_LOOKS,
    look_of,
)
from segmeter.reports.plots.tradeoff import fronts, pareto_figure, select
from tests.helpers.pictures import KEY, PICTURES, ROOT, digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple["Figure", str]
PARETO = {"pareto-gflops-coco", "pareto-fps-cityscapes", "pareto-miou-cityscapes", "pareto-ap-cityscapes"}
REALISED = [
    {
        "model": "pro-scale@swin-t",
        "title": "PRO-SCALE (3,3,3), Swin-T",
        "baseline": "M2F, Swin-T",
        "size": "512x1024",
        "machine": "a processor, fp32, batch 1",
        "record": "run-1",
        "rows": [
            {"component": "total", "claimed": 0.27, "realised": 0.05, "low": -0.02, "high": 0.1},
            {"component": "encoder.ffn", "claimed": 0.36, "realised": 0.3, "low": None, "high": None},
            {
                "component": "encoder.elementwise",
                "claimed": None,
                "realised": -0.1,
                "low": None,
                "high": None,
            },
        ],
    }
]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return collect_figures("swin-t") | {"realised": REALISED}


@pytest.fixture(scope="module")
def pictures(data: dict[str, Any]) -> dict[str, Picture]:
    drawn = report_figures(data)
    crowded = select(data["points"], "gflops_encoder", "pq", "coco", (), ("pro-scale",))
    drawn["crowded"] = pareto_figure(crowded, "gflops_encoder", "pq")
    return drawn


def texts(figure: "Figure") -> Iterator[Any]:
    """Every text that is drawn, tick labels included."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            yield text


def box(text: Any) -> Any:
    return text.get_window_extent(text.get_figure(root=True).canvas.get_renderer())


def test_a_report_has_every_kind(pictures: dict[str, Picture]) -> None:
    names = {"pareto" if name in PARETO or name.startswith("pareto-") else name for name in pictures}
    assert names - {"crowded"} == set(KINDS)


def test_no_text_is_clipped(pictures: dict[str, Picture]) -> None:
    for name, (figure, _) in pictures.items():
        page = figure.bbox
        # A tick beyond the axis' end keeps a label that is not drawn.
        hidden = set().union(*(_hidden_ticks(axes) for axes in figure.axes))
        for text in texts(figure):
            if text in hidden:
                continue
            place = box(text)
            inside = (
                page.x0 <= place.x0 and place.x1 <= page.x1 and page.y0 <= place.y0 and place.y1 <= page.y1
            )
            assert inside, f"{name}: {text.get_text()!r} at {place}"


def _hidden_ticks(axes: Any) -> set[Any]:
    hidden = set()
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    return hidden


def test_no_label_lies_on_another(pictures: dict[str, Picture]) -> None:
    from matplotlib.transforms import Bbox

    for name, (figure, _) in pictures.items():
        for axes in figure.axes:
            labels = [text for text in axes.texts if text.get_text()]
            for index, a in enumerate(labels):
                for b in labels[:index]:
                    both = Bbox.intersection(box(a), box(b))
                    # Boxes hold a font's full height, which letters and digits do not fill: touching is fine.
                    share = 0.0 if both is None else both.height / min(box(a).height, box(b).height)
                    narrow = both is None or both.width < 2
                    assert share < 0.2 or narrow, f"{name}: {a.get_text()!r} on {b.get_text()!r}"


def test_every_axis_of_figures_has_a_unit_and_every_caption_its_terms(pictures: dict[str, Picture]) -> None:
    units = ("GMACs", "%", "PQ", "per second", "points", "megapixels", "mIoU", "AP", "layer")
    for name, (figure, caption) in pictures.items():
        labels = [axis.get_label_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
        told = [label for label in labels if label]
        assert told, name
        assert all(any(unit in label for unit in units) for label in told), (name, told)
        drawn = " ".join(figure.get_supxlabel().split())
        assert drawn == caption, name
        assert re.search(r"\d+x\d+|Speed", caption), name


def test_captions_are_small_but_legible_and_figures_fit_a_paper(pictures: dict[str, Picture]) -> None:
    for name, (figure, _) in pictures.items():
        assert round(figure.get_figwidth(), 2) in (3.35, 6.9), name
        # A paper's footnotes have 6 to 8 points; in-cell figures of the heat map are the least.
        assert min(text.get_fontsize() for text in texts(figure)) >= min(5.5, CAPTION_POINTS), name


def test_same_data_same_bytes_in_three_formats(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t",), ("pro-scale",))
    first, again = (pareto_figure(chosen, "gflops_encoder", "pq")[0] for _ in range(2))
    for kind, start in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        content = figure_bytes(first, kind)
        assert content.startswith(start) and content == figure_bytes(again, kind)


def test_measured_points_take_the_place_of_printed_ones(data: dict[str, Any]) -> None:
    points = data["points"]

    def sources(gflops: str) -> set[str]:
        chosen = select(points, "gflops_encoder", "pq", "coco", ("r50",), ("pro-scale",), gflops)
        return {p["source"] for p in chosen if p["label"] == "PRO-SCALE (1,1,1)"}

    assert sources("measured") == {"measured"}
    assert sources("published") == {"published"}
    assert sources("both") == {"measured", "published"}


def test_fronts_do_not_mix_inputs(data: dict[str, Any]) -> None:
    points = data["points"]
    chosen = select(points, "gflops_encoder", "pq", "coco", (), ("pro-scale",), "published")
    found = fronts(chosen, "gflops_encoder", "pq")
    # The paper's own COCO rows are for two padded sizes; FC-CLIP's and MaskCLIP's input is unknown.
    assert set(found) == {"800x1088", "800x1216"}
    caption = pareto_figure(chosen, "gflops_encoder", "pq")[1]
    assert "800x1088" in caption and "800x1216" in caption and "not to be compared" in caption


def test_own_points_join_the_largest_front_and_are_drawn_as_own(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t",), ("pro-scale",))
    own = dict(chosen[0]) | {
        "label": "Mine",
        "source": "own",
        "encoder": "Mine",
        "gflops_encoder": 20.0,
        "pq": 53.5,
        "encoder_basis": "own",
        "spread": {"pq": {"low": 53.0, "high": 54.0, "kind": "3 seeds"}},
    }
    found = fronts([*chosen, own], "gflops_encoder", "pq")
    # Cheaper and better than all others, it is alone on the front.
    assert {name: [p["label"] for p in group] for name, group in found.items()} == {"800x1088": ["Mine"]}
    figure, caption = pareto_figure([*chosen, own], "gflops_encoder", "pq")
    assert "Bars: 3 seeds." in caption
    assert "own" in legend_of(figure)


def legend_of(figure: "Figure") -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def markers(figure: "Figure") -> dict[tuple[float, float], tuple[str, str]]:
    """Place of each marker, in data -> its colour and its shape."""
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_hex
    from matplotlib.markers import MarkerStyle

    def outline(path: Any) -> str:
        return str(path.vertices.round(3).tolist())

    marks = {name: MarkerStyle(look.marker) for name, look in SYSTEM_LOOKS.items()}
    shapes = {outline(m.get_path().transformed(m.get_transform())): name for name, m in marks.items()}
    found = {}
    for axes in figure.axes:
        for drawn in axes.findobj(PathCollection):
            for x, y in drawn.get_offsets():
                shape = shapes.get(outline(drawn.get_paths()[0]), "")
                found[float(x), float(y)] = (to_hex(drawn.get_edgecolor()[0]).upper(), shape)
    return found


@pytest.mark.parametrize("backbones", [("swin-t",), ()])
def test_every_marker_stands_where_its_values_are(data: dict[str, Any], backbones: tuple[str, ...]) -> None:
    chosen = select(data["points"], "gflops_total", "pq", "coco", backbones, ("pro-scale",))
    figure = pareto_figure(chosen, "gflops_total", "pq")[0]
    values = {(p["gflops_total"], p["pq"]) for p in chosen}
    drawn = markers(figure)
    assert set(drawn) <= values
    axes = figure.axes[0]
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    beyond = {(x, y) for x, y in values if not (x0 <= x <= x1 and y0 <= y <= y1)}
    assert set(drawn) == values - beyond
    # What no axis reaches has an arrow at the edge, level with its value on the other axis.
    arrows = [text for text in axes.texts if text.get_gid() == "off-the-chart"]
    heads = {(round(a.xy[0], 6), round(a.xy[1], 6)) for a in arrows}
    assert heads == {(round(min(max(x, x0), x1), 6), round(min(max(y, y0), y1), 6)) for x, y in beyond}


def test_a_far_point_is_an_arrow_with_its_value(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t",), ("pro-scale",))
    figure, caption = pareto_figure(chosen, "gflops_encoder", "pq")
    # RT-M2F's PQ is 41.36, all others' between 50.79 and 52.82.
    assert "RT-M2F: PQ 41.36" in [text.get_text() for text in figure.axes[0].texts]
    assert 50 < figure.axes[0].get_ylim()[0] < 50.79
    assert 41.36 not in {y for _, y in markers(figure)}
    assert "Arrow: a point beyond the axes" in caption


def test_a_label_is_nearest_to_its_own_marker_or_has_a_line_to_it(data: dict[str, Any]) -> None:
    for x in ("gflops_encoder", "gflops_total"):
        chosen = select(data["points"], x, "pq", "coco", ("swin-t",), ("pro-scale",))
        axes = pareto_figure(chosen, x, "pq")[0].axes[0]
        inside = [p for p in chosen if p["label"] != "RT-M2F"]
        pixels = {p["label"]: axes.transData.transform((p[x], p["pq"])) for p in inside}
        led = {
            (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_linewidth() == 0.4
        }
        for p in inside:
            name = p["label"].removeprefix("PRO-SCALE ")
            (text,) = [text for text in axes.texts if text.get_text() == name]
            place = box(text)

            def gap(label: str, place: Any = place, pixels: Any = pixels) -> float:
                a, b = pixels[label]
                return max(place.x0 - a, 0, a - place.x1) ** 2 + max(place.y0 - b, 0, b - place.y1) ** 2

            nearest = min(pixels, key=gap)
            # Two points of space decide nothing.
            close = gap(p["label"]) ** 0.5 <= gap(nearest) ** 0.5 + 2 * axes.figure.dpi / 72
            assert close or (p[x], p["pq"]) in led, (x, name, nearest)


def test_a_system_has_one_colour_and_marker_in_every_figure(pictures: dict[str, Picture], data: Any) -> None:
    wanted = {look.light: name for name, look in SYSTEM_LOOKS.items()}
    seen: dict[str, set[str]] = {}
    for name in ("pareto-gflops-coco", "pareto-fps-cityscapes", "circles", "backbones", "crowded"):
        for colour, shape in markers(pictures[name][0]).values():
            if shape and colour in wanted:
                assert wanted[colour] == shape, name
                seen.setdefault(name, set()).add(shape)
    assert {"m2f", "pro-scale"} <= seen["backbones"] and len(seen["pareto-gflops-coco"]) >= 3


def test_a_colour_means_one_thing() -> None:
    systems = [look.light for look in SYSTEM_LOOKS.values()]
    found = [*PART_COLOURS.values(), *ENCODER_PART_COLOURS.values(), *DATASET_COLOURS.values(), *systems]
    assert len({colour.lower() for colour in found}) == len(found)
    looks = {name: look_of(name) for name in (*SYSTEMS, "algm", "step", "segformer++")}
    assert len({(look.light, look.marker) for look in looks.values()}) == len(looks)


def test_the_legend_names_every_system_and_kind_of_mark(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_total", "pq", "coco", (), ("pro-scale",), "both")
    legend = legend_of(pareto_figure(chosen, "gflops_total", "pq")[0])
    assert {"M2F", "Lite-M2F", "RT-M2F", "PRO-SCALE", "YOSO", "as published", "cost measured"} <= set(legend)
    assert [name for name in legend if name.startswith("front")]


def test_the_front_is_a_staircase_through_its_points(data: dict[str, Any]) -> None:
    for x in ("gflops_total", "fps"):
        dataset = "cityscapes"
        chosen = select(data["points"], x, "pq", dataset, ("swin-t",), ("pro-scale",))
        axes = pareto_figure(chosen, x, "pq")[0].axes[0]
        for line, group in zip(
            [line for line in axes.lines if line.get_gid() == "front"],
            fronts(chosen, x, "pq").values(),
            strict=True,
        ):
            corners = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
            assert {(p[x], p["pq"]) for p in group} <= set(corners)
            # Every step is level or upright: between two points nothing is promised that no model gives.
            assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))


def test_encoders_alone_on_several_backbones_are_told(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t", "r50"), ("pro-scale",))
    assert "Encoders alone" in pareto_figure(chosen, "gflops_encoder", "pq")[1]
    alone = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t",), ("pro-scale",))
    assert "Encoders alone" not in pareto_figure(alone, "gflops_encoder", "pq")[1]


def test_bars_of_several_backbones_name_theirs(data: dict[str, Any]) -> None:
    records = data["breakdown"]
    assert breakdown_figure(records).axes[0].get_title() == "Whole model, Swin-T"
    other = {**records[0], "backbone": "r50", "title": "Fpn, R50", "encoder_title": "Fpn"}
    axes = breakdown_figure([*records, other]).axes[0]
    assert "Swin-T" not in axes.get_title()
    assert [label.get_text() for label in axes.get_xticklabels()][::4] == ["M2F\nSwin-T", "Fpn\nR50"]


def test_no_bar_s_figure_lies_under_the_legend(data: dict[str, Any]) -> None:
    # The highest bars stand first and last.
    for records in (data["breakdown"], [*data["breakdown"], {**data["breakdown"][0], "title": "M2F, R50"}]):
        for axes in breakdown_figure(records).axes:
            legend = axes.get_legend().get_window_extent()
            assert not [text for text in axes.texts if text.get_text() and legend.overlaps(box(text))]


def test_a_dark_version_has_the_same_marks_and_no_white(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_total", "pq", "coco", ("swin-t",), ("pro-scale",))
    figure = pareto_figure(chosen, "gflops_total", "pq")[0]
    before = set(markers(figure))
    dark = figure_bytes(darkened(figure), "svg").decode().lower()
    assert set(markers(figure)) == before
    assert "#ffffff" not in dark and "#000000" not in dark and DARK["#ffffff"].lower() in dark


def test_nothing_to_draw_is_told_in_one_line(data: dict[str, Any]) -> None:
    with pytest.raises(
        NothingMatches, match=r"nothing matches: no point has latency_ms and pq, data set coco"
    ):
        select(data["points"], "latency_ms", "pq", "coco")
    with pytest.raises(NothingMatches, match="no model on coco with backbone swin-l"):
        circles_figure(data["points"], "coco", "swin-l")
    with pytest.raises(NothingMatches, match=r"no PRO-SCALE \(3,1,1\)"):
        stages_figure(data["points"], "r50")
    with pytest.raises(NothingMatches, match="segmeter profile m2f pro-scale"):
        realised_figure([])


def test_every_record_that_applies_is_drawn_with_their_spread() -> None:
    (pair,) = REALISED
    slower = {**pair["rows"][0], "realised": -0.12, "low": None, "high": None}
    pairs = [pair, {**pair, "machine": "a processor, bf16, batch 1", "rows": [slower]}]
    figure, caption = realised_figure(pairs)
    found = {round(x, 6) for x, y in markers(figure) if round(y) == 0}
    assert {5.0, -12.0, 27.0} == found  # both clocks and the claim
    assert spread(pairs) == (-0.12, pytest.approx(-0.035), 0.05)
    assert {"fp32", "bf16"} <= set(legend_of(figure))
    assert "2 records" in caption and "not shown" not in caption


def test_savings_at_another_size_or_backbone_stand_elsewhere() -> None:
    (pair,) = REALISED
    other = {**pair, "model": "pro-scale@r50", "title": "PRO-SCALE (3,3,3), R50", "baseline": "M2F, R50"}
    figure, caption = realised_figure([pair, other, {**pair, "machine": "a processor, bf16, batch 1"}])
    assert len(figure.axes) == 1 and "against M2F, Swin-T" in caption
    assert "1 comparisons of other models, sizes or backbones are not shown" in caption
    assert "against M2F, R50" in realised_figure([pair, other], "r50")[1]
    with pytest.raises(NothingMatches, match="with backbone mvit-t"):
        realised_figure([pair], "mvit-t")


def test_what_cannot_be_drawn_is_left_out_of_a_report(data: dict[str, Any]) -> None:
    drawn = report_figures({**data, "realised": [], "points": [], "backbone": "r50"})
    assert "realised" not in drawn and "circles" not in drawn and "layers" in drawn


def test_a_model_that_leaves_nothing_out_has_an_empty_bar() -> None:
    rows = [{"label": "A", "total": 0.0, "not_counted": {"unknown_op": None}, "size": "32x32"}]
    figure, _ = not_counted_figure(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.00 (0.0 %)"]


def test_configurations_stand_at_their_cost(data: Any) -> None:
    """As the paper's Figure 10: cost across, PQ up, M2F's PQ as a line."""
    figure, caption = configurations_figure(data["points"])
    axes = figure.axes[0]
    offsets = [tuple(map(float, at)) for at in axes.collections[0].get_offsets()]
    own = {
        (p["gflops_encoder"], p["pq"])
        for p in data["points"]
        if p["dataset"] == "coco" and p["backbone"] == "swin-t" and p["encoder"] == "pro-scale"
    }
    assert offsets and set(offsets) <= own and offsets == sorted(offsets)
    assert "GMACs" in axes.get_xlabel() and "measured" in caption


def test_the_documents_pictures_are_of_these_figures(data: Any, pictures: dict[str, Picture]) -> None:
    savings = realised_figure(realised_data(ROOT / "results"), "swin-t")
    for name, place in PICTURES.items():
        figure = (savings if name == "realised" else pictures[name])[0]
        for path in sorted((ROOT / "docs").glob(f"{place}*.png")):
            assert Image.open(path).info.get(KEY) == digest(figure), (
                f"python -m tests.helpers.pictures: {path}"
            )
