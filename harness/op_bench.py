"""Time the deformable-attention op at the encoders' real shapes, against every implementation present.

All implementations of a case run in turn within each round, so that what else the machine does falls on all
of them alike; ratios are of medians, with a bootstrap confidence interval over rounds.
"""

import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ops import implementation_for, ms_deform_attn, ms_deform_attn_fused, reference, use_implementation
from encoders.interface import nearest
from harness.record import write_json

SCHEMA = "segmeter.op-bench/1"
HEADS, HEAD_DIM, POINTS = 8, 32, 4
# Offsets from the reference point, in pixels of the level sampled: heads look 1 to 4 pixels away at the
# start of training, and about as far in trained encoders.
OFFSET_PIXELS = 3.0
PLACES = ("realistic", "uniform")
PASSES = ("forward", "backward")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
PEERS = Path(".peers")

_CITYSCAPES = ((32, 64), (64, 128), (128, 256))
# Name -> levels (H, W), low to high resolution, and the number of queries (None: every token).
SHAPES: dict[str, tuple[tuple[tuple[int, int], ...], int | None]] = {
    "m2f-800x1088": (((25, 34), (50, 68), (100, 136)), None),
    "m2f-1024x2048": (_CITYSCAPES, None),
    "pro-scale-stage-1": (_CITYSCAPES[:1], None),
    "pro-scale-stage-2": (_CITYSCAPES[:2], None),
    "pro-scale-stage-3": (_CITYSCAPES, None),
    "lite-m2f-10240": (_CITYSCAPES, 10240),
    "decoder-100": (_CITYSCAPES, 100),
}


@dataclass(frozen=True)
class Case:
    """One problem to time."""

    shape: str
    places: str
    direction: str
    dtype: str


@dataclass(frozen=True)
class Problem:
    """The tensors of one case, of batch 1."""

    value: Tensor
    shapes: Tensor
    starts: Tensor
    points: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor


Call = Callable[[], Any]


def run_benchmark(
    device: str = "cpu",
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = ("float32",),
    rounds: int = 7,
    compiled_reference: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time every case; returns a record of schema ``segmeter.op-bench/1``, times in milliseconds.

    Args:
        device: ``cpu`` or ``cuda``.
        shapes: names of :data:`SHAPES`; all of them if empty.
        dtypes: names of :data:`DTYPES`.
        rounds: how often each implementation runs, at least 3.
        compiled_reference: also time ``torch.compile`` of the reference's forward pass.
        progress: called with one line before each case.

    Raises:
        ValueError: an unknown device, shape or dtype, or too few rounds.
    """
    _check("device", [device], ["cpu", "cuda"])
    _check("shape", shapes, list(SHAPES))
    _check("dtype", dtypes, list(DTYPES))
    if rounds < 3:
        raise ValueError(f"rounds must be at least 3, got {rounds}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda needs an NVIDIA GPU, and torch sees none")
    cases = [
        Case(shape, places, direction, dtype)
        for shape in (shapes or SHAPES)
        for dtype in dtypes
        for places in PLACES
        for direction in PASSES
    ]
    peak = measured_bandwidth(device)
    rows: list[dict[str, Any]] = []
    for case in cases:
        if progress:
            progress(f"{case.shape} {case.dtype} {case.places} {case.direction}")
        rows += time_case(case, torch.device(device), rounds, peak, compiled_reference)
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "peak_gb_per_s": peak,
        "implementations": {name: implementation_for(device, DTYPES[name]).__dict__ for name in dtypes},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }


def write_record(record: dict[str, Any], folder: Path = Path("results/runs")) -> Path:
    """Write a record under a name of its own; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(letter for letter in record["made"] if letter.isdigit())[:14]
    path = folder / f"op-bench-{record['device']}-{stamp}.json"
    write_json(path, record)
    return path


def draw_problem(case: Case, device: torch.device) -> Problem:
    """Random inputs of a case, the same on every machine."""
    sizes, queries = SHAPES[case.shape]
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor(sizes)
    counts = shapes.prod(1)
    tokens = int(counts.sum())
    queries = tokens if queries is None else queries
    centres = torch.cat([_centres(height, width) for height, width in sizes])
    # Fewer queries than tokens: the first ones, as in Lite-M2F; a decoder's look anywhere.
    points = centres[:queries].view(1, queries, 1, 2)
    places = (1, queries, HEADS, len(sizes), POINTS, 2)
    if case.places == "uniform" or case.shape.startswith("decoder"):
        points = torch.rand(1, queries, 1, 2, generator=generator)
    offsets = torch.randn(places, generator=generator) * OFFSET_PIXELS
    if case.places == "uniform":
        scale = shapes.flip(-1)[:, None]
        offsets = (torch.rand(places, generator=generator) - points[:, :, None, :, None]) * scale
    logits = torch.randn(places[:-1], generator=generator)
    kind: Any = {"device": device, "dtype": DTYPES[case.dtype]}
    return Problem(
        value=torch.randn(1, tokens, HEADS, HEAD_DIM, generator=generator).to(**kind),
        shapes=shapes.to(device),
        starts=torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]]).to(device),
        points=points.to(device),
        offsets=offsets.to(**kind),
        logits=logits.to(**kind),
        locations=(points[:, :, None, :, None] + offsets / shapes.flip(-1)[:, None]).to(**kind),
        weights=logits.flatten(3).softmax(-1).view(logits.shape).to(**kind),
    )


