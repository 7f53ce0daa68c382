"""What does it cost to count each model of docs/models.md: process time and memory of a fresh process each.

Run it as ``python benchmarks/library_models.py [WORD]``; exit 1 if one takes more than 10 s or 1.5 GiB.
Process time is user and system time of all threads, libraries' imports included; memory is the largest
resident set.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LIMIT_SECONDS, LIMIT_GIB = 10.0, 1.5
COUNT = """
import re, resource, sys
from pathlib import Path
from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import inputs_of, parse_model
spec = parse_model(sys.argv[1], own=True)
size = inputs_of(spec).size
count_model(spec, ImageSize(size, size), "macs")
used = resource.getrusage(resource.RUSAGE_SELF)
# Not its ru_maxrss: on Linux that begins with what the starting process held.
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())
print("measured", used.ru_utime + used.ru_stime, int(peak[1]) / 2**20)
"""


def measured(model: str) -> tuple[float, float, int]:
    """Process seconds, GiB at the peak, and the exit status of counting a model."""
    arguments = [sys.executable, "-W", "ignore", "-c", COUNT, model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return math.nan, math.nan, done.returncode
    _, seconds, gib = done.stdout.split()[-3:]
    return float(seconds), float(gib), 0


def main(word: str = "") -> int:
    """Measure the models whose name has the word in it, and print them."""
    from tests.helpers.library_models import MODELS

    table = Table("model")
    for column in ("process time [s]", "peak memory [GiB]"):
        table.add_column(Text(column), justify="right")
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    failed = []
    for model in (each for each in MODELS if word in each):
        seconds[model], memory[model], status = measured(model)
        failed += [model] if status else []
        print(f"{model}: {seconds[model]:.1f} s, {memory[model]:.2f} GiB", file=sys.stderr)
        table.add_row(model, f"{seconds[model]:.1f}", f"{memory[model]:.2f}")
    Console().print(table)
    if not seconds:
        print(f"no model with {word!r} in its name", file=sys.stderr)
        return 2
    for what, found, unit in (("time", seconds, "s"), ("memory", memory, "GiB")):
        slowest = max(found, key=lambda name: found[name])
        print(f"most {what}: {found[slowest]:.2f} {unit}, {slowest}")
    within = max(seconds.values()) <= LIMIT_SECONDS and max(memory.values()) <= LIMIT_GIB
    return 0 if within and not failed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
