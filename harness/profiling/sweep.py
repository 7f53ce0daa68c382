"""A grid of measurements, each in a process of its own; killed and started again, it goes on.

A cell's record has the cell's own name, which follows from its settings: a cell is finished when its record
is there. So nothing is kept beside the records, and nothing can disagree with them.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from segmeter.files import SITE, locked, read_toml
from segmeter.harness.records import Run, now, read_run, save
from segmeter.model_text import ModelText
from segmeter.plain import shown
from segmeter.words import nearest

WORKER = (sys.executable, "-m", "segmeter.harness.profiling.sweep_worker")
# Beside them a grid may vary any option of its encoders.
GRID_KEYS = ("models", "encoders", "backbones", "padded_sizes", "dtypes", "batches", "devices")
VALUES = (str, int, float, bool)
SETTING_KEYS = ("seconds", "min_rounds", "width", "threads", "timeout_s", "num_classes")
EXECUTORS = ("local", "ray")
OUT_OF_MEMORY_EXIT = 77
# Tells a cell's process whose child it is: once it is another's, the sweep has been killed.
PARENT_VARIABLE = "SEGMETER_SWEEP_PROCESS"


@dataclass(frozen=True)
class Cell:
    """One measurement of the grid."""

    model: str
    padded_size: str
    device: str
    dtype: str
    batch: int
    num_classes: int
    threads: int | None
    seconds: float
    min_rounds: int
    width: float

    @property
    def id(self) -> str:
        """A name that follows from the settings alone."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        return f"cell-{digest}"

    @property
    def text(self) -> str:
        """For a line of progress."""
        return f"{self.model} {self.padded_size} {self.device} {self.dtype} batch {self.batch}"


@dataclass(frozen=True)
class SweepPlan:
    """The cells in order, and how long one may take."""

    cells: tuple[Cell, ...]
    timeout_s: float


def read_plan(path: Path) -> SweepPlan:
    """Read a sweep file: a table ``[grid]`` of lists, and ``[settings]``.

    Raises:
        ValueError: no TOML, a wrong key or type; the key named, with the nearest valid one.
        OSError: the file cannot be read.
    """
    content = read_toml(path)
    _check_keys(content, ("grid", "settings"), str(path))
    grid, settings = content.get("grid"), content.get("settings", {})
    if not isinstance(grid, dict):
        raise ValueError(f"{path} has no table [grid]; give it encoders and whatever else varies")
    if not isinstance(settings, dict):
        raise ValueError(f"settings in {path} must be a table [settings]")
    where = f"[grid] of {path}"
    _check_keys(settings, SETTING_KEYS, f"[settings] of {path}")
    for key, values in grid.items():
        kinds: tuple[type, ...] = (int,)
        word = "whole numbers"
        if key != "batches":
            kinds, word = ((str,), "texts") if key in GRID_KEYS else (VALUES, "texts or numbers")
        if not isinstance(values, list) or not values or not all(type(v) in kinds for v in values):
            raise ValueError(f"{key} in {where} must be a list of {word}, got {shown(values)}")
    for key, value in settings.items():
        whole = key in ("min_rounds", "threads", "num_classes")
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or not 0 < value < float("inf"):
            word = "whole number" if whole else "number"
            raise ValueError(f"{key} in [settings] of {path} must be a {word} above 0, got {shown(value)}")
    models = tuple(dict.fromkeys([*grid.get("models", []), *_encoder_models(grid, where)]))
    if "encoders" not in grid and "models" not in grid:
        raise ValueError(f"[grid] of {path} has no encoders and no models")
    return SweepPlan(tuple(_cells(models, grid, settings)), float(settings.get("timeout_s", 3600)))


def _encoder_models(grid: dict[str, Any], where: str) -> Iterator[str]:
    """Each encoder on each backbone with each value of its options; an encoder varies in those it has."""
    encoders = [ModelText.parse(text) for text in grid.get("encoders", [])]
    varied = [key for key in grid if key not in GRID_KEYS]
    has: dict[str, list[str]] = {}
    if varied:
        from segmeter.encoders import ENCODERS
        from segmeter.harness.models import named_system

        has = {text.name: named_system(text.name, own=True).settings.names for text in encoders}
        options = [kind.settings.names for kind in ENCODERS.values()]
        _check_keys(dict.fromkeys(varied), [*GRID_KEYS, *itertools.chain(*options, *has.values())], where)
    for text, backbone in itertools.product(encoders, grid.get("backbones", ["swin-t"])):
        axes = [[(key, _written(v)) for v in grid[key]] for key in varied if key in has[text.name]]
        for chosen in itertools.product(*axes):
            yield str(replace(text.on(backbone), options=(*text.options, *chosen)))


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells(models: Sequence[str], grid: dict[str, Any], settings: dict[str, Any]) -> Iterator[Cell]:
    for model, size, device, dtype, batch in itertools.product(
        models,
        grid.get("padded_sizes", ["512x1024"]),
        grid.get("devices", ["cpu"]),
        grid.get("dtypes", ["fp32"]),
        grid.get("batches", [1]),
    ):
        yield Cell(
            model=model,
            padded_size=size,
            device=device,
            dtype=dtype,
            batch=batch,
            num_classes=settings.get("num_classes", 133),
            threads=settings.get("threads"),
            seconds=float(settings.get("seconds", 30)),
            min_rounds=settings.get("min_rounds", 5),
            width=float(settings.get("width", 0.01)),
        )


