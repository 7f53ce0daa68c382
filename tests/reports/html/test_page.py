"""The HTML report as text: well formed, self-contained, and every name in it harmless."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from segmeter.reports.html.answer import sentence, time_range
from segmeter.reports.html.page import figure_command
from segmeter.reports.html.parts import Number, embedded_json, escape, inline_svg, table, tag
from segmeter.reports.html.sections import chart_points, measured_costs
from segmeter.reports.plots.style import look_of
from tests.helpers.places import ROOT
from tests.helpers.report_sample import HOSTILE, SVG, page, points, report

VOID = {"meta", "link", "input", "br", "img", "hr"}
ASSETS = ROOT / "reports" / "html" / "assets"


class Page(HTMLParser):
    """Collects elements, ids, links and text, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def parsed() -> Page:
    return Page(page())


def test_every_element_is_closed_and_every_id_stands_once(parsed: Page) -> None:
    assert parsed.open == []
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))


def test_every_link_leads_to_a_place_in_the_page(parsed: Page) -> None:
    targets = set(parsed.values("id"))
    links = [a["href"] or "" for name, a in parsed.elements if name == "a"]
    assert len(links) > 10
    assert [link for link in links if link[1:] not in targets or link[0] != "#"] == []


def test_nothing_is_loaded_from_anywhere(parsed: Page) -> None:
    assert {name for name, _ in parsed.elements} & {
        "iframe",
        "object",
        "embed",
        "img",
        "base",
        "form",
    } == set()
    assert parsed.values("src") == []
    outside = [
        v for v in parsed.values("href") + parsed.values("xlink:href") if v[0] != "#" and v != "data:,"
    ]
    assert outside == []
    for name in ("report.css", "page.js", "tables.js", "front.js", "chart.js"):
        text = (ASSETS / name).read_text()
        assert not re.search(
            r"@import|url\(|fetch\(|XMLHttp|import\(|https?://(?!www\.w3\.org/2000/svg)", text
        )


def test_the_policy_allows_our_script_only(parsed: Page) -> None:
    text = page()
    policy = next(a["content"] or "" for n, a in parsed.elements if n == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    script = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_scripts_never_make_markup_of_text() -> None:
    for path in ASSETS.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", path.read_text())


def test_hostile_names_stay_text(parsed: Page) -> None:
    kinds = [a.get("type") for name, a in parsed.elements if name == "script"]
    assert sorted(kinds, key=str) == [None, "application/json"]
    assert not [a for _, a in parsed.elements if any(key.startswith("on") for key in a)]
    assert HOSTILE in parsed.text["li"] + parsed.text["strong"]
    data = next(
        m for m in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page(), flags=re.S)
    )
    assert HOSTILE in [point["label"] for point in json.loads(data)]


def test_characters_that_html_forbids_are_replaced() -> None:
    assert escape("a\x00b\ud800c\nd") == r"a\x00b\ud800c" "\nd"
    assert escape('<&">') == "&lt;&amp;&quot;&gt;"


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "\ud800"])
def test_embedded_json_reads_back_and_holds_no_markup(text: str) -> None:
    written = embedded_json({"name": text})
    assert json.loads(written) == {"name": text}
    assert not set(written) & set("<>&\u2028")
    assert written.isascii()


def test_an_infinite_figure_is_refused() -> None:
    with pytest.raises(ValueError):
        embedded_json([float("inf")])


def test_numbers_sort_by_value_and_missing_ones_have_none() -> None:
    made = table("t", ["a", "n"], [["x", Number("1,000", 1000.0)], ["y", Number("-", None)]])
    assert 'data-value="1000.0" data-label="n">1,000<' in made and 'data-value="" data-label="n">-<' in made
    assert '<th scope="col" class="number">n</th>' in made


def test_two_drawings_do_not_share_ids() -> None:
    first, second = (inline_svg(SVG, name, "what it shows") for name in ("one", "two"))
    for name, text in (("one", first), ("two", second)):
        assert set(re.findall(r'id="([^"]*)"', text)) == {f"{name}-axes_1", f"{name}-p1"}
        assert f"url(#{name}-p1)" in text and f'xlink:href="#{name}-axes_1"' in text
    assert "<style" not in first and "<metadata" not in first and "<!DOCTYPE" not in first
    assert 'role="img" aria-label="what it shows"' in first


def test_a_drawing_keeps_what_is_seen_and_no_more() -> None:
    body = '<g id="a">\n <g id="b"/>\n <g id="c">\n </g>\n <path id="m1" d="M 0 0\n"/>\n'
    body += '<use href="#m1"/>\n <text>x "y"</text>\n</g>'
    drawn = inline_svg(f'<svg viewBox="0 0 1 1">{body}</svg>', "f", "l")
    assert drawn.endswith('><g><path id="f-m1" d="M 0 0 "/><use href="#f-m1"/><text>x "y"</text></g></svg>')


def test_quotes_in_text_stand_as_they_are_and_tags_do_not() -> None:
    assert tag("pre", '{"a": "</pre><b>"}') == '<pre>{"a": "&lt;/pre&gt;&lt;b&gt;"}</pre>'


