"""Everything that the docs leave to a GPU, in one go: ``python benchmarks/op_on_gpu.py [FOLDER]``.

In this order, each step only while there is time left (``--minutes``, 30 unless said):

1. the op's tests that need a GPU;
2. the op's timings with warm and with cold caches, beside what peers are installed;
3. the four encoders at 512x1024, 800x1088 and 1024x2048, in fp32, TF32 and bf16, batch 1 and 8, eager;
4. where compute-sanitizer is, its memory and race checks; instructions of the kernels;
5. the same encoders under ``torch.compile``, which takes minutes to compile them.

Records and each step's output go to FOLDER, results/runs unless said. A step that has its record is not run
again: called anew with the same folder, it goes on. A summary says last what was done, what failed, and what
there was no time for. ``--quick``: M2F and 100 queries in two dtypes, one size, no sanitizer. ``--list``
prints the commands. ``--rehearse`` runs steps 1 to 3 on the CPU, small, to see that they would run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
TESTS = ["tests/cuda_ops", "tests/harness/op/test_bench.py", "tests/encoders/test_levels.py"]
QUICK = ["--shapes", "m2f-1024x2048,decoder-100", "--dtypes", "fp32,bf16"]
SMALL = ["--shapes", "decoder-100", "--dtypes", "fp32", "--rounds", "3"]
MODELS = ["m2f@r50", "lite-m2f@r50", "rt-m2f@r50", "pro-scale@r50"]
SIZES = ("512x1024", "800x1088", "1024x2048")
PRECISIONS = ("fp32", "tf32", "bf16")
BATCHES = (1, 8)
# The segmeter command, with what float32 is worked out in.
PROFILE = (
    "import sys, torch; name = sys.argv.pop(1); torch.backends.cudnn.conv.fp32_precision = name; "
    "torch.backends.cuda.matmul.fp32_precision = name; "
    "from segmeter.commands.main import main; main(sys.argv[1:])"
)


@dataclass(frozen=True)
class Step:
    """A command, and the environment that it wants besides."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def steps(folder: Path, device: str, quick: bool) -> list[Step]:
    """The commands, in their order."""
    rehearsal = device == "cpu"
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda"]
    bench = [sys.executable, "-m", "segmeter", "op", "bench", "--device", device, "--out", str(folder)]
    bench += SMALL if rehearsal else QUICK if quick else ["--dtypes", "all"]
    bench.append("--no-compiled-reference")
    found = [
        Step("tests", [*pytest, *TESTS, *(["--collect-only"] if rehearsal else [])]),
        Step("bench-warm", bench),
        Step("bench-cold", [*bench, "--cold"]),
        *profiles(folder, device, quick, "eager"),
    ]
    if rehearsal:
        return found
    # Each tensor gets memory of its own, so that one element too far is found.
    apart = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer and not quick:
        for tool in ("memcheck", "racecheck"):
            checked = [sanitizer, "--tool", tool, *pytest, "tests/cuda_ops", "-k", "agree or odd"]
            found.append(Step(tool, checked, apart))
    instructions = str(ROOT / "benchmarks" / "op_instructions.py")
    found.append(Step("instructions", [sys.executable, instructions, architecture()]))
    return found + profiles(folder, device, quick, "compile")


def profiles(folder: Path, device: str, quick: bool, runtime: str) -> list[Step]:
    """The encoders in turn within each command: one record for each, and their ratios."""
    grid = list(product(BATCHES, SIZES, PRECISIONS))
    if quick:
        grid = [(1, SIZES[0], precision) for precision in PRECISIONS]
    if device == "cpu":
        grid = [(1, "64x64", "fp32")]
    models = MODELS[-1:] if device == "cpu" else MODELS
    found = []
    for batch, size, precision in grid:
        words = [
            *("profile", *models, "--device", device, "--dtype", "bf16" if precision == "bf16" else "fp32"),
            *("--batch", str(batch), "--padded-size", size, "--runtime", runtime),
            *("--seconds", "0.2" if device == "cpu" else "8", "--out", str(folder)),
        ]
        command = [sys.executable, "-c", PROFILE, "tf32" if precision == "tf32" else "ieee", *words]
        found.append(Step(f"profile-{runtime}-{size}-{precision}-{batch}", command))
    return found


def architecture() -> str:
    """The GPU's, or the H200's where there is none."""
    if not torch.cuda.is_available():
        return "90"
    major, minor = torch.cuda.get_device_capability()
    return str(10 * major + minor)


def run(step: Step, path: Path, seconds: float) -> str:
    """Run a step for so long at most; how it ended. Its output has this path only if it ended well."""
    start = time.perf_counter()
    unfinished = path.with_suffix(".failed.txt")
    try:
        with unfinished.open("w") as out:
            done = subprocess.run(
                step.command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=dict(os.environ) | step.environment,
                timeout=seconds,
            ).returncode
    except subprocess.TimeoutExpired:
        return f"STOPPED after {time.perf_counter() - start:.0f} s, no time left, {unfinished}"
    taken = f"{time.perf_counter() - start:.0f} s"
    if done:
        return f"FAILED with {done} in {taken}, {unfinished}"
    unfinished.rename(path)
    return f"done in {taken}, {path}"


def main(arguments: list[str]) -> int:
    """Run the steps; 1 if one failed or there was no time for it, 2 without a GPU."""
    parser = argparse.ArgumentParser(description="Everything that the docs leave to a GPU.")
    parser.add_argument("folder", nargs="?", default="results/runs", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    for name in ("quick", "list", "rehearse"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args(arguments)
    folder, device = asked.folder.resolve(), "cpu" if asked.rehearse else "cuda"
    planned = steps(folder, device, asked.quick)
    if asked.list:
        print(*(f"{step.name}: {' '.join(step.command)}" for step in planned), sep="\n")
        return 0
    if device == "cuda" and not torch.cuda.is_available():
        print("this needs an NVIDIA GPU, and torch sees none", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * asked.minutes
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU, a rehearsal"
    summary = [f"{what}, torch {torch.__version__}"]
    for step in planned:
        path, left = folder / f"op-on-gpu-{step.name}.txt", end - time.monotonic()
        told = f"done before, {path}" if path.is_file() else "no time left"
        if left > 0 and not path.is_file():
            told = run(step, path, left)
            written = path if path.is_file() else path.with_suffix(".failed.txt")
            print(written.read_text()[-4000:], flush=True)
        summary.append(f"{step.name:<34} {told}")
        print(summary[-1], flush=True)
    print(*summary, sep="\n")
    return int(not all(" done " in line for line in summary[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
