"""Change one place of a module at a time: do its tests notice? A seeded sample of cosmic-ray's mutants.

Run as ``python benchmarks/mutation.py [MODULE...]``; needs ``pip install 'segmeter[mutation]'``. No file is
changed: each mutant is loaded in a copy of this process that has torch already, so tests that start processes
of their own do not see it. Exit code 1 if a mutant lived.
"""

import argparse
import difflib
import importlib.machinery
import os
import random
import signal
import sys
import tempfile
import time
import tomllib
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


def mutants(module: str, settings: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(operator, line, changed source) of the sample: places are drawn, then one change of each."""
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
            sample.append((one.operator_name, place[0][0], changed))
        if len(sample) == settings["per_module"]:
            break
    return sample


def run_tests(module: str, changed: str | None, tests: list[str], limit: float) -> tuple[str, float]:
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
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
        os._exit(int(pytest.main([*options, *tests])))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcome = "stopped" if code == -signal.SIGALRM else "lived" if code == 0 else "noticed"
    return outcome, time.monotonic() - start


def _load_changed(path: str, changed: str) -> None:
    unchanged = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        is_it = os.path.realpath(self.path) == path
        return compile(changed, path, "exec") if is_it else unchanged(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def main() -> int:
    settings = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of benchmarks/mutation.toml; else all")
    chosen = parser.parse_args().modules or list(settings["modules"])
    sys.path.insert(0, str(ROOT))
    lived = 0
    for module in chosen:
        tests, source = settings["modules"][module], (ROOT / module).read_text(encoding="utf-8")
        outcome, seconds = run_tests(module, None, tests, 3600)
        if outcome != "lived":
            sys.exit(f"{module}: its tests fail as it is")
        limit, outcomes = max(LEAST_SECONDS, settings["times_longer"] * seconds), []
        for operator, line, changed in mutants(module, settings):
            outcomes.append(run_tests(module, changed, tests, limit)[0])
            if outcomes[-1] == "lived":
                print(f"lived: {module}:{line} {operator}")
                pairs = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                print(
                    "".join(f"    {text}\n" for text in pairs if text[:2] not in ("--", "++", "@@")), end=""
                )
                sys.stdout.flush()
        lived += outcomes.count("lived")
        print(
            f"{module}: {len(outcomes)} mutants, {len(outcomes) - outcomes.count('lived')} noticed",
            flush=True,
        )
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main())
