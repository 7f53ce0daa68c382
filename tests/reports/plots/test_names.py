"""Names out of files in figures: nothing in them runs, breaks a drawing or fills it."""

import os
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from segmeter.reports.html.parts import inline_svg
from segmeter.reports.plots.breakdown import figure_bytes
from segmeter.reports.plots.common import darkened, key
from segmeter.reports.plots.cost import not_counted_figure
from segmeter.reports.plots.realised import realised_figure
from segmeter.reports.plots.style import MOST_LETTERS, look_of, missing_letters, paper_style
from segmeter.reports.plots.tradeoff import pareto_figure
from tests.reports.plots.test_panels import timed

HOSTILE = {
    "mathtext": r"$\frac{$",
    "latex": r"\input{/etc/passwd}_^%&",
    "markup": "<script>alert(1)</script>&",
    "controls": "a\x1b[31mb\nc\x00\td",
    "surrogate": "\ud800bad",
    "turned": "\u202eevil",
    "long": "x" * 5000,
    "empty": "",
    "hidden from legends": "_private",
    "no letters of the font": "\u6a21\u578b",
}


def drawings(name: str) -> dict[str, Any]:
    points = [timed("A", 100, 50), timed(name, 120, 51, name, backbone=name, dataset=name, paper=name)]
    points.append(timed(name, 130, 52, source="own"))
    rows = [{"component": name, "claimed": 0.2, "realised": 0.1, "low": 0.0, "high": 0.2}]
    pair = {"model": name, "title": name, "baseline": name, "size": name, "machine": name, "rows": rows}
    omitted = [{"label": name, "total": 1.0, "not_counted": {"deformable_sampling": 1.0}, "size": name}]
    return {
        "pareto": pareto_figure(points, "latency_ms", "pq")[0],
        "realised": realised_figure([pair])[0],
        "not-counted": not_counted_figure(omitted)[0],
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", HOSTILE)
def test_any_name_is_letters_in_every_figure(case: str) -> None:
    from matplotlib.text import Text

    for kind, figure in drawings(HOSTILE[case]).items():
        svg = figure_bytes(darkened(figure), "svg", HOSTILE[case])
        ElementTree.fromstring(svg)
        assert b"<script" not in svg
        assert kind != "pareto" or figure_bytes(figure, "pdf", HOSTILE[case]).startswith(b"%PDF")
        told = [text.get_text() for axes in figure.axes for text in axes.findobj(Text)]
        # A label may have a backbone and a value beside its name.
        assert max(map(len, told)) <= 2 * MOST_LETTERS
        assert all("\x1b" not in text and "\x00" not in text for text in told)


def test_a_dollar_sign_and_an_underscore_stay_what_they_are() -> None:
    for name in ("$x_1$", "_private"):
        assert name.encode() in figure_bytes(drawings(name)["pareto"], "svg")
    with paper_style():
        assert key(look_of("_x"), "_x").get_label() == "\u200a_x"


def test_a_file_tells_its_title_and_nothing_of_who_when_and_where() -> None:
    figure = drawings("A")["pareto"]
    pdf, svg = (figure_bytes(figure, kind, "segmeter: pareto") for kind in ("pdf", "svg"))
    assert b"/Title (segmeter: pareto)" in pdf and b"<dc:title>segmeter: pareto</dc:title>" in svg
    for content in (pdf, svg, figure_bytes(figure, "png", "segmeter: pareto")):
        for word in (b"CreationDate", b"ModDate", b"Author", b"dc:date", os.getcwd().encode()):
            assert word not in content, word


def test_letters_without_a_picture_are_named() -> None:
    assert missing_letters(["M2F, R50", "a\u6a21b\u578b\u6a21"]) == "\u6a21\u578b"


def test_a_name_in_a_page_s_drawing_is_not_taken_for_an_attribute() -> None:
    name = 'id="x" #0072B2 url(#y) href="#z"'
    svg = figure_bytes(drawings(name)["pareto"], "svg").decode()
    inlined = str(inline_svg(svg, "it", "a figure"))
    assert name in inlined
    # The same words in a tag do change.
    assert 'id="it-' in inlined and "var(--d-" in inlined
