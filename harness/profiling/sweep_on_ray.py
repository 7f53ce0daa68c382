"""A sweep on a Ray cluster that is already there: the same plan, cells and records, on many machines.

A cell on a CPU gets a node to itself, a cell on a GPU one GPU. Records come back to the machine that asked
and are written there, each with the environment of the node that measured it.
"""

import importlib
import platform
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segmeter.harness.profiling.sweep import SITE, WORKER, Cell, SweepPlan, alone, finished, run_cell
from segmeter.harness.records import Run, now, run_from, save

REACH_SECONDS = 10.0


def run_on_ray(
    plan: SweepPlan,
    folder: Path,
    on_cell: Callable[[Cell, Run], None] | None = None,
    retry_failed: bool = False,
    address: str = "auto",
    worker: Sequence[str] = WORKER[1:],
) -> list[Run]:
    """Run the cells that have no record yet on the nodes of a cluster; all records, in the plan's order.

    Args:
        plan: its cells.
        folder: where records are gathered, on this machine.
        on_cell: told of every cell that is finished, in the order they finish.
        retry_failed: run cells again whose record is not ``ok``.
        address: of the cluster; ``auto`` finds one that runs on this machine.
        worker: what measures one cell, after the node's Python.

    Raises:
        ValueError: no Ray, a plan that the cluster cannot run, or another process sweeps into the folder.
        OSError: no cluster at the address, or a record cannot be written.
        KeyboardInterrupt: after the running cells have been ended.
    """
    try:
        # Not a plain import: Ray is an extra, and types are checked without it.
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ValueError("--executor ray needs Ray: pip install 'segmeter[ray]'") from None
    for cell in plan.cells:
        if cell.device.partition(":")[2]:
            raise ValueError(f"Ray chooses the GPU: write devices = ['cuda'], not {cell.device!r}")
    with alone(folder):
        return _gather(ray, plan, folder, on_cell, retry_failed, address, worker)


def _gather(
    ray: Any,
    plan: SweepPlan,
    folder: Path,
    on_cell: Callable[[Cell, Run], None] | None,
    retry_failed: bool,
    address: str,
    worker: Sequence[str],
) -> list[Run]:
    runs = {cell.id: run for cell in plan.cells if (run := finished(cell, folder)) is not None}
    if retry_failed:
        runs = {name: run for name, run in runs.items() if run.status == "ok"}
    for cell in plan.cells:
        if on_cell and cell.id in runs:
            on_cell(cell, runs[cell.id])
    # Where the nodes share this folder its segmeter is used; elsewhere the one installed there.
    settings = {"env_vars": {"PYTHONPATH": str(SITE)}}
    _reach(address)
    try:
        ray.init(address=address, runtime_env=settings, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise OSError(f"no Ray cluster at {address!r} ({first}); start one with: ray start --head") from None
    try:
        work = _Work(ray, plan.timeout_s, list(worker))
        for cell, run in work.run([cell for cell in plan.cells if cell.id not in runs]):
            save(run, folder)
            runs[cell.id] = run
            if on_cell:
                on_cell(cell, run)
    finally:
        ray.shutdown()
    return [runs[cell.id] for cell in plan.cells]


def _reach(address: str) -> None:
    """Raise OSError at once if nothing answers at ``host:port``, where Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise OSError(
                f"no Ray cluster at {address!r} ({error}); start one with: ray start --head"
            ) from None


class _Work:
    """Cells in flight: at most one on a node's processors, and as many on GPUs as there are."""

    def __init__(self, ray: Any, timeout_s: float, worker: list[str]) -> None:
        self.ray, self.timeout_s, self.worker = ray, timeout_s, worker
        # A cell that takes its worker or node down is recorded, not run again.
        self.task = ray.remote(max_retries=0)(measure_cell)
        self.flying: dict[Any, tuple[Cell, str]] = {}

    def run(self, cells: Sequence[Cell]) -> Any:
        """Yield each cell with its record as it finishes."""
        on_gpu = [cell for cell in cells if cell.device != "cpu"]
        if on_gpu and self.ray.cluster_resources().get("GPU", 0) < 1:
            raise ValueError(f"no node of the Ray cluster has a GPU, which {on_gpu[0].text} needs")
        nodes = {
            node["NodeID"]: node["Resources"]["CPU"]
            for node in self.ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        waiting, free = deque(cell for cell in cells if cell.device == "cpu"), deque(nodes)
        if waiting and not free:
            raise ValueError("no node of the Ray cluster offers processors")
        try:
            for cell in on_gpu:
                self._start(cell, "", num_gpus=1, num_cpus=0)
            while waiting or self.flying:
                while waiting and free:
                    node = free.popleft()
                    self._start(waiting.popleft(), node, num_cpus=nodes[node])
                (done,), _ = self.ray.wait(list(self.flying), num_returns=1)
                cell, node = self.flying.pop(done)
                if node:
                    free.append(node)
                yield cell, self._record(cell, done)
        finally:
            for task in self.flying:
                self.ray.cancel(task, force=True)

    def _start(self, cell: Cell, node: str, **resources: float) -> None:
        options: dict[str, Any] = dict(resources)
        if node:
            strategies = importlib.import_module("ray.util.scheduling_strategies")
            options["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        task = self.task.options(**options).remote(asdict(cell), self.timeout_s, self.worker)
        self.flying[task] = (cell, node)

    def _record(self, cell: Cell, task: Any) -> Run:
        try:
            return run_from(self.ray.get(task))
        except self.ray.exceptions.RayError as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            settings = {key: value for key, value in asdict(cell).items() if key != "model"}
            error_text = f"Ray lost it: {type(error).__name__}: {first}"
            return Run(cell.id, now(), "sweep", "crashed", cell.model, settings=settings, error=error_text)


def measure_cell(cell: dict[str, Any], timeout_s: float, worker: list[str]) -> dict[str, Any]:
    """On a node: one cell in a process of its own; the record's content, with the node's name in it."""
    ray: Any = importlib.import_module("ray")
    with tempfile.TemporaryDirectory(prefix="segmeter-") as folder:
        run = run_cell(Cell(**cell), Path(folder), timeout_s, [sys.executable, *worker])
    context = ray.get_runtime_context()
    run.environment["node"] = {"ray_id": context.get_node_id(), "host": platform.node()}
    return run.content()
