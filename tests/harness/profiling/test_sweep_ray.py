"""The same sweep on a Ray cluster of several nodes in this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.profiling.sweep import SweepPlan, read_plan
from segmeter.harness.profiling.sweep_on_ray import run_on_ray
from segmeter.harness.records.reading import read_runs

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'segmeter[ray]'")

# A cell's process without torch; it leaves its record as the real one does, or crashes.
WORKER = """
import json, os, sys
from pathlib import Path
from segmeter.harness.records.runs import Run, now, save
from segmeter.harness.profiling.sweep import Cell
cell = Cell(**json.loads(sys.argv[1]))
kind = cell.model.partition("@")[0]
if kind == "crash":
    sys.exit("went wrong")
if kind == "memory":
    sys.exit(77)
environment = {"device_name": "a node", "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
save(Run(cell.id, now(), "sweep", "ok", cell.model, environment=environment), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes in this machine; the last one claims a GPU.

    On a busy machine a worker takes minutes to start: no limit of Ray's or of a cell's may decide a test.
    Without a size of its own each node's store takes a third of the memory.
    """
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    patient = {"worker_register_timeout_seconds": 600}
    started = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False, "_system_config": patient},
    )
    started.add_node(**node)
    started.add_node(**node, num_gpus=1)
    yield started
    started.shutdown()


def plan(folder: Path, encoders: list[str], devices: str = '["cpu"]') -> tuple[SweepPlan, list[str]]:
    (folder / "worker.py").write_text(WORKER)
    file = folder / "s.toml"
    file.write_text(f"[grid]\nencoders = {encoders!r}\ndevices = {devices}\n[settings]\ntimeout_s = 600\n")
    return read_plan(file), [str(folder / "worker.py")]


def test_cells_run_on_every_node_and_records_come_home(cluster: Any, tmp_path: Path) -> None:
    cells, worker = plan(tmp_path, ["one", "two", "three", "crash", "memory"])
    folder = tmp_path / "runs"
    folder.mkdir()
    told: list[str] = []
    runs = run_on_ray(
        cells, folder, lambda cell, run: told.append(cell.id), address=cluster.address, worker=worker
    )
    assert [run.status for run in runs] == ["ok", "ok", "ok", "crashed", "out of memory"]
    assert sorted(told) == sorted(cell.id for cell in cells.cells)
    kept, damaged = read_runs(folder)
    assert {run.id for run in kept} == set(told) and not damaged
    # Five cells, three nodes, one cell at a time on each: no node stays idle.
    nodes = {run.environment["node"]["ray_id"] for run in kept}
    assert len(nodes) == 3
    again = run_on_ray(cells, folder, address=cluster.address, worker=["/nowhere.py"])
    assert [run.time for run in again] == [run.time for run in runs]  # nothing ran twice


def test_a_gpu_cell_gets_a_gpu_and_no_other_node(cluster: Any, tmp_path: Path) -> None:
    cells, worker = plan(tmp_path, ["one", "two"], '["cuda"]')
    folder = tmp_path / "runs"
    folder.mkdir()
    runs = run_on_ray(cells, folder, address=cluster.address, worker=worker)
    assert [run.status for run in runs] == ["ok", "ok"]
    assert len({run.environment["node"]["ray_id"] for run in runs}) == 1
    assert [run.environment["gpus"] for run in runs] == ["0", "0"]
    numbered, _ = plan(tmp_path, ["one"], '["cuda:1"]')
    with pytest.raises(ValueError, match=r"write devices = \['cuda'\]"):
        run_on_ray(numbered, folder, address=cluster.address, worker=worker)


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    cells, worker = plan(tmp_path, ["one"])
    with pytest.raises(OSError, match="start one with: ray start --head"):
        run_on_ray(cells, tmp_path, address="127.0.0.1:1", worker=worker)
