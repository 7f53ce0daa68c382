"""Change one place of a module at a time: do its tests notice? A seeded sample of cosmic-ray's mutants.

Run as ``python benchmarks/mutation.py [MODULE...]``; needs ``pip install 'segmeter[mutation]'``. No file is
changed: each mutant is loaded in a copy of this process that has torch already, so tests that start processes
of their own do not see it. Tests that execute the changed statement run first; where they notice nothing, all
of the module's tests do. ``--record FILE`` keeps what was noticed: those mutants are not run again as long as
the module stays as it is, so a run that was ended goes on, and new tests are tried on what lived. Exit code 1
if a mutant lived.
"""

import argparse
import ast
import difflib
import hashlib
import importlib.machinery
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Loaded once, not once for each mutant; nothing of segmeter's, which is what changes.
import numpy
import pandas  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import timm  # noqa: F401
import torch
import torchvision  # noqa: F401
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

ROOT = Path(__file__).resolve().parents[1]
LEAST_SECONDS = 60


@dataclass(frozen=True)
class Mutant:
    """A module's source after one change, made at ``line`` by one of cosmic-ray's operators."""

    operator: str
    line: int
    changed: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.changed.encode()).hexdigest()[:16]


def mutants(module: str, settings: dict[str, Any]) -> list[Mutant]:
    """The sample: places are drawn, then one change of each."""
    source = (ROOT / module).read_text(encoding="utf-8")
    with (
        tempfile.TemporaryDirectory() as folder,
        use_db(str(Path(folder, "all")), WorkDB.Mode.create) as all_work,
    ):
        init([ROOT / module], all_work, {})
        found = [item.mutations[0] for item in all_work.work_items]
    places: dict[Any, list[Any]] = {}
    for one in found:
        if settings["left_out"] not in one.operator_name:
            places.setdefault((one.start_pos, one.end_pos), []).append(one)
    chance, sample = random.Random(f"{settings['seed']} {module}"), []
    for place in chance.sample(sorted(places), len(places)):
        one = chance.choice(sorted(places[place], key=lambda each: (each.operator_name, each.occurrence)))
        changed = mutate_code(source, get_operator(one.operator_name)(**one.operator_args), one.occurrence)
        if changed is not None and changed != source:
            sample.append(Mutant(one.operator_name, place[0][0], changed))
        if len(sample) == settings["per_module"]:
            break
    return sample


def run_tests(
    module: str, changed: str | None, tests: list[str], limit: float, plugin: Any = None
) -> tuple[str, float]:
    """ "noticed", "lived" or "stopped", and seconds; the tests run in a copy of this process."""
    start, child = time.monotonic(), os.fork()
    if child == 0:
        os.chdir(ROOT)
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        signal.alarm(int(limit) + 1)
        torch.manual_seed(0)
        numpy.random.seed(0)
        if changed is not None:
            _load_changed(str(ROOT / module), changed)
        # Plain assertions: pytest would load what it rewrites by itself, a plugin's package included.
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
        options += [] if plugin else ["-x"]
        os._exit(int(pytest.main([*options, *tests], plugins=[plugin] if plugin else [])))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcome = "stopped" if code == -signal.SIGALRM else "lived" if code == 0 else "noticed"
    return outcome, time.monotonic() - start


class LinesOfTests:
    """A pytest plugin that writes to ``file`` which lines of ``path`` each test executes."""

    def __init__(self, path: str, file: Path) -> None:
        self.path, self.file = path, file
        self.lines: dict[str, list[int]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        seen: set[int] = set()

        def note(frame: Any, event: str, argument: object) -> Any:
            if frame.f_code.co_filename != self.path:
                return None
            seen.add(frame.f_lineno)
            return note

        threading.settrace(note)
        sys.settrace(note)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        self.lines[item.nodeid] = sorted(seen)

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.lines), encoding="utf-8")


def lines_of_tests(module: str, tests: list[str]) -> dict[str, set[int]]:
    """{test: lines of the module that it executes}."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "lines")
        run_tests(module, None, tests, 3600, LinesOfTests(str(ROOT / module), written))
        lines = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    return {test: set(executed) for test, executed in lines.items()}


def statement(source: str, line: int) -> range | None:
    """Lines of the innermost statement there (of a compound one its head); None if the import runs it."""
    within, inner = False, None
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            if inner is not None and isinstance(inner, ast.FunctionDef):
                within = True
            inner = node
    if inner is None or not within:
        return None
    body = getattr(inner, "body", None)
    return range(
        inner.lineno, max(inner.lineno, body[0].lineno - 1) + 1 if body else (inner.end_lineno or 0) + 1
    )


def _load_changed(path: str, changed: str) -> None:
    unchanged = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        is_it = os.path.realpath(self.path) == path
        return compile(changed, path, "exec") if is_it else unchanged(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def outcome_of(
    module: str, mutant: Mutant, tests: list[str], executed: dict[str, set[int]], limit: float
) -> str:
    """ "noticed", "lived" or "stopped"."""
    lines = statement((ROOT / module).read_text(encoding="utf-8"), mutant.line)
    if lines is not None:
        first = [test for test, seen in executed.items() if not seen.isdisjoint(lines)]
        if first and (outcome := run_tests(module, mutant.changed, first, limit)[0]) != "lived":
            return outcome
    return run_tests(module, mutant.changed, tests, limit)[0]


def main() -> int:
    settings = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of benchmarks/mutation.toml; else all")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="keep what was noticed, and go on from it"
    )
    asked = parser.parse_args()
    record: dict[str, str] = {}
    if asked.record and asked.record.exists():
        record = json.loads(asked.record.read_text(encoding="utf-8"))
    sys.path.insert(0, str(ROOT))
    lived = 0
    for module in asked.modules or list(settings["modules"]):
        tests, sample = settings["modules"][module], mutants(module, settings)
        open_ones = [mutant for mutant in sample if mutant.digest not in record]
        limit, executed = float(LEAST_SECONDS), {}
        if open_ones:
            outcome, seconds = run_tests(module, None, tests, 3600)
            if outcome != "lived":
                sys.exit(f"{module}: its tests fail as it is")
            limit = max(LEAST_SECONDS, settings["times_longer"] * seconds)
            executed = lines_of_tests(module, tests)
        living = 0
        for mutant in open_ones:
            outcome = outcome_of(module, mutant, tests, executed, limit)
            if outcome == "lived":
                living += 1
                print_change(module, mutant)
            elif asked.record:
                record[mutant.digest] = f"{module}:{mutant.line} {outcome}"
                asked.record.write_text(json.dumps(record, indent=0), encoding="utf-8")
        lived += living
        print(f"{module}: {len(sample)} mutants, {len(sample) - living} noticed", flush=True)
    return int(lived > 0)


def print_change(module: str, mutant: Mutant) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    print(f"lived: {module}:{mutant.line} {mutant.operator}")
    pairs = difflib.unified_diff(source.splitlines(), mutant.changed.splitlines(), lineterm="", n=0)
    for text in pairs:
        if text[:2] not in ("--", "++", "@@"):
            print(f"    {text}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
