"""Every figure: nothing clipped, no labels upon each other, units and convention told, the same bytes."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from segmeter.harness.tradeoff.figure_data import collect_figures
from segmeter.reports.plots.breakdown import figure_bytes
from segmeter.reports.plots.common import CAPTION_POINTS, NothingMatches, clamped
from segmeter.reports.plots.configurations import circles_figure, stages_figure
from segmeter.reports.plots.cost import not_counted_figure, realised_figure
from segmeter.reports.plots.named import KINDS, report_figures
from segmeter.reports.plots.tradeoff import fronts, pareto_figure, select

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
    assert "own" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_far_point_goes_to_the_edge_and_says_so(data: dict[str, Any]) -> None:
    chosen = select(data["points"], "gflops_encoder", "pq", "coco", ("swin-t",), ("pro-scale",))
    place = clamped(chosen, "gflops_encoder", "pq")
    far = next(p for p in chosen if p["label"] == "RT-M2F")
    # RT-M2F's PQ is 41.36, all others' between 50.79 and 52.82.
    assert 50 < place(far)[1] < 50.79 and place(far)[0] == far["gflops_encoder"]
    figure = pareto_figure(chosen, "gflops_encoder", "pq")[0]
    assert "RT-M2F (PQ 41, off the chart)" in [text.get_text() for text in figure.axes[0].texts]


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


def test_realised_savings_of_other_settings_are_not_drawn_beside_each_other() -> None:
    (pair,) = REALISED
    figure, caption = realised_figure([pair, {**pair, "machine": "a processor, bf16, batch 1"}])
    assert len(figure.axes) == 1
    assert "1 more comparisons in these records are not shown" in caption


def test_what_cannot_be_drawn_is_left_out_of_a_report(data: dict[str, Any]) -> None:
    drawn = report_figures({**data, "realised": [], "points": [], "backbone": "r50"})
    assert "realised" not in drawn and "circles" not in drawn and "layers" in drawn


def test_a_model_that_leaves_nothing_out_has_an_empty_bar() -> None:
    rows = [{"label": "A", "total": 0.0, "not_counted": {"unknown_op": None}, "size": "32x32"}]
    figure, _ = not_counted_figure(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.00 (0.0 %)"]
