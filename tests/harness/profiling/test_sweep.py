"""Sweeps: plans, crashes of cells, kills at random moments."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segmeter.harness.profiling.sweep import SweepPlan, check_cells, read_plan, run_sweep
from segmeter.harness.records.reading import read_runs
from tests.helpers.places import ROOT

GRID = """
[grid]
encoders = ["m2f", "pro-scale"]
stages = ["1,1,1", "3,3,3"]
backbones = ["r50"]
padded_sizes = ["64x64"]
batches = [1, 2]
[settings]
seconds = 0.1
threads = 1
"""
# A cell's process without torch: it does what the real one does with a record, after a moment's work.
WORKER = """
import json, sys, time
from pathlib import Path
from segmeter.harness.records.runs import Run, now, save
from segmeter.harness.profiling.sweep import Cell
cell = Cell(**json.loads(sys.argv[1]))
folder = Path(sys.argv[2])
with open(folder / "started.txt", "a") as log:
    log.write(cell.id + "\\n")
kind = cell.model.partition("@")[0]
if kind == "crash":
    sys.exit("went wrong")
if kind == "memory":
    sys.exit(77)
end = time.monotonic() + 0.05
while time.monotonic() < end:
    pass
save(Run(cell.id, now(), "sweep", "ok", cell.model), folder)
"""
PARENT = """
import sys
from pathlib import Path
from segmeter.harness.profiling.sweep import read_plan, run_sweep
run_sweep(read_plan(Path(sys.argv[1])), Path(sys.argv[2]), worker=[sys.executable, sys.argv[3]])
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_grid_becomes_cells_and_stages_are_pro_scales_alone(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path / "s.toml", GRID))
    models = ["m2f@r50", "pro-scale@r50:stages=1,1,1", "pro-scale@r50:stages=3,3,3"]
    assert [c.model for c in plan.cells] == [m for m in models for _ in range(2)]
    assert len({c.id for c in plan.cells}) == 6
    check_cells(plan)


def test_any_option_of_an_encoder_varies_and_those_without_it_have_one_cell(tmp_path: Path) -> None:
    grid = "[grid]\nencoders = ['m2f', 'rt-m2f']\nlayers = [2, 3]\npixel_embedding = ['conv', 'lpe']"
    models = [f"m2f@swin-t:layers={n}:pixel_embedding={p}" for n in (2, 3) for p in ("conv", "lpe")]
    plan = read_plan(write(tmp_path / "s.toml", grid))
    assert [c.model for c in plan.cells] == [*models, "rt-m2f@swin-t"]
    check_cells(plan)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid", "is not TOML"),
        ("[gird]", "unknown key 'gird' in .*did you mean 'grid'"),
        ("[grid]\nencoder = ['m2f']", "did you mean 'encoders'"),
        ("[grid]\nencoders = ['m2f']\nlayer = [2]", "did you mean 'layers'"),
        ("[grid]\nencoders = ['m2f']\nlayers = [[2]]", "must be a list of texts or numbers"),
        ("[grid]\nencoders = 'm2f'", "must be a list of texts"),
        ("[grid]\nencoders = ['m2f']\nbatches = ['1']", "must be a list of whole numbers"),
        ("[grid]\nbatches = [1]", "has no encoders and no models"),
        ("[settings]\nseconds = 1", r"has no table \[grid\]"),
        ("[grid]\nencoders = ['m2f']\n[settings]\nthread = 1", "did you mean 'threads'"),
        ("[grid]\nencoders = ['m2f']\n[settings]\nseconds = -1", "above 0"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_plan(write(tmp_path / "s.toml", text))


def test_a_model_that_is_none_stops_the_plan(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path / "s.toml", "[grid]\nencoders = ['m2g']"))
    with pytest.raises(ValueError, match="did you mean 'm2f'"):
        check_cells(plan)


def light_plan(tmp_path: Path, encoders: list[str], timeout: float = 60) -> tuple[SweepPlan, list[str]]:
    grid = f"[grid]\nencoders = {encoders!r}\n[settings]\ntimeout_s = {timeout}"
    worker = write(tmp_path / "worker.py", WORKER)
    return read_plan(write(tmp_path / "s.toml", grid)), [sys.executable, str(worker)]


def test_a_crash_and_an_end_of_memory_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    plan, worker = light_plan(tmp_path, ["crash", "memory", "fine"])
    folder = tmp_path / "runs"
    folder.mkdir()
    runs = run_sweep(plan, folder, worker=worker)
    assert [run.status for run in runs] == ["crashed", "out of memory", "ok"]
    assert "exit code 1" in runs[0].error and "went wrong" in runs[0].error
    started = (folder / "started.txt").read_text()
    run_sweep(plan, folder, worker=worker)
    assert (folder / "started.txt").read_text() == started  # failed cells are finished too
    run_sweep(plan, folder, retry_failed=True, worker=worker)
    assert len((folder / "started.txt").read_text().split()) == 5  # the two that failed, again


def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    plan, worker = light_plan(tmp_path, ["slow"], timeout=0.001)
    folder = tmp_path / "runs"
    folder.mkdir()
    (run,) = run_sweep(plan, folder, worker=worker)
    assert run.status == "timed out"


def test_twenty_kills_at_random_moments_lose_nothing_finished(tmp_path: Path) -> None:
    plan, worker = light_plan(tmp_path, [f"model{n}" for n in range(12)])
    folder = tmp_path / "runs"
    folder.mkdir()
    command = [sys.executable, "-c", PARENT, str(tmp_path / "s.toml"), str(folder), worker[1]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    moments = random.Random(4)
    kept: dict[str, str] = {}
    for _ in range(20):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.02, 0.8))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        runs, damaged = read_runs(folder)
        assert not damaged
        assert kept.items() <= {run.id: run.time for run in runs}.items()
        kept = {run.id: run.time for run in runs}
    runs = run_sweep(plan, folder, worker=worker)
    assert [run.status for run in runs] == ["ok"] * 12
    assert kept.items() <= {run.id: run.time for run in runs}.items()
    # A cell is started again only if a kill came while it ran: each kill costs one start at most.
    assert len((folder / "started.txt").read_text().split()) <= 12 + 20
