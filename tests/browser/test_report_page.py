"""The HTML report in a real browser: what a reader sees, clicks, types and hears."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.report_sample import HOSTILE, page, points

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")

CASES = {"light": ("light", 1200), "dark": ("dark", 1200), "narrow": ("light", 400)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attachment") / "report.html"
    path.write_text(page(), encoding="utf-8")
    return path


def labels(tab: Any, selector: str) -> list[str]:
    """Labels of the points that the chart shows; the sample's indices are the points' places in it."""
    places = tab.eval_on_selector_all(selector, "marks => marks.map(mark => Number(mark.dataset.index))")
    return sorted(points()[place]["label"] for place in places)


def front(tab: Any) -> list[str]:
    return labels(tab, "#chart .point[data-front=true]")


def choose(tab: Any, label: str, value: str) -> None:
    tab.locator("#chart").get_by_role("combobox", name=label, exact=True).select_option(value)


def test_the_front_is_the_one_computed_by_hand(opened: Any) -> None:
    assert labels(opened, "#chart .point[data-index]") == sorted(["A", "B", "C", "D", "E", HOSTILE])
    assert front(opened) == ["A", "C", "E"]
    assert "6 of 9 points shown, 3 on the Pareto front: A, C, E." in opened.inner_text("#chart-status")


def test_a_filter_changes_the_front(opened: Any) -> None:
    opened.locator("fieldset[data-field=encoders]").get_by_label("pro-scale").uncheck()
    assert front(opened) == ["B", "D", "E"]
    opened.locator("fieldset[data-field=backbones]").get_by_label("R50").uncheck()
    # Without D (61 at 150), the reader's own point (60 at 200) is beaten by none.
    assert front(opened) == sorted(["B", HOSTILE, "E"])
    opened.locator("fieldset[data-field=sources]").get_by_label("your own").uncheck()
    assert front(opened) == ["B", "E"]


def test_an_empty_selection_says_so(opened: Any) -> None:
    opened.get_by_role("button", name="none of: Encoder or system (colour)").click()
    assert opened.locator("#chart .point[data-index]").count() == 0
    assert "No point fits this selection" in opened.inner_text("#chart-status")
    opened.get_by_role("button", name="all of: Encoder or system (colour)").click()
    assert front(opened) == ["A", "C", "E"]


def test_another_data_set_has_its_own_points_and_axes(opened: Any) -> None:
    choose(opened, "Data set", "COCO")
    assert labels(opened, "#chart .point[data-index]") == ["F"]
    assert "800x1088" in opened.inner_text("#chart-status")
    choose(opened, "Across", "fps")
    assert labels(opened, "#chart .point[data-index]") == ["F"]
    assert "Images per second" in opened.locator("#chart .canvas").inner_text()


def test_no_choice_of_axis_or_data_set_sticks_at_nothing(opened: Any) -> None:
    # Speeds are known on COCO alone: the data set follows the axis, and the axis the data set.
    choose(opened, "Across", "fps")
    assert labels(opened, "#chart .point[data-index]") == ["F"]
    assert opened.locator("#chart").get_by_role("combobox", name="Data set").input_value() == "COCO"
    choose(opened, "Data set", "Cityscapes")
    assert opened.locator("#chart .point[data-index]").count() == 6
    # With pro-scale alone COCO would be empty, and nobody unticked what is there.
    opened.get_by_role("button", name="none of: Encoder or system (colour)").click()
    opened.locator("fieldset[data-field=encoders]").get_by_label("pro-scale").check()
    choose(opened, "Data set", "COCO")
    assert labels(opened, "#chart .point[data-index]") == ["F"]


def test_the_chart_opens_with_a_known_input(opened: Any) -> None:
    # The sample has a point of an unknown input as well, which has no front.
    assert opened.locator("#chart").get_by_role("combobox", name="Input counted").input_value() == "1024x2048"
    assert "unknown (no front)" in opened.locator("#chart").get_by_label("Input counted").inner_text()


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_the_audit_shows_its_verdicts_at_any_width(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    for mark in opened.locator("#audit-cells .verdict").all():
        box = mark.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    region = opened.locator(".scroll:has(#audit-cells)")
    assert region.evaluate("r => r.scrollWidth <= r.clientWidth + 1")


def test_on_a_phone_every_table_fits_and_wide_figures_scroll_in_their_frames(opened: Any) -> None:
    opened.set_viewport_size({"width": 390, "height": 844})
    for region in opened.locator(".scroll:has(table.stacked)").all():
        assert region.evaluate("r => r.scrollWidth <= r.clientWidth + 1"), region.get_attribute("aria-label")
    for sheet in opened.locator("figure.wide .sheet").all():
        # 46rem: a figure of a page's width has its words at nine pixels or more.
        assert sheet.evaluate("s => s.querySelector('.plot').getBoundingClientRect().width") >= 700
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_paper_tables_stay_tables_at_any_sheet(opened: Any) -> None:
    # 210 mm at 96 pixels an inch: a portrait A4, narrower than the page's stacked rows need.
    opened.set_viewport_size({"width": 794, "height": 1123})
    head = opened.locator("#audit-cells thead")
    assert head.is_hidden()
    opened.emulate_media(media="print")
    assert head.is_visible()
    region = opened.locator(".scroll:has(#audit-cells)")
    assert region.evaluate("r => r.scrollWidth <= r.clientWidth + 1")


def test_the_table_beside_the_chart_follows_it(opened: Any) -> None:
    opened.get_by_text("The points as a table").click()
    rows = opened.locator("#points tbody tr:visible")
    assert rows.count() == 6
    assert (
        rows.filter(has=opened.get_by_role("rowheader", name="C", exact=True)).locator("td").last.inner_text()
        == "yes"
    )
    opened.locator("fieldset[data-field=encoders]").get_by_label("pro-scale").uncheck()
    assert rows.count() == 4


def test_hover_shows_the_record(opened: Any) -> None:
    opened.locator("#chart .canvas").scroll_into_view_if_needed()
    box = opened.locator("#chart .point[data-index='2'] path").bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card = opened.inner_text("#point-card")
    assert card.startswith("C\n") and "135 GMACs" in card and "From: record 7" in card


def test_the_keyboard_walks_the_points(opened: Any) -> None:
    opened.locator("#chart .point[tabindex='0']").focus()
    opened.keyboard.press("Home")
    card = opened.inner_text("#point-card")
    assert card.startswith("A\n") and "segmeter flops pro-scale@swin-t" in card
    opened.keyboard.press("ArrowRight")
    focused = opened.locator("#chart .point:focus")
    # 60 GMACs come after 55.
    assert focused.get_attribute("aria-label") == "B, Swin-T, published: Encoder GFLOPs 60, PQ 59"
    opened.keyboard.press("End")
    assert opened.locator("#chart .point:focus").get_attribute("aria-label").endswith("PQ 64, on the front")


def test_an_own_point_shows_its_name_as_text_and_its_spread(opened: Any) -> None:
    opened.locator("#chart .point.own[data-index]").focus()
    card = opened.inner_text("#point-card")
    assert HOSTILE in card and "60 (59.5 to 60.5, 3 runs)" in card
    assert opened.locator("#chart .point.own .chart-bar").count() == 1


def test_zoom_shows_less_and_reset_shows_all(opened: Any) -> None:
    opened.locator("#chart .canvas").scroll_into_view_if_needed()
    canvas = opened.locator("#chart .canvas svg").bounding_box()
    mark = opened.locator("#chart .point[data-index='0'] path").bounding_box()
    # A box from left of A to a little right of it, over the chart's whole height.
    opened.mouse.move(canvas["x"] + 48, canvas["y"] + 30)
    opened.mouse.down()
    opened.mouse.move(mark["x"] + 40, canvas["y"] + canvas["height"] - 46, steps=3)
    opened.mouse.up()
    assert labels(opened, "#chart .point[data-index]") == ["A", "B"]
    opened.get_by_role("button", name="Show all").click()
    assert opened.locator("#chart .point[data-index]").count() == 6
    opened.get_by_role("button", name="Zoom in").click()
    assert opened.locator("#chart .point[data-index]").count() < 6
    opened.locator("#chart .point[tabindex='0']").focus()
    opened.keyboard.press("0")
    assert opened.locator("#chart .point[data-index]").count() == 6


def test_a_table_sorts_by_value_up_and_down(opened: Any) -> None:
    column = opened.locator("#audit-cells thead th", has_text="printed")
    printed = "#audit-cells tbody td:nth-child(7)"
    column.get_by_role("button").click()
    assert column.get_attribute("aria-sort") == "ascending"
    assert opened.locator(printed).all_inner_texts() == ["55.14", "281.00", "1030.5"]
    column.get_by_role("button").press("Enter")
    assert column.get_attribute("aria-sort") == "descending"
    assert opened.locator(printed).all_inner_texts() == ["1030.5", "281.00", "55.14"]
    # What was not measured is last, whichever way the others stand.
    other = opened.locator("#audit-cells thead th", has_text="measured").first.get_by_role("button")
    for wanted in (["281.13", "55.40", "-"], ["55.40", "281.13", "-"]):
        other.click()
        found = opened.locator("#audit-cells tbody td:nth-child(8)").all_inner_texts()
        assert sorted(found) == sorted(wanted) and found[-1] == "-"
    assert column.get_attribute("aria-sort") is None


def test_the_audit_filters_by_verdict_and_by_text(opened: Any) -> None:
    group = opened.get_by_role("group", name="Filter: Printed GFLOPs")
    rows = opened.locator("#audit-cells tbody tr:visible")
    group.get_by_label("verdict").select_option("not reproduced")
    assert rows.count() == 1 and "55.14" in rows.first.inner_text()
    group.get_by_label("search").fill("no such model")
    assert "nothing matches" in group.locator("output").inner_text()
    group.get_by_label("verdict").select_option("")
    group.get_by_label("search").fill("281 MODEL")
    assert rows.count() == 1


def test_a_link_into_the_records_opens_them(opened: Any) -> None:
    record = opened.locator("#record-0-m2f pre")
    assert not record.is_visible()
    opened.get_by_role("link", name="M2F", exact=True).click()
    record.wait_for(state="visible")
    assert '"total_gmacs": 541.13' in record.inner_text()


def test_the_colours_follow_the_system_and_the_button(opened: Any) -> None:
    def ground() -> str:
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    assert ground() == "rgb(255, 255, 255)"
    opened.emulate_media(color_scheme="dark")
    assert ground() == "rgb(20, 24, 30)"
    opened.get_by_role("button", name="Light colours").click()
    assert ground() == "rgb(255, 255, 255)"
    opened.get_by_role("button", name="Dark colours").click()
    opened.emulate_media(media="print")
    assert ground() == "rgb(255, 255, 255)"


@pytest.mark.parametrize("case", CASES)
def test_axe_finds_no_violation(browser: Any, file: Path, case: str) -> None:
    scheme, width = CASES[case]
    # axe has to be put into the page, which the page's own policy refuses.
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    tab = context.new_page()
    tab.goto(file.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    tab.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found] == []
    # Wide content scrolls inside its own region, never the page.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_without_scripts_the_tables_and_figures_are_still_there(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.locator("figure svg").count() == 2
    assert "The chart needs scripts" in tab.inner_text("#trade-offs")
    assert not tab.locator("#chart").is_visible() and not tab.locator("#theme").is_visible()
    context.close()
