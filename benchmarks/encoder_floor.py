"""How near the encoders come to the processor's peak, beside a checkout of another revision.

``python benchmarks/encoder_floor.py CHECKOUT 512x1024 m2f pro-scale`` runs encoders and whole models on R50
of both checkouts in turn, in two processes of one thread, and works out the floor in the same rounds: the
multiply-accumulates of convolutions at the rate of a 3x3 convolution, all others at that of a matrix product.
Times are the thread's own, so that neighbours on the machine disturb them little; medians of the rounds.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 7
STAGES = ("encoder", "whole")
WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
try:
    from segmeter.encoders.segmenter.model import build_masked_model as build
except ImportError:
    from encoders.segmenter import build_segmenter as build
torch.manual_seed(0)
model = build(sys.argv[2], "r50", 133).eval()
height, width = map(int, sys.argv[3].split("x"))
generator = torch.Generator().manual_seed(1)
image = torch.randn(1, 3, height, width, generator=generator)
with torch.inference_mode():
    features = model.backbone(image)
    calls = {"encoder": lambda: model.encoder(features), "whole": lambda: model(image)}
    for call in calls.values():
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.process_time()
        calls[line.strip()]()
        print(time.process_time() - begin, flush=True)
"""


class Worker:
    """A process with one checkout's model."""

    def __init__(self, checkout: Path, encoder: str, size: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(checkout), encoder, size],
            cwd=checkout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"a worker ended with {self.process.wait()}")
        return line

    def seconds(self, stage: str) -> float:
        """The processor's time of one call."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{stage}\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def peaks() -> dict[str, Callable[[], float]]:
    """What gives this thread's rate now, in GMACs a second: of a matrix product and of a 3x3 convolution."""
    import torch

    torch.set_num_threads(1)
    left, right, product = torch.randn(4096, 1024), torch.randn(1024, 1024), torch.empty(4096, 1024)
    maps = torch.randn(1, 256, 64, 128).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(memory_format=torch.channels_last)

    def rate(gmacs: float, call: Callable[[], object]) -> float:
        begin = time.process_time()
        with torch.inference_mode():
            call()
        return gmacs / (time.process_time() - begin)

    return {
        "product": lambda: rate(4096 * 1024 * 1024 / 1e9, lambda: torch.mm(left, right, out=product)),
        "convolution": lambda: rate(64 * 128 * 256 * 256 * 9 / 1e9, lambda: convolution(maps)),
    }


def gmacs(encoder: str, size: str) -> dict[str, tuple[float, float]]:
    """GMACs of the encoder and of the whole model: (of convolutions, of all else)."""
    import torch

    from segmeter.encoders.segmenter.model import build_masked_model
    from segmeter.harness.counting import run_and_count

    height, width = map(int, size.split("x"))
    with torch.device("meta"):
        model, image = build_masked_model(encoder, "r50", 133).eval(), torch.empty(1, 3, height, width)
    work = run_and_count(model, image)[1].work
    found = {}
    for stage in STAGES:
        part = [w for w in work if stage == "whole" or w.module.split(".")[0] == stage]
        convolved = sum(w.macs for w in part if w.operator == "conv")
        found[stage] = (convolved / 1e9, sum(w.macs for w in part) / 1e9 - convolved / 1e9)
    return found


def main() -> None:
    """Print a line for each encoder and stage."""
    checkout, size, *encoders = sys.argv[1:]
    here = Path(__file__).resolve().parents[1]
    for encoder in encoders:
        workers = {
            "other": Worker(Path(checkout).resolve(), encoder, size),
            "this": Worker(here, encoder, size),
        }
        rates, work = peaks(), gmacs(encoder, size)
        times: dict[tuple[str, str], list[float]] = {}
        seen: dict[str, list[float]] = {name: [] for name in rates}
        for turn in range(ROUNDS):
            for name, rate in rates.items():
                seen[name].append(rate())
            for stage in STAGES:
                for name in workers if turn % 2 else reversed(workers):
                    times.setdefault((name, stage), []).append(workers[name].seconds(stage))
        best = {name: statistics.median(values) for name, values in seen.items()}
        for stage in STAGES:
            other, this = (statistics.median(times[name, stage]) for name in ("other", "this"))
            ratio = statistics.median(
                a / b for a, b in zip(times["other", stage], times["this", stage], strict=True)
            )
            floor = work[stage][0] / best["convolution"] + work[stage][1] / best["product"]
            print(
                f"{encoder} {stage}: {1e3 * other:.0f} ms, now {1e3 * this:.0f} ms, ratio {ratio:.2f}; "
                f"floor {1e3 * floor:.0f} ms: {100 * floor / other:.0f} %, now {100 * floor / this:.0f} % "
                f"(product {best['product']:.0f}, convolution {best['convolution']:.0f} GMACs/s)",
                flush=True,
            )
        for worker in workers.values():
            worker.end()


if __name__ == "__main__":
    main()