def test_what_is_not_a_drawing_is_named() -> None:
    with pytest.raises(ValueError, match="figure 'lpe' is not an SVG"):
        inline_svg("<p>", "lpe", "")


def test_attributes_are_escaped() -> None:
    assert tag("p", "x", title='"><b>') == '<p title="&quot;&gt;&lt;b&gt;">x</p>'
    assert tag("button", "x", hidden=True, disabled=False, id=None) == "<button hidden>x</button>"


def test_the_answer_comes_first_then_components_tokens_audit_and_the_appendices() -> None:
    text = page()
    sections = re.findall(r"<section id=\"?([\w-]+)|<section[^>]*? id=\"([\w-]+)\"", text)
    order = [a or b for a, b in sections]
    assert order[:4] == ["summary", "measured", "tokens", "audit"]
    assert order[4:] == ["trade-offs", "costs", "audit-in-full", "figures", "forward", "records"]
    assert text.index("Appendices") < text.index('id="trade-offs"')
    first = text[text.index('id="summary"') : text.index('id="measured"')]
    assert "541.13 GMACs" in first and 'class="findings"' not in first


def test_the_audit_opens_with_its_three_findings() -> None:
    text = page()
    block = text[text.index('class="findings"') : text.index('id="audit-cells"')]
    titles = re.findall(r"<strong>(.*?)</strong>", block)
    # The one that changes most comes first, then the audit's own order; the fourth is in the audit's list.
    assert [titles[0], titles[1]] == ["Two inputs", "A later finding"]
    assert "-80.39 %" in text  # 55.14 / 281.13 - 1


def test_a_sentence_gives_absolute_figures_and_all_records_of_time() -> None:
    record = report()["records"]["cityscapes"][0]
    both = {"dataset": "coco", "source": "measured", "backbone": "swin-t", "gflops_encoder": 116.7}
    known = points()[0] | both | {"label": "M2F", "encoder": "m2f", "gflops_total": 226.5, "pq": 52.03}
    known |= {"latency_ms": 2000.4, "speed_basis": "a machine, fp32, batch 1, 512x1024"}
    runs = [
        {"title": record["title"], "baseline": "B", "machine": machine, "rows": [row]}
        for machine, row in (
            ("fp32", {"component": "total", "realised": 0.2}),
            ("bf16", {"component": "total", "realised": 0.034}),
        )
    ]
    told = {"figures": {"points": [known], "realised": runs}}
    assert "".join(sentence(record, record, told)) == (
        "<strong>M2F</strong>: 226.5 GMACs (encoder 116.7), PQ 52.03, 2000 ms a pass; "
        "3 to 20 % less time than B in the 2 settings timed."
    )


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.03, 0.12, "3 to 12 % less"),
        (0.1, 0.1, "10 % less"),
        (-0.4, 0.12, "from 40 % more to 12 % less"),
        (-0.4, -0.08, "8 to 40 % more"),
        (-0.4, 0.0, "0 to 40 % more"),
        (0.0, 0.0, "0 % less"),
    ],
)
def test_more_time_is_never_called_less(low: float, high: float, told: str) -> None:
    assert time_range(low, high) == told


def test_forward_passes_show_no_seconds() -> None:
    text = page()
    block = text[text.index('id="forward"') : text.index('id="records"')]
    assert "seconds" not in block and "1.50" not in block


def test_inputs_with_the_same_figures_share_a_table() -> None:
    one = report()
    group = one["records"]["cityscapes"]
    both = measured_costs({**one, "records": {"a.jpg": group, "b.jpg": group}})
    assert both.count("<table") == 1 and "a.jpg and b.jpg" in both


def test_the_page_has_the_figures_colours_and_markers() -> None:
    for made in chart_points(points()):
        look = look_of(made["encoder"], made["source"] == "own")
        assert made["shape"] == look.marker
        assert f".{made['colour']}{{--c:{look.light}}}" in page()
        assert f".{made['colour']}{{--c:{look.dark}}}" in page()


def test_a_drawing_follows_the_page_from_light_to_dark() -> None:
    drawn = inline_svg(SVG.replace("<text>", '<text style="fill: #ffffff; stroke: #123456">'), "a", "b")
    assert "fill: var(--d-ffffff,#ffffff); stroke: #123456" in drawn
    assert "--d-ffffff:#14181E;" in page()
    kept = inline_svg(SVG.replace("<text>", '<text style="fill: #ffffff">'), "a", "b", themed=False)
    assert "fill: #ffffff" in kept


def test_every_figure_names_its_command_and_record() -> None:
    text = page()
    assert "segmeter plot lpe --backbone swin-t" in text and 'href="#data-lpe"' in text
    assert "segmeter plot stages --backbone swin-t" in text and 'href="#points"' in text
    assert figure_command("pareto-ap-cityscapes", report()) == (
        "segmeter plot pareto --x gflops-total --y ap --dataset cityscapes --backbone swin-t"
    )
