"""A real browser over a page on the disk; each file of tests has its own ``file``."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Root in a container has no sandbox; the page is our own.
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """The page in a fresh profile; whatever it complains of or asks the network for fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    # Nothing here takes a second; a wait that long is a failure.
    context.set_default_timeout(5000)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: complaints.append("a script from a name ran") or dialog.dismiss())
    tab.on(
        "request",
        lambda r: None if r.url in (file.as_uri(), "data:,") else complaints.append(f"request: {r.url}"),
    )
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert complaints == []
