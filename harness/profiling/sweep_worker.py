"""One cell of a sweep, in a process of its own: ``sweep_worker CELL_JSON FOLDER`` writes its record."""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from segmeter.harness.profiling.sweep import OUT_OF_MEMORY_EXIT, PARENT_VARIABLE, Cell

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ORPHAN_EXIT = 78


def main(cell_json: str, folder: str) -> int:
    """Measure the cell; the exit code says how it went."""
    # Before torch is imported, which takes seconds: a sweep may be killed in them as well.
    _die_with_parent()
    if _orphaned():
        return ORPHAN_EXIT

    from segmeter.harness.inputs import parse_padded_size
    from segmeter.harness.machine import is_out_of_memory
    from segmeter.harness.models import parse_model
    from segmeter.harness.profiling.clock import Plan
    from segmeter.harness.profiling.run import OutOfMemory, profile
    from segmeter.harness.profiling.subjects import Settings
    from segmeter.harness.records import save

    cell = Cell(**json.loads(cell_json))
    try:
        settings = Settings(
            padded_size=parse_padded_size(cell.padded_size),
            device=cell.device,
            dtype=cell.dtype,
            batch=cell.batch,
            threads=cell.threads,
            plan=Plan(cell.seconds, cell.min_rounds, max(1000, cell.min_rounds), cell.width),
        )
        spec = parse_model(cell.model, num_classes=cell.num_classes, own=True)
        (run,) = profile([spec], settings, kind="sweep")
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
            raise
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return OUT_OF_MEMORY_EXIT
    if _orphaned():
        # A sweep that was started since may have measured this cell: what is finished stays as it is.
        return ORPHAN_EXIT
    run.id = cell.id
    save(run, Path(folder))
    return 0


def _die_with_parent() -> None:
    """Where the system can (Linux), end when the sweep is killed, so that no two cells ever overlap."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _orphaned() -> bool:
    """Whether the sweep that started this process is gone."""
    parent = os.environ.get(PARENT_VARIABLE)
    return parent is not None and os.getppid() != int(parent)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
