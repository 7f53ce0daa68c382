"""The gate where others run it: the Action's steps, the pre-commit hook, the pytest plugin."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.places import ROOT

yaml: Any = pytest.importorskip("yaml")

pytest_plugins = ["pytester"]

MODEL = "from torch import nn\n\n\ndef Net():\n    return nn.Conv2d(3, {width}, 1)\n"
BUDGETS = '[models.tiny]\nmodel = "net.py:Net"\nsize = "32x64"\n'


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A job's environment: `python` and `segmeter` are on the path."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name, command in (("python", ""), ("segmeter", " -m segmeter")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        tool.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def git(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository whose model has 4 channels at HEAD."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "net.py").write_text(MODEL.format(width=4))
    (folder / "budgets.toml").write_text(BUDGETS)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    assert git(folder, "commit", "--quiet", "-m", "first").returncode == 0
    return folder


def action_steps() -> dict[str, str]:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    return {step["name"]: step["run"] for step in action["runs"]["steps"]}


@pytest.mark.parametrize(("width", "code"), [(4, 0), (8, 1)])
def test_the_actions_check_annotates_and_writes_the_summary(scratch: Path, width: int, code: int) -> None:
    (scratch / "net.py").write_text(MODEL.format(width=width))
    # A repository's own module of this name must not be what is run.
    (scratch / "cli.py").write_text("raise SystemExit(0)\n")
    summary = scratch.parent / "the summary.md"
    done = subprocess.run(
        ["bash", "-e", "-c", action_steps()["Check budgets"]],
        cwd=scratch,
        env=environment(
            scratch, BUDGETS="budgets.toml", BASELINE="git:HEAD", GITHUB_STEP_SUMMARY=str(summary)
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.count("::error ") == (2 if code else 0)
    assert summary.read_text().startswith(f"### segmeter: {'over' if code else 'within'} budget")


def test_the_actions_check_takes_paths_with_spaces(scratch: Path) -> None:
    (scratch / "my budgets").mkdir()
    # 4 channels of 3 inputs at 32*64 places are 24576.
    budget = BUDGETS.replace("net.py:Net", "../net.py:Net")
    limits = '[models.tiny.limits]\ntotal = "24575 MACs"\n'
    (scratch / "my budgets" / "all of them.toml").write_text(f"{budget}\n{limits}")
    done = subprocess.run(
        ["bash", "-e", "-c", action_steps()["Check budgets"]],
        cwd=scratch,
        env=environment(
            scratch,
            BUDGETS="my budgets/all of them.toml",
            BASELINE="",
            GITHUB_STEP_SUMMARY=str(scratch / "the summary.md"),
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("::error file=my budgets/all of them.toml,line=")
    assert "over budget" in (scratch / "the summary.md").read_text()


def test_a_budget_that_holds_a_model_to_nothing_is_refused(scratch: Path) -> None:
    (scratch / "budgets.toml").write_text("[models.tiny]\nmodel = 'net.py:Net'\nsize = '32x64'\n")
    done = subprocess.run(
        ["segmeter", "check"], cwd=scratch, env=environment(scratch), capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "nothing to hold tiny to: give [models.tiny.limits]" in done.stderr and done.stderr.count("\n") == 1
    )


def test_the_actions_install_step_makes_the_check_runnable(scratch: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    action = scratch.parent / "action"
    ignored = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, action, ignore=ignored)
    site = scratch.parent / "site"
    # pip reads its options from the environment: only this package, from what is here, to a new folder.
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_TARGET": str(site), "PIP_NO_INDEX": "1"}
    env = environment(scratch, GITHUB_ACTION_PATH=str(action), **pip)
    done = subprocess.run(
        ["bash", "-e", "-c", action_steps()["Install segmeter"]],
        cwd=scratch,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # The command that was installed, in a repository that has a `cli` of its own.
    (scratch / "cli.py").write_text("raise SystemExit(0)\n")
    env = environment(scratch) | {"PYTHONPATH": str(site)}
    env["PATH"] = f"{site / 'bin'}{os.pathsep}{env['PATH']}"
    for limit, code, verdict in ((24576, 0, "within budget: 1 "), (24575, 1, "over budget: 1 of 1 ")):
        limits = f'\n[models.tiny.limits]\ntotal = "{limit} MACs"\n'
        (scratch / "budgets.toml").write_text(BUDGETS + limits)
        checked = subprocess.run(["segmeter", "check"], cwd=scratch, env=env, capture_output=True, text=True)
        assert checked.returncode == code and verdict in checked.stdout, checked.stdout + checked.stderr


@pytest.mark.parametrize(("width", "code"), [(4, 0), (8, 1)])
def test_the_pre_commit_hook_stops_a_commit_over_budget(scratch: Path, width: int, code: int) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    # 4 channels of 3 inputs at 32*64 places.
    limit = '\n[models.tiny.limits]\ntotal = "24576 MACs"\n'
    (scratch / "budgets.toml").write_text(BUDGETS + limit)
    (scratch / "net.py").write_text(MODEL.format(width=width))
    script = scratch / ".git" / "hooks" / "pre-commit"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\nexec {hook['entry']} {' '.join(hook['args'])} --baseline git:HEAD\n")
    script.chmod(0o755)
    done = git(scratch, "commit", "--all", "-m", "second", env=environment(scratch))
    assert done.returncode == code, done.stderr
    assert len(git(scratch, "log", "--oneline").stdout.splitlines()) == (1 if code else 2)


TESTS = """
import pytest
import torch


def test_recorded(segmeter):
    segmeter.assert_within_budget(torch.nn.Linear(8, {width}), (4, 8))


@pytest.mark.segmeter(total="600 MACs")
def test_marked(segmeter):
    # 4 rows of 8 inputs and {width} outputs.
    assert segmeter.assert_within_budget(torch.nn.Linear(8, {width}), (4, 8)).macs == 4 * 8 * {width}
"""


def test_the_pytest_plugin_records_passes_and_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loaded by its module; the entry point of an installed segmeter would load it a second time.
    plugin = ("-p", "segmeter.commands.pytest_plugin", "-p", "no:segmeter", "--strict-markers")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    test = pytester.makepyfile(test_budget=TESTS.format(width=16))
    first = pytester.runpytest_inprocess(*plugin)
    first.assert_outcomes(passed=1, failed=1)
    first.stdout.fnmatch_lines(
        ["*has no figures for test_budget.py::test_recorded; run pytest --segmeter-update"]
    )
    # In a process of its own, as a user's; what it leaves is read here.
    pytester.runpytest_subprocess(*plugin, "--segmeter-update").assert_outcomes(passed=2)
    assert (pytester.path / "segmeter_baseline.json").exists()
    pytester.runpytest_inprocess(*plugin).assert_outcomes(passed=2)
    test.write_text(TESTS.format(width=32))
    shutil.rmtree(pytester.path / "__pycache__", ignore_errors=True)
    wider = pytester.runpytest_inprocess(*plugin)
    wider.assert_outcomes(failed=2)
    wider.stdout.fnmatch_lines(
        [
            "*OverBudgetError: test_budget.py::test_recorded: total 1,024 MACs, limit 512, baseline 512; "
            "the model itself: Linear weight 16x8, bias 16 became weight 32x8, bias 32",
            "*OverBudgetError: test_budget.py::test_marked: total 1,024 MACs, limit 600",
        ]
    )