def _check_keys(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}{nearest(key, known)}")


def check_cells(plan: SweepPlan) -> None:
    """See that every model, size, device and dtype can be read, before anything runs.

    Raises:
        ValueError: what is wrong with a cell.
    """
    from segmeter.harness.inputs import parse_padded_size
    from segmeter.harness.models import parse_model
    from segmeter.harness.profiling.subjects import DEVICES, DTYPES

    for cell in plan.cells:
        parse_model(cell.model, num_classes=cell.num_classes, own=True)
        parse_padded_size(cell.padded_size)
        kind = cell.device.partition(":")[0]
        if kind not in DEVICES:
            raise ValueError(f"unknown device {cell.device!r}{nearest(kind, DEVICES)}")
        if cell.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {cell.dtype!r}{nearest(cell.dtype, list(DTYPES))}")


def finished(cell: Cell, folder: Path) -> Run | None:
    """The cell's record if it is there and whole."""
    try:
        return read_run(folder / f"{cell.id}.json")
    except (OSError, ValueError):
        return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have a sweep's folder: a second sweep would measure every cell again, and each would slow the other.

    Raises:
        ValueError: another process sweeps into it.
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False) as mine:
        if not mine:
            raise ValueError(
                f"another sweep is at work in {folder}: wait for it (started again, this one does what is "
                "left), or choose another folder with --out"
            )
        yield


def run_sweep(
    plan: SweepPlan,
    folder: Path,
    on_cell: Callable[[Cell, Run], None] | None = None,
    retry_failed: bool = False,
    worker: Sequence[str] = WORKER,
) -> list[Run]:
    """Run the cells that have no record yet, one process each; all records, in the plan's order.

    A cell that crashes, runs out of memory or out of time is recorded as such, and the rest goes on.

    Raises:
        KeyboardInterrupt: after the running cell's process has been ended.
        ValueError: another process sweeps into the folder.
        OSError: a record cannot be written.
    """
    runs = []
    with alone(folder):
        for cell in plan.cells:
            run = finished(cell, folder)
            if run is None or (retry_failed and run.status != "ok"):
                run = run_cell(cell, folder, plan.timeout_s, worker)
            runs.append(run)
            if on_cell:
                on_cell(cell, run)
    return runs


def run_cell(cell: Cell, folder: Path, timeout_s: float, worker: Sequence[str]) -> Run:
    """Measure one cell in a process of its own, and see that it leaves a record, whatever happens to it.

    Raises:
        OSError: a record cannot be written.
    """
    start = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(SITE)])),
        PARENT_VARIABLE: str(os.getpid()),
    }
    process = subprocess.Popen(
        [*worker, json.dumps(asdict(cell)), str(folder.resolve())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        # A session of its own: Ctrl-C reaches this process alone, which then ends the cell.
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return _failed(cell, folder, "timed out", f"longer than {timeout_s:.0f} s")
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode == 0:
        run = finished(cell, folder)
        if run is not None:
            return run
    last = (said.strip().splitlines() or ["no word on stderr"])[-1]
    if process.returncode == OUT_OF_MEMORY_EXIT:
        return _failed(cell, folder, "out of memory", last)
    if process.returncode == -signal.SIGKILL:
        return _failed(
            cell, folder, "crashed", "killed by SIGKILL, which the system does when memory is short"
        )
    elapsed = time.monotonic() - start
    return _failed(cell, folder, "crashed", f"exit code {process.returncode} after {elapsed:.1f} s: {last}")


def _failed(cell: Cell, folder: Path, status: str, error: str) -> Run:
    settings = {key: value for key, value in asdict(cell).items() if key != "model"}
    run = Run(cell.id, now(), "sweep", status, cell.model, settings=settings, error=error)
    save(run, folder)
    return run