def _centres(height: int, width: int) -> Tensor:
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def time_case(
    case: Case, device: torch.device, rounds: int, peak: float, compiled_reference: bool = False
) -> list[dict[str, Any]]:
    """One row for each implementation: median, quartiles, ratio to the reference, bandwidth."""
    problem = draw_problem(case, device)
    calls = _calls(problem, case.direction, compiled_reference)
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(_milliseconds(call, device))
    moved = bytes_moved(problem, case.direction)
    rows = []
    for name, times in samples.items():
        median = statistics.median(times)
        low, high = ratio_interval(samples["reference"], times)
        quartiles = statistics.quantiles(times, n=4)
        rows.append(
            case.__dict__
            | {
                "implementation": name,
                "median_ms": median,
                "quartiles_ms": [quartiles[0], quartiles[2]],
                "times_ms": times,
                "speedup": statistics.median(samples["reference"]) / median,
                "speedup_95": [low, high],
                "bytes_moved": moved,
                "gb_per_s": moved / median / 1e6,
                "share_of_peak": moved / median / 1e6 / peak,
            }
        )
    return rows


def bytes_moved(problem: Problem, direction: str) -> int:
    """Bytes that a pass must move at the least: each input read once, each output written once.

    Of value only the rows that the samples can touch, 4 each. Backward also reads the output's gradient and
    writes one gradient for each input of the forward pass, all of value's.
    """
    _, tokens, heads, dim = problem.value.shape
    size = problem.value.element_size()
    row = dim * size
    value = min(tokens * heads, 4 * problem.weights.numel()) * row
    places = problem.locations.nbytes + problem.weights.nbytes
    output = problem.locations.shape[1] * heads * row
    if direction == "forward":
        return value + places + output
    return value + problem.value.nbytes + 2 * places + output


def ratio_interval(
    baseline: Sequence[float], times: Sequence[float], draws: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval of median(baseline) / median(times); rounds are drawn in pairs."""
    chance = random.Random(0)
    pairs = list(zip(baseline, times, strict=True))
    ratios = []
    for _ in range(draws):
        drawn = chance.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn))
    ratios.sort()
    return ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]


@cache
def measured_bandwidth(device: str) -> float:
    """GB/s of copying 256 MiB, read and written bytes together; the best of five."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    best = min(_milliseconds(lambda: target.copy_(source), torch.device(device)) for _ in range(6))
    return 2 * source.nbytes / best / 1e6


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _calls(problem: Problem, direction: str, compiled_reference: bool) -> dict[str, Call]:
    plain = (problem.value, problem.shapes, problem.starts, problem.locations, problem.weights)
    fused = (
        *(problem.value, problem.shapes, problem.starts),
        *(problem.points, problem.offsets, problem.logits),
    )
    calls: dict[str, Call] = {}
    if implementation_for(problem.value.device, problem.value.dtype).name != "reference":
        calls["compiled"] = _pass(ms_deform_attn, plain, direction, "auto")
        calls["compiled, fused"] = _pass(ms_deform_attn_fused, fused, direction, "auto")
    calls["reference"] = _pass(ms_deform_attn, plain, direction, "reference")
    if compiled_reference and direction == "forward":
        calls["reference, torch.compile"] = _pass(_compiled_reference(), plain, direction, "reference")
    official = _official_op()
    if official is not None and problem.value.is_cuda and problem.value.dtype is torch.float32:
        calls["Deformable-DETR's op"] = _official_pass(official, plain, direction)
    return calls


@cache
def _compiled_reference() -> Any:
    def run(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        return reference.forward(value, shapes, places, weights)

    return torch.compile(run)


def _pass(op: Any, tensors: Sequence[Tensor], direction: str, choice: str) -> Call:
    """A forward pass alone, or a backward pass alone over a graph made once."""
    if direction == "forward":

        def forward() -> Any:
            with torch.no_grad(), use_implementation(choice):
                return op(*tensors)

        return forward
    leaves = [
        # Reference points are constants of the image size.
        t.detach().requires_grad_() if t.is_floating_point() and i != len(tensors) - 3 else t
        for i, t in enumerate(tensors)
    ]
    wanted = [t for t in leaves if t.requires_grad]
    output = op(*leaves)
    grad = torch.ones_like(output)

    def backward() -> Any:
        with use_implementation(choice):
            return torch.autograd.grad(output, wanted, grad, retain_graph=True)

    return backward


def _official_op() -> Any:
    """Deformable-DETR's extension, installed or built in the folder ``.peers``; None without."""
    if PEERS.is_dir() and str(PEERS.resolve()) not in sys.path:
        sys.path.append(str(PEERS.resolve()))
    try:
        return import_module("MultiScaleDeformableAttention")
    except ImportError:
        return None


def _official_pass(official: Any, tensors: Sequence[Tensor], direction: str) -> Call:
    # The last argument is how many items of the batch one launch takes.
    def forward() -> Any:
        return official.ms_deform_attn_forward(*tensors, 1)

    grad = torch.ones_like(forward())

    def backward() -> Any:
        return official.ms_deform_attn_backward(*tensors, grad, 1)

    return forward if direction == "forward" else backward


def _milliseconds(call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end))
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _check(what: str, given: Sequence[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}{nearest(name, known)}")
