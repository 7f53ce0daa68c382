"""Time the deformable-attention op at the encoders' real shapes, against every implementation present.

All implementations of a case run in turn within each round, so that what else the machine does falls on all
of them alike; ratios are of medians, with a bootstrap confidence interval over rounds.
"""

import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmeter.cuda_ops import (
    implementation_for,
    kernel_for,
    ms_deform_attn,
    ms_deform_attn_fused,
    reference,
    use_implementation,
)
from segmeter.harness.machine import cpu_name, git_state
from segmeter.harness.op.peers import PEERS, Peer, PeerUnavailableError, check, load, one_line
from segmeter.harness.op.problems import (
    DTYPES,
    HEAD_DIM,
    HEADS,
    POINTS,
    Case,
    Problem,
    bytes_moved,
    draw_problem,
)
from segmeter.harness.op.shapes import PASSES, PLACES, SHAPES
from segmeter.harness.records import write_json
from segmeter.words import nearest

SCHEMA = "segmeter.op-bench/2"
# Written before each timed call: more than the last-level cache of any GPU, and of most processors.
SCRATCH_BYTES = {"cpu": 2**29, "cuda": 2**30}
# How often it is written first on a GPU: a millisecond at 4 TB/s, more than Python takes to launch a call.
QUEUED = 4

Call = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """How cases are timed.

    Attributes:
        rounds: how often each implementation runs, at least 3.
        cold: caches hold other data before each timed call; otherwise they hold what the calls before left.
        compiled_reference: also time ``torch.compile`` of the reference.
    """

    rounds: int = 7
    cold: bool = False
    compiled_reference: bool = True


