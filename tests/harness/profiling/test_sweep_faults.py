"""Sweeps and records under faults: kills of the real worker, no memory, a full disk, Ctrl-C."""

import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from segmeter.harness.profiling.sweep import PARENT_VARIABLE, WORKER, alone, read_plan, run_sweep
from segmeter.harness.profiling.sweep_worker import ORPHAN_EXIT
from segmeter.harness.records.reading import read_runs
from segmeter.harness.records.runs import Run, save
from tests.helpers.places import ROOT

# A whole model so small that nearly all of a cell's time goes into importing torch.
MODEL = """
from pathlib import Path
from torch import nn
FOLDER = Path(__file__).parent
def small(width: int = 8):
    return nn.Conv2d(3, width, 3)
class Huge(nn.Module):
    def forward(self, x):
        return x.new_ones(2**28, 64)  # 64 GiB
class Held(nn.Module):
    def forward(self, x):
        # Whoever reads "here" may be sure that the cell runs, and that it goes on for ever.
        with open(FOLDER / "here", "w") as pipe:
            pipe.write("here")
        open(FOLDER / "never").read()
"""
PARENT = """
import sys
from pathlib import Path
from segmeter.harness.profiling.sweep import read_plan, run_sweep
run_sweep(read_plan(Path(sys.argv[1])), Path(sys.argv[2]))
"""
# The worker's own code under a limit of one GiB more than it has once everything is imported.
LIMITED = """
import resource, sys
import segmeter.harness.profiling.run
import segmeter.harness.profiling.sweep_worker as worker
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))
sys.exit(worker.main(*sys.argv[1:]))
"""
KILLS = 8


def sweep_file(folder: Path, models: str, batches: str = "[1]") -> Path:
    (folder / "mine.py").write_text(MODEL)
    path = folder / "s.toml"
    path.write_text(
        f'[grid]\nmodels = {models}\npadded_sizes = ["32x32"]\nbatches = {batches}\n'
        "[settings]\nseconds = 0.05\nmin_rounds = 1\nthreads = 1\n"
    )
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_real_worker_killed_at_random_moments_loses_nothing_finished(tmp_path: Path) -> None:
    file, folder = sweep_file(tmp_path, f'["{tmp_path}/mine.py:small"]', "[1, 2, 3]"), tmp_path / "runs"
    folder.mkdir()
    command = [sys.executable, "-c", PARENT, str(file), str(folder)]
    # One kill at a random moment in each eighth of the time that a cell takes, and a little beyond.
    chance, kept = random.Random(7), {}
    moments = [0.1 + 3.9 * (part + chance.random()) / KILLS for part in range(KILLS)]
    for moment in moments:
        process = subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        runs, damaged = read_runs(folder)
        assert not damaged
        found = {run.id: run.content() for run in runs}
        assert all(found[name] == content for name, content in kept.items())
        kept = found
    runs = run_sweep(read_plan(file), folder)
    assert [run.status for run in runs] == ["ok"] * 3
    assert [run.settings["batch"] for run in runs] == [1, 2, 3]
    assert all(run.content() == kept[run.id] for run in runs if run.id in kept)


def test_a_cell_whose_sweep_was_killed_before_it_looked_writes_nothing(tmp_path: Path) -> None:
    file, folder = sweep_file(tmp_path, f'["{tmp_path}/mine.py:small"]'), tmp_path / "runs"
    folder.mkdir()
    (cell,) = read_plan(file).cells
    # Its parent is this process, not process 1, which it is told to be the child of.
    done = subprocess.run(
        [*WORKER, json.dumps(asdict(cell)), str(folder)],
        env={**environment(), PARENT_VARIABLE: "1"},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == ORPHAN_EXIT
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc and RLIMIT_AS")
def test_a_cell_without_memory_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    models = f'["{tmp_path}/mine.py:Huge", "{tmp_path}/mine.py:small"]'
    file, folder = sweep_file(tmp_path, models), tmp_path / "runs"
    folder.mkdir()
    (tmp_path / "limited.py").write_text(LIMITED)
    runs = run_sweep(read_plan(file), folder, worker=[sys.executable, str(tmp_path / "limited.py")])
    assert [run.status for run in runs] == ["out of memory", "ok"]
    assert "out of memory on cpu: Huge at 32x32, batch 1, fp32" in runs[0].error


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_line_and_the_figures_are_printed(tmp_path: Path) -> None:
    sweep_file(tmp_path, "[]")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "cli.py"), "profile", f"{tmp_path}/mine.py:small"),
            *(
                "--padded-size",
                "32x32",
                "--threads",
                "1",
                "--seconds",
                "0.05",
                "--out",
                str(tmp_path / "runs"),
            ),
        ],
        env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        # A file may have 1000 bytes: the kernel refuses the rest as it does on a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "File too large" in done.stderr
    assert "images/s" in done.stdout
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_kernels_own_full_disk_leaves_no_record(tmp_path: Path) -> None:
    run = Run("one", "2026-01-02T03:04:05+00:00", "profile", "ok", "m2f@r50")
    save(run, tmp_path)
    before = (tmp_path / "one.json").read_bytes()
    run.notes = {"long": "x" * 5000}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(run, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    # The record that was there is there still, whole, and nothing lies beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert (tmp_path / "one.json").read_bytes() == before


@contextmanager
def a_sweep_in_its_cell(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running `segmeter sweep` whose one cell has begun and does not end, and its command."""
    file = sweep_file(folder, f'["{folder}/mine.py:Held"]')
    for name in ("here", "never"):
        os.mkfifo(folder / name)
    # For reading and writing: opening it waits for nobody.
    here = os.open(folder / "here", os.O_RDWR)
    command = [sys.executable, str(ROOT / "cli.py"), "sweep", str(file), "--out", str(folder / "runs")]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background is deaf to Ctrl-C; in a terminal the sweep would not be.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert select.select([here], [], [], 120)[0], "the cell did not begin"
        yield process, command
    finally:
        process.kill()
        process.communicate()
        os.close(here)


def test_a_second_sweep_in_the_folder_is_told_and_ctrl_c_ends_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with a_sweep_in_its_cell(tmp_path) as (process, command):
        second = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert second.returncode == 2 and second.stderr.count("\n") == 1
        assert f"another sweep is at work in {folder}: wait for it" in second.stderr
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "segmeter: stopped\n"
    assert list(folder.iterdir()) == []
    if Path("/proc/self").exists():
        running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not any(str(folder).encode() in command for command in running)
    with alone(folder):
        pass  # nothing of the lock stays behind


def test_the_worker_is_the_one_that_sweeps_use() -> None:
    assert WORKER[1:] == ("-m", "segmeter.harness.profiling.sweep_worker")
