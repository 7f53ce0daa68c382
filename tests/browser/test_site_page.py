"""The leaderboard in a real browser: search, budgets, widths, axe."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.report_sample import HOSTILE

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
HERE, THERE = "A CPU, fp32, batch 1, 512x1024", "Another, fp32, batch 1, 64x64"


def row(title: str, total: float | None, ms: float | None, setting: str, **more: Any) -> dict[str, Any]:
    interval = {"ms_low": None if ms is None else ms - 1, "ms_high": None if ms is None else ms + 1}
    return {
        **{"model": title, "title": title, "backbone": "r50", "total": total, "encoder": total},
        **{"parameters": 40.0, "setting": setting, "ms": ms, **interval, "fps": None, "dataset": "coco"},
        **{"pq": 50.0, "miou": None, "ap": 30.0, "source": "a.json", "note": "", **more},
    }


def record() -> dict[str, Any]:
    rows = [
        row("Cheap and fast", 80.0, 9.0, HERE),
        row("Cheap and slow", 90.0, 30.0, HERE),
        row("Dear and fast", 200.0, 8.0, HERE),
        row("Fast elsewhere", 50.0, 1.0, THERE),
        row("Never timed", 70.0, None, ""),
        row(HOSTILE, None, 5.0, HERE, source=HOSTILE),
    ]
    return {
        **{"made": "2026-01-02T00:00:00+00:00", "size": "512x1024", "convention": "published"},
        **{"convention_text": "as the papers count", "unit": "GMACs", "rows": rows, "left_out": 0},
        **{"settings": [HERE, THERE], "not_counted": {HOSTILE: HOSTILE}, "versions": {"torch": "2.9"}},
        "passed_over": [{"file": HOSTILE, "why": HOSTILE}],
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from segmeter.reports.html.site import site_html

    path = tmp_path_factory.mktemp("site") / "index.html"
    path.write_text(site_html(record()), encoding="utf-8")
    return path


def shown(tab: Any) -> list[str]:
    return [cell.inner_text() for cell in tab.locator("#models-table tbody tr:visible th").all()]


def test_under_100_gmacs_and_10_ms_on_my_device(opened: Any) -> None:
    assert shown(opened) == ["Cheap and fast", "Cheap and slow", "Dear and fast", "Never timed", HOSTILE]
    bar = opened.locator("#budgets")
    bar.get_by_label("at most, GMACs", exact=True).fill("100")
    assert shown(opened) == ["Cheap and fast", "Cheap and slow", "Never timed"]
    bar.get_by_label("at most, ms").fill("10")
    # What was never timed is not known to be fast.
    assert shown(opened) == ["Cheap and fast"]
    assert bar.locator("output").inner_text() == "1 of 6 rows."
    bar.get_by_label("on my device").select_option(THERE)
    assert shown(opened) == ["Fast elsewhere"]
    bar.get_by_label("at most, GMACs", exact=True).fill("1")
    assert "No row is within these budgets" in bar.locator("output").inner_text()
    bar.get_by_label("at most, GMACs", exact=True).fill("")
    bar.get_by_label("on my device").select_option("")
    assert len(shown(opened)) == 4 and "not to be compared" in bar.locator("output").inner_text()


def test_search_and_sort(opened: Any) -> None:
    opened.get_by_role("searchbox").fill("CHEAP slow")
    assert shown(opened) == ["Cheap and slow"]
    opened.get_by_role("searchbox").fill("")
    head = opened.locator("#models-table thead th", has_text="total GMACs")
    head.get_by_role("button").click()
    assert shown(opened) == ["Never timed", "Cheap and fast", "Cheap and slow", "Dear and fast", HOSTILE]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1024, "dark"), (1440, "light")])
def test_every_width_holds_every_column_and_axe_finds_nothing(
    browser: Any, file: Path, width: int, scheme: str
) -> None:
    # axe has to be put into the page, which the page's own policy refuses.
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    tab = context.new_page()
    tab.goto(file.as_uri())
    tab.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cells = tab.locator("#models-table tbody tr").first.locator("th, td")
    assert cells.count() == 11 and all(cell.is_visible() for cell in cells.all())
    context.close()


def test_without_scripts_the_table_is_there(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.locator("#models-table tbody tr").count() == 6
    assert "need scripts" in tab.inner_text("#models") and not tab.locator("#budgets").is_visible()
    context.close()
