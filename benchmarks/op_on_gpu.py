"""Everything that docs/op.md leaves to a GPU, in one go: ``python benchmarks/op_on_gpu.py [FOLDER]``.

The op's tests that need a GPU; the timings with warm and with cold caches, beside what peers are installed;
where compute-sanitizer is, its memory and race checks. Records and each step's output go to FOLDER,
results/runs unless said; a summary is printed last. A failed step does not keep the others from running. With
``--quick`` only M2F and 100 queries in two dtypes, and no sanitizer.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
TESTS = ["tests/cuda_ops", "tests/harness/op/test_bench.py", "tests/encoders/test_levels.py"]
QUICK = ["--shapes", "m2f-1024x2048,decoder-100", "--dtypes", "float32,bfloat16"]


def steps(folder: Path, quick: bool) -> dict[str, list[str]]:
    """The commands by name."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda"]
    bench = [sys.executable, "-m", "segmeter", "op", "bench", "--device", "cuda", "--out", str(folder)]
    bench += QUICK if quick else ["--dtypes", "all"]
    bench.append("--no-compiled-reference")
    found = {
        "tests": [*pytest, *TESTS],
        "bench-warm": bench,
        "bench-cold": [*bench, "--cold"],
        "instructions": [sys.executable, str(ROOT / "benchmarks" / "op_instructions.py"), _architecture()],
    }
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer and not quick:
        for tool in ("memcheck", "racecheck"):
            found[tool] = [sanitizer, "--tool", tool, *pytest, "tests/cuda_ops", "-k", "agree or odd"]
    return found


def _architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return str(10 * major + minor)


def main(arguments: list[str]) -> int:
    """Run the steps; 1 if one failed, 2 without a GPU."""
    if not torch.cuda.is_available():
        print("this needs an NVIDIA GPU, and torch sees none", file=sys.stderr)
        return 2
    folder = Path(next((word for word in arguments if not word.startswith("-")), "results/runs")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    summary = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}"]
    failed = False
    for name, command in steps(folder, "--quick" in arguments).items():
        start = time.perf_counter()
        path = folder / f"op-on-gpu-{name}.txt"
        environment = dict(os.environ)
        if "sanitizer" in command[0]:
            # Each tensor gets memory of its own, so that one element too far is found.
            environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        with path.open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        failed = failed or bool(done.returncode)
        told = "done" if not done.returncode else f"FAILED with {done.returncode}"
        summary.append(f"{name:<13} {told} in {time.perf_counter() - start:.0f} s, {path}")
        print(summary[-1], flush=True)
        print(path.read_text()[-4000:], flush=True)
    print(*summary, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
