"""A pytest plugin: hold modules to a budget inside your own tests.

Fixture ``segmeter``: ``segmeter.assert_within_budget(model, inputs)`` compares with the figures recorded in
``segmeter_baseline.json`` beside the test file; ``pytest --segmeter-update`` records them, in any number
of processes. A test's figures stand there under its file, class and name. Limits may be given to the call or
by the marker ``@pytest.mark.segmeter(total="4.2 GMACs", params="26 M")``, on a test, a class or a module;
the marker of a test that holds nothing to it is an error, never a budget that nobody checks.
"""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segmeter.words import nearest

if TYPE_CHECKING:
    from torch import nn

    from segmeter.harness.api import Count

BASELINE = "segmeter_baseline.json"
LIMITS = ("total", "params", "activations", "limits", "allow_uncounted")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--segmeter-update``."""
    group = parser.getgroup("segmeter")
    group.addoption(
        "--segmeter-update",
        action="store_true",
        help=f"record today's figures in {BASELINE} instead of comparing with it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", f"segmeter({'=..., '.join(LIMITS)}=...): a model's budget, for the fixture of that name"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a marked test that held no model to its budget: a limit that nobody checks looks like one."""
    outcome = yield
    fixture = item.stash.get(FIXTURE, None)
    if item.get_closest_marker("segmeter") is None or (fixture is not None and fixture.used):
        return outcome
    if fixture is not None or _is_meant(item):
        pytest.fail(
            f"{item.name} is marked segmeter(...) and checked nothing: take the fixture segmeter and call "
            "segmeter.assert_within_budget(model, inputs)",
            pytrace=False,
        )
    return outcome


def _is_meant(item: pytest.Item) -> bool:
    """Whether the nearest marker is this test's own, or of a class or module none of whose tests checks."""
    node, _ = next(item.iter_markers_with_node("segmeter"))
    if node is item:
        return True
    others = (other for other in item.session.items if node in other.listchain())
    return not any("segmeter" in getattr(other, "fixturenames", ()) for other in others)


class BudgetFixture:
    """What a test gets as ``segmeter``."""

    def __init__(self, path: Path, test: str, limits: dict[str, Any], update: bool) -> None:
        """For a test ``FILE::CLASS::NAME`` in the file at ``path``."""
        self._baseline = path.with_name(BASELINE)
        self._test = test
        self._limits = limits
        self._update = update
        self.used: set[str] = set()

    def count(self, model: "nn.Module", inputs: Any) -> "Count":
        """As :func:`harness.api.count`."""
        from segmeter.harness.api import count

        return count(model, inputs)

    def assert_within_budget(self, model: "nn.Module", inputs: Any, name: str = "", **limits: Any) -> "Count":
        """Raise unless the model is within its limits and has not grown since it was recorded.

        Absolute limits alone need no record. Without limits, or with relative ones, the figures recorded
        for this test count; a second call in one test needs a ``name``.

        Raises:
            OverBudgetError: over budget. ValueError: nothing is recorded, or a limit cannot be read.
        """
        from segmeter.harness.api import assert_within_budget, count
        from segmeter.harness.gate import read_baseline

        key = f"{self._test}: {name}" if name else self._test
        if key in self.used:
            raise ValueError(f"{key} is checked twice; give each call a name")
        self.used.add(key)
        merged = {**self._limits, **limits}
        if not _needs_baseline(merged):
            return assert_within_budget(model, inputs, name=name or self._test, **merged)
        if self._update:
            counted = count(model, inputs)
            self._record(key, counted)
            return counted
        recorded = read_baseline(self._baseline) if self._baseline.exists() else {}
        if key not in recorded:
            raise ValueError(f"{self._baseline.name} has no figures for {key}; run pytest --segmeter-update")
        return assert_within_budget(model, inputs, name=name or self._test, baseline=recorded[key], **merged)

    def _record(self, key: str, counted: "Count") -> None:
        """Put a count into the file, where other processes put theirs at the same time."""
        from segmeter.files import locked
        from segmeter.harness.gate import read_baseline, write_baseline

        with locked(self._baseline.parent):
            recorded = read_baseline(self._baseline) if self._baseline.exists() else {}
            # Keys without a file are of the time when files could overwrite each other's.
            kept = {name: snapshot for name, snapshot in recorded.items() if "::" in name}
            write_baseline(self._baseline, {**kept, key: counted.snapshot})


def _needs_baseline(limits: dict[str, Any]) -> bool:
    values = [*limits.values(), *(limits.get("limits") or {}).values()]
    written = [v for v in values if isinstance(v, str | int)]
    return not written or any(isinstance(v, str) and "%" in v for v in written)


FIXTURE = pytest.StashKey[BudgetFixture]()


@pytest.fixture
def segmeter(request: pytest.FixtureRequest) -> BudgetFixture:
    """Count modules and hold them to a budget."""
    node = request.node
    limits: dict[str, Any] = {}
    # The nearest marker has the last word on a limit that several give.
    for marker in reversed(list(node.iter_markers("segmeter"))):
        for name in marker.kwargs:
            if name not in LIMITS:
                raise ValueError(f"the marker segmeter has no limit {name!r}{nearest(name, LIMITS)}")
        if marker.args:
            raise ValueError(
                f'the marker segmeter takes limits by name, as in total="4 GMACs", got {marker.args!r}'
            )
        limits |= marker.kwargs
    _, _, inside = node.nodeid.partition("::")
    update = request.config.getoption("--segmeter-update")
    fixture = BudgetFixture(node.path, f"{node.path.name}::{inside}", limits, update)
    node.stash[FIXTURE] = fixture
    return fixture
