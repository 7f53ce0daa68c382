"""The pytest plugin, from the outside: whose figures a test is held to, and that no marker goes unchecked."""

import json
from pathlib import Path

import pytest

from segmeter.harness import api  # noqa: F401  loaded here once, not in each run inside
from tests.helpers.places import ROOT

pytest_plugins = ["pytester"]

# Loaded by its module; the entry point of an installed segmeter would load it a second time.
PLUGIN = ("-p", "segmeter.commands.pytest_plugin", "-p", "no:segmeter", "-p", "no:cacheprovider")
ENCODER = """
import torch

{before}
def test_encoder(segmeter):
    segmeter.assert_within_budget(torch.nn.Linear(8, {width}), (4, 8))
"""
CLASSES = """
import torch

class TestA:
    def test_encoder(self, segmeter):
        segmeter.assert_within_budget(torch.nn.Linear(8, {a}), (4, 8))

class TestB:
    def test_encoder(self, segmeter):
        segmeter.assert_within_budget(torch.nn.Linear(8, {b}), (4, 8))
"""


def recorded(folder: Path) -> dict[str, int]:
    content = json.loads((folder / "segmeter_baseline.json").read_text())
    return {name: model["total"] for name, model in content["models"].items()}


def test_files_and_classes_have_figures_of_their_own(pytester: pytest.Pytester) -> None:
    small = pytester.makepyfile(
        test_small=ENCODER.format(width=16, before=""),
        test_large=ENCODER.format(width=480, before=""),
        test_classes=CLASSES.format(a=8, b=64),
    )
    run = pytester.runpytest_inprocess
    run(*PLUGIN, "--segmeter-update").assert_outcomes(passed=4)
    # 4 rows of 8 inputs, and as many outputs as the layer is wide.
    assert recorded(pytester.path) == {
        "test_classes.py::TestA::test_encoder": 4 * 8 * 8,
        "test_classes.py::TestB::test_encoder": 4 * 8 * 64,
        "test_large.py::test_encoder": 4 * 8 * 480,
        "test_small.py::test_encoder": 4 * 8 * 16,
    }
    run(*PLUGIN).assert_outcomes(passed=4)
    # Thirty times the cost, as the other file's test of the same name may have it.
    small.with_name("test_small.py").write_text(ENCODER.format(width=480, before="# wider"))
    small.with_name("test_classes.py").write_text(CLASSES.format(a=64, b=8) + "# swapped")
    done = run(*PLUGIN)
    done.assert_outcomes(passed=2, failed=2)
    done.stdout.fnmatch_lines(
        ["FAILED *TestA::test_encoder*", "FAILED *test_small.py::test_encoder*"], consecutive=False
    )


def test_many_processes_record_every_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    many = """
import pytest, torch

@pytest.mark.parametrize("width", range(1, 25))
def test_encoder(segmeter, width):
    segmeter.assert_within_budget(torch.nn.Linear(8, width), (4, 8))
"""
    pytester.makepyfile(test_many=many)
    done = pytester.runpytest_subprocess(*PLUGIN, "-n", "2", "--segmeter-update")
    done.assert_outcomes(passed=24)
    assert recorded(pytester.path) == {
        f"test_many.py::test_encoder[{width}]": 4 * 8 * width for width in range(1, 25)
    }


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        # A marker that nobody reads, on the test, its class and its module.
        ("@M\ndef test_a(): pass", {"failed": 1}),
        ("@M\nclass TestA:\n    def test_a(self): pass", {"failed": 1}),
        ("pytestmark = M\ndef test_a(): pass", {"failed": 1}),
        # The fixture alone checks nothing either.
        ("@M\ndef test_a(segmeter): segmeter.count(NET, (4, 8))", {"failed": 1}),
        ("@M\ndef test_a(segmeter): segmeter.assert_within_budget(NET, (4, 8))", {"passed": 1}),
        # A module's budget is for those of its tests that count something.
        (
            "pytestmark = M\ndef test_b(): pass\n"
            "def test_a(segmeter): segmeter.assert_within_budget(NET, (4, 8))",
            {"passed": 2},
        ),
        # Both limits hold: the class's parameters, the test's work.
        (
            "@pytest.mark.segmeter(params=10)\nclass TestA:\n    @M\n"
            "    def test_a(self, segmeter): segmeter.assert_within_budget(NET, (4, 8))",
            {"failed": 1},
        ),
        ("@pytest.mark.segmeter('1 MAC')\ndef test_a(segmeter): pass", {"errors": 1}),
        ("@pytest.mark.segmeter(totl='1 MAC')\ndef test_a(segmeter): pass", {"errors": 1}),
        ("@M\n@pytest.mark.skip\ndef test_a(): pass", {"skipped": 1}),
        ("def test_a(): pass", {"passed": 1}),
    ],
)
def test_no_marker_goes_unchecked(pytester: pytest.Pytester, text: str, outcome: dict[str, int]) -> None:
    head = "import pytest, torch\nNET = torch.nn.Linear(8, 16)\nM = pytest.mark.segmeter(total='600 MACs')\n"
    pytester.makepyfile(test_marked=head + text)
    pytester.runpytest_inprocess(*PLUGIN, "--strict-markers").assert_outcomes(**outcome)
