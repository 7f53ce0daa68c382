"""What does not compare stands apart: one panel a setting, and crowded panels name what matters."""

from typing import Any

import pytest

from segmeter.reports.plots.tradeoff import MOST_PANELS, one_setting, pareto_figure

PLAIN = "a processor, fp32, batch 1, 512x1024"
BATCHED = "a processor, fp32, batch 8, 512x1024"


def timed(label: str, ms: float, pq: float, setting: str = PLAIN, **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"model": "", "paper": "", "spread": None, "backbone": "r50", "dataset": "coco"}
    return {
        **empty,
        "label": label,
        "encoder": label.lower(),
        "source": "measured",
        "latency_ms": ms,
        "pq": pq,
        "speed_basis": setting,
        **more,
    }


def shown(axes: Any) -> set[tuple[float, float]]:
    from matplotlib.collections import PathCollection

    return {(float(x), float(y)) for drawn in axes.findobj(PathCollection) for x, y in drawn.get_offsets()}


def words(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts if text.get_text()}


def test_each_setting_has_its_panel_and_its_front() -> None:
    points = [
        *(timed("A", 100, 50), timed("B", 200, 52), timed("C", 210, 51)),
        *(timed("A", 900, 50, BATCHED), timed("B", 700, 52, BATCHED)),
    ]
    figure, caption = pareto_figure(points, "latency_ms", "pq")
    assert [axes.get_title() for axes in figure.axes] == ["batch 1", "batch 8"]
    assert [shown(axes) for axes in figure.axes] == [
        {(100, 50), (200, 52), (210, 51)},
        {(900, 50), (700, 52)},
    ]
    # Faster and better at batch 8, B is all of that front; at batch 1 A is faster.
    corners = [
        {(x, y) for line in axes.lines if line.get_gid() == "front" for x, y in line.get_xydata()}
        for axes in figure.axes
    ]
    assert {(100, 50), (200, 52)} <= corners[0] and (900, 50) not in corners[1]
    assert "a processor, fp32, 512x1024" in caption and "not to be compared" in caption
    # The same quality stands at the same height in all of them.
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_an_own_time_of_no_machine_is_said_to_be_that() -> None:
    own = timed("Mine", 50, 51, "own", source="own")
    _, caption = pareto_figure([timed("A", 100, 50), own], "latency_ms", "pq")
    assert "Own points name no machine" in caption
    _, alone = pareto_figure([own], "latency_ms", "pq")
    assert "name no machine" not in alone


def test_one_setting_has_one_panel_and_says_which() -> None:
    figure, caption = pareto_figure([timed("A", 100, 50), timed("B", 200, 52)], "latency_ms", "pq")
    assert len(figure.axes) == 1 and f"Speed: {PLAIN}." in caption
    assert "compared" not in caption


def test_settings_that_find_no_room_are_told() -> None:
    points = [timed("A", 100 + i, 50, f"a processor, fp32, batch {i + 1}, 64x64") for i in range(11)]
    figure, caption = pareto_figure(points, "latency_ms", "pq")
    assert len(figure.axes) == MOST_PANELS
    assert "3 more settings with 3 points are not shown" in caption


def test_own_points_join_the_first_panel_and_unknown_inputs_have_their_own() -> None:
    points = [
        *(timed("A", 100, 50), timed("B", 200, 52), timed("Mine", 120, 51, "own", source="own")),
        timed("D", 50, 40, ""),
    ]
    figure, caption = pareto_figure(points, "latency_ms", "pq")
    assert "Mine" in " ".join(words(figure.axes[0]))
    assert [axes.get_title() for axes in figure.axes][1] == "machine not told"
    assert not [line for line in figure.axes[1].lines if line.get_gid() == "front"]
    assert "Machine not told: on no front." in caption


def test_the_plainest_of_equal_settings_is_chosen() -> None:
    points = [timed("A", 900, 50, BATCHED), timed("A", 50, 50, "a processor, bf16, batch 1, 512x1024")]
    assert one_setting([*points, timed("A", 100, 50)])[0]["latency_ms"] == 100


def test_a_crowded_panel_names_its_front_and_own_points() -> None:
    points = [timed(f"P{i}", 100 + i % 10, 40 + i / 10) for i in range(60)]
    points.append(timed("Mine", 109, 41, source="own"))
    figure, caption = pareto_figure(points, "latency_ms", "pq")
    named = words(figure.axes[0])
    assert "Mine" in named and len(named) <= 12
    assert "only the front and own points are named" in caption
    assert len(shown(figure.axes[0])) == 61


def test_markers_upon_each_other_are_told_apart_by_their_rims() -> None:
    from matplotlib.collections import PathCollection

    points = [timed("A", 100, 50), timed("B", 100, 50, backbone="r101"), timed("C", 200, 52)]
    axes = pareto_figure(points, "latency_ms", "pq")[0].axes[0]
    sizes = sorted(
        drawn.get_sizes()[0]
        for drawn in axes.findobj(PathCollection)
        if tuple(drawn.get_offsets()[0]) == (100.0, 50.0) and drawn.get_edgecolor()[0][:3].sum() < 3
    )
    assert len(sizes) == 2 and sizes[1] > 2 * sizes[0]


@pytest.mark.parametrize("quality", ["pq", "ap"])
def test_an_axis_has_its_unit(quality: str) -> None:
    points = [timed("A", 100, 50) | {quality: 40.0}, timed("B", 900, 50, BATCHED) | {quality: 41.0}]
    figure, _ = pareto_figure(points, "latency_ms", quality)
    assert all("ms" in axes.get_xlabel() for axes in figure.axes)
    assert "%" in figure.axes[0].get_ylabel()