def run_benchmark(
    device: str = "cpu",
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = ("float32",),
    options: Options = Options(),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time every case; returns a record of schema ``segmeter.op-bench/2``, times in milliseconds.

    Args:
        device: ``cpu`` or ``cuda``.
        shapes: names of :data:`harness.op.problems.SHAPES`; all of them if empty.
        dtypes: names of :data:`harness.op.problems.DTYPES`.
        options: rounds, caches, the compiled reference.
        progress: called with one line before each case.

    Raises:
        ValueError: an unknown device, shape or dtype, or too few rounds.
    """
    _check("device", [device], ["cpu", "cuda"])
    _check("shape", shapes, list(SHAPES))
    _check("dtype", dtypes, list(DTYPES))
    if options.rounds < 3:
        raise ValueError(f"rounds must be at least 3, got {options.rounds}")
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
    left_out: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        name = f"{case.shape} {case.dtype} {case.places} {case.direction}"
        if progress:
            progress(name)
        timed, reasons = time_case(case, torch.device(device), options, peak)
        rows += timed
        for peer, reason in reasons.items():
            left_out.setdefault((peer, reason), []).append(name)
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(Path(__file__).parents[2]),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "caches": "cold" if options.cold else "warm",
        "peak_gb_per_s": peak,
        "host_us": {direction: host_time(torch.device(device), direction) for direction in PASSES},
        "implementations": {name: implementation_for(device, DTYPES[name]).__dict__ for name in dtypes},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
        "left_out": [
            {"implementation": peer, "reason": reason, "cases": names if len(names) < len(cases) else "all"}
            for (peer, reason), names in left_out.items()
        ],
    }


def write_record(record: dict[str, Any], folder: Path = Path("results/runs/op")) -> Path:
    """Write a record under a name of its own; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(letter for letter in record["made"] if letter.isdigit())[:14]
    path = folder / f"op-bench-{record['device']}-{stamp}.json"
    write_json(path, record)
    return path


def time_case(
    case: Case, device: torch.device, options: Options, peak: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Time one case.

    Returns:
        One row for each implementation (median, quartiles, ratio to the reference, bandwidth), and for each
        one left out the reason.
    """
    problem = draw_problem(case, device)
    calls = _own_calls(problem, case.direction)
    left_out = {}
    others = [(peer.name, _peer_call(peer)) for peer in PEERS]
    if options.compiled_reference:
        others.insert(0, ("reference, torch.compile", _compiled_reference))
    for name, make in others:
        try:
            calls[name] = make(problem, case.direction)
        except PeerUnavailableError as error:
            left_out[name] = str(error)
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            samples[name].append(_milliseconds(call, device, options.cold))
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
    return rows, left_out


def host_time(device: torch.device, direction: str, calls: int = 100) -> float:
    """Microseconds of a call of the fused op that has next to nothing to do; the median of seven rounds.

    One query on three levels of one token: on a GPU what Python, torch and the driver take to queue a call,
    with no wait for it; on the CPU that and the kernel's own start.
    """
    kind: Any = {"device": device}
    shapes = torch.ones(3, 2, dtype=torch.int64, **kind)
    starts = torch.arange(3, **kind)
    value = torch.zeros(1, 3, HEADS, HEAD_DIM, **kind)
    offsets = torch.zeros(1, 1, HEADS, 3, POINTS, 2, **kind)
    tensors = (value, shapes, starts, torch.zeros(1, 1, 1, 2, **kind), offsets, offsets[..., 0].contiguous())
    call = _pass(ms_deform_attn_fused, tensors, direction, constants=(3,))
    call()
    rounds = []
    for _ in range(7):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - begin) / calls * 1e6)
    return statistics.median(rounds)


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
    """GB/s of copying 256 MiB, read and written bytes together; the best of six."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    times = [_milliseconds(lambda: target.copy_(source), torch.device(device), cold=True) for _ in range(6)]
    return 2 * source.nbytes / min(times) / 1e6


def _own_calls(problem: Problem, direction: str) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    # What runs for this very call: a GPU's kernel may refuse one that another takes.
    if kernel_for(problem.value, problem.locations):
        calls["compiled"] = _pass(ms_deform_attn, problem.plain(), direction)
        # Reference points are constants of the image size.
        calls["compiled, fused"] = _pass(ms_deform_attn_fused, problem.fused(), direction, constants=(3,))
    calls["reference"] = _pass(ms_deform_attn, problem.plain(), direction, "reference")
    return calls


def _compiled_reference(problem: Problem, direction: str) -> Call:
    def run(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        return reference.forward(value, shapes, places, weights)

    # Each case is compiled for its own sizes: after a few, torch would give up or make them dynamic.
    torch._dynamo.reset()
    # A graph is walked backward once for each round, so that its buffers may not be given away.
    with torch._functorch.config.patch(donated_buffer=False):
        call = _pass(torch.compile(run), problem.plain(), direction)
        try:
            call()
        except Exception as error:  # whatever a missing or failing compiler ends in
            raise PeerUnavailableError(one_line(error)) from None
    return call


def _peer_call(peer: Peer) -> Callable[[Problem, str], Call]:
    """How to make a peer's call, checked against the float64 reference; raises PeerUnavailableError."""

    def make(problem: Problem, direction: str) -> Call:
        module = load(peer)
        try:
            op, arguments = peer.adapt(module, problem)
            call = _pass(op, arguments, direction)
            result = call()
        except Exception as error:  # a foreign op may raise anything
            raise PeerUnavailableError(one_line(error)) from None
        wide = tuple(t.double() if t.is_floating_point() else t for t in problem.plain())
        expected = _pass(ms_deform_attn, wide, direction, "reference")()
        dtype = problem.value.dtype
        if direction == "forward":
            check(result, expected, dtype, "its output")
        else:
            check(result[0], expected[0], dtype, "its gradient of value")
        return call

    return make


def _pass(
    op: Any,
    tensors: Sequence[Tensor],
    direction: str,
    choice: str = "auto",
    constants: Sequence[int] = (),
) -> Call:
    """A forward pass, or a backward pass alone over a graph made once; ``constants`` get no gradient."""
    if direction == "forward":

        def forward() -> Any:
            with torch.no_grad(), use_implementation(choice):
                return op(*tensors)

        return forward
    leaves = [
        t.detach().requires_grad_() if t.is_floating_point() and i not in constants else t
        for i, t in enumerate(tensors)
    ]
    wanted = [t for t in leaves if t.requires_grad]
    with use_implementation(choice):
        output = op(*leaves)
    grad = torch.ones_like(output)

    def backward() -> Any:
        return torch.autograd.grad(output, wanted, grad, retain_graph=True)

    return backward


@cache
def _scratch(device_type: str) -> Tensor:
    return torch.empty(SCRATCH_BYTES[device_type], dtype=torch.uint8, device=device_type)


def _milliseconds(call: Call, device: torch.device, cold: bool) -> float:
    """One call's time. On a GPU other work is queued first, so that no launch waits for Python."""
    if device.type == "cuda":
        for _ in range(QUEUED):
            _scratch("cuda").fill_(0)
        if not cold:
            call()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end))
    if cold:
        _scratch("cpu").fill_(0)
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _check(what: str, given: Sequence[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}{nearest(name, known)}")
