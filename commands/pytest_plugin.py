"""A pytest plugin: hold modules to a budget inside your own tests.

Fixture ``segmeter``: ``segmeter.assert_within_budget(model, inputs)`` compares with the figures recorded in
``segmeter_baseline.json`` beside the test file; ``pytest --segmeter-update`` records them. Limits may be
given to the call or by the marker ``@pytest.mark.segmeter(total="4.2 GMACs", params="26 M")``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from segmeter.harness.api import Count

BASELINE = "segmeter_baseline.json"


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
        "markers", "segmeter(total=..., params=..., activations=..., limits={...}): a model's budget"
    )


class BudgetFixture:
    """What a test gets as ``segmeter``."""

    def __init__(self, path: Path, test: str, limits: dict[str, Any], update: bool) -> None:
        self._baseline = path.with_name(BASELINE)
        self._test = test
        self._limits = limits
        self._update = update
        self._used: set[str] = set()

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
        from segmeter.harness.gate import read_baseline, write_baseline

        key = f"{self._test}[{name}]" if name else self._test
        if key in self._used:
            raise ValueError(f"{key} is checked twice; give each call a name")
        self._used.add(key)
        merged = {**self._limits, **limits}
        if not _needs_baseline(merged):
            return assert_within_budget(model, inputs, name=name or self._test, **merged)
        recorded = read_baseline(self._baseline) if self._baseline.exists() else {}
        if self._update:
            counted = count(model, inputs)
            write_baseline(self._baseline, {**recorded, key: counted.snapshot})
            return counted
        if key not in recorded:
            raise ValueError(f"{self._baseline.name} has no figures for {key}; run pytest --segmeter-update")
        return assert_within_budget(model, inputs, name=name or self._test, baseline=recorded[key], **merged)


def _needs_baseline(limits: dict[str, Any]) -> bool:
    values = [*limits.values(), *(limits.get("limits") or {}).values()]
    written = [v for v in values if isinstance(v, str | int)]
    return not written or any(isinstance(v, str) and "%" in v for v in written)


@pytest.fixture
def segmeter(request: pytest.FixtureRequest) -> BudgetFixture:
    """Count modules and hold them to a budget."""
    marker = request.node.get_closest_marker("segmeter")
    return BudgetFixture(
        request.node.path,
        request.node.name,
        dict(marker.kwargs) if marker else {},
        request.config.getoption("--segmeter-update"),
    )
