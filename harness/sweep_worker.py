"""One cell of a sweep: ``python -m harness.sweep_worker CELL_JSON FOLDER``. Writes the cell's record."""

import ctypes
import json
import signal
import sys
from pathlib import Path

from harness.profile import OutOfMemory, Settings, is_out_of_memory, profile
from harness.runs import save
from harness.sizes import parse_padded_size
from harness.spec import parse_model
from harness.sweep import OUT_OF_MEMORY_EXIT, Cell
from harness.timing import Plan

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(cell_json: str, folder: str) -> int:
    """Measure the cell; the exit code says how it went."""
    _die_with_parent()
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
        spec = parse_model(cell.model, num_classes=cell.num_classes)
        (run,) = profile([spec], settings, kind="sweep")
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
            raise
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return OUT_OF_MEMORY_EXIT
    run.id = cell.id
    save(run, Path(folder))
    return 0


def _die_with_parent() -> None:
    """Where the system can (Linux), end when the sweep is killed, so that no two cells ever overlap."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
