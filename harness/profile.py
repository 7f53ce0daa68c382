"""Measure models beside each other: latency, components, memory, energy, achieved share of the machine.

All models stay in memory and are timed in turn, so that a drifting machine is in every model's time alike.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from encoders.interface import nearest
from encoders.segmenter import build_segmenter, normalise
from harness.energy import EnergyUnavailable, gpu_state, measure_energy
from harness.environment import environment
from harness.memory import parameter_bytes, peak_memory
from harness.model_count import meta_model
from harness.photos import find_photos, read_photo
from harness.profile_components import ComponentTimer
from harness.roofline import Peaks, component_work, measure_peaks
from harness.runs import Run, new_id, now
from harness.sizes import Size, format_size
from harness.spec import ModelSpec, WholeModelSpec
from harness.statistics import speedup, summarise
from harness.timing import Plan, WarmUp, interleave, time_ms, warm_up

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DEVICES = ("cpu", "cuda")
INPUTS = 4
# Fewest and most calls with hooks; between them, while a third of the rounds' time lasts.
COMPONENT_ROUNDS = (3, 15)
METHOD = (
    "forward pass with post-processing, images already on the device; random weights; autocast for fp16 and "
    "bf16; warm-up until the median is stable; models timed in turn, the order turning every round; four "
    "inputs in rotation; intervals are 95 % repeat intervals by block bootstrap"
)


class OutOfMemory(Exception):
    """The device's memory does not hold the measurement; one line."""


@dataclass(frozen=True)
class Settings:
    """What is held equal for all models of a measurement.

    Raises:
        ValueError: an unknown or absent device, an unknown dtype, a batch or thread number below 1.
    """

    padded_size: Size
    device: str = "cpu"
    dtype: str = "fp32"
    batch: int = 1
    threads: int | None = None
    compile: bool = False
    cuda_graph: bool = False
    images: tuple[Path, ...] = ()
    depth: int = 2
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        kind = self.device.partition(":")[0]
        if kind not in DEVICES:
            raise ValueError(f"unknown device {self.device!r}{nearest(kind, DEVICES)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}{nearest(self.dtype, list(DTYPES))}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if kind == "cuda" and not torch.cuda.is_available():
            built = torch.version.cuda or "none: this torch is built without it"
            raise ValueError(f"no CUDA GPU is usable here (torch's CUDA: {built}); use --device cpu")
        if self.cuda_graph and kind != "cuda":
            raise ValueError("--cuda-graph needs --device cuda")

    @property
    def torch_device(self) -> torch.device:
        """With its index, which NVML and events need."""
        device = torch.device(self.device)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return device

    def record(self, spec: ModelSpec) -> dict[str, Any]:
        """As plain data, with the model's own sizes."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "batch": self.batch,
            "padded_size": format_size(self.padded_size),
            "num_classes": spec.num_classes,
            "num_queries": spec.num_queries,
            "compile": self.compile,
            "cuda_graph": self.cuda_graph,
            "inputs": "photos" if self.images else "random",
            "threads": torch.get_num_threads(),
            "method": METHOD,
        }


@dataclass
class _Subject:
    spec: ModelSpec
    model: nn.Module
    timed: Callable[[], object]
    eager: Callable[[], object]
    warm: WarmUp


def profile(
    specs: Sequence[ModelSpec],
    settings: Settings,
    on_step: Callable[[str], None] | None = None,
    kind: str = "profile",
) -> list[Run]:
    """Measure models; one record each, the ratios to the first model in the others' records.

    Raises:
        ValueError: no model, a whole model of the user's own, or unreadable images.
        OutOfMemory: the models do not fit.
    """
    if not specs:
        raise ValueError("profile needs a model")
    for spec in specs:
        if isinstance(spec, WholeModelSpec):
            raise ValueError(f"{spec.text} is a whole model; profile measures encoders in segmenter's model")
    say = on_step or (lambda what: None)
    with _memory_named(specs, settings), _threads(settings.threads), torch.inference_mode():
        inputs = make_inputs(settings)
        subjects = []
        for spec in specs:
            say(f"warming up {spec.title}")
            subjects.append(_subject(spec, settings, inputs))
        device = settings.torch_device
        say("timing in turn")
        before = gpu_state(device) if device.type == "cuda" else {}
        samples = interleave([s.timed for s in subjects], device, settings.plan)
        after = gpu_state(device) if device.type == "cuda" else {}
        say("measuring the machine's peaks")
        peaks = measure_peaks(device, DTYPES[settings.dtype])
        runs = []
        for subject, times in zip(subjects, samples, strict=True):
            say(f"components of {subject.spec.title}")
            run = _run(subject, times, settings, peaks, kind)
            if before or after:
                run.environment["clocks"].update({"before": before, "after": after})
            runs.append(run)
        for index, run in enumerate(runs[1:], start=1):
            found = speedup(samples[0], samples[index])
            run.ratios.append(
                {
                    "baseline": runs[0].id,
                    "baseline_model": runs[0].model,
                    "baseline_title": runs[0].title,
                    "times_faster": found.median,
                    "low": found.low,
                    "high": found.high,
                    "rounds": found.rounds,
                    "verdict": found.verdict,
                }
            )
    return runs


def make_inputs(settings: Settings) -> list[Tensor]:
    """Four batches (B, 3, H, W), normalised, of photos or seeded noise, on the device.

    Raises:
        ValueError: a photo that cannot be read.
    """
    height, width = settings.padded_size
    if settings.images:
        photos = itertools.cycle(find_photos(settings.images))
        batches = [
            torch.stack([normalise(read_photo(next(photos), (height, width))) for _ in range(settings.batch)])
            for _ in range(INPUTS)
        ]
    else:
        generator = torch.Generator().manual_seed(0)
        shape = (settings.batch, 3, height, width)
        batches = [torch.randn(shape, generator=generator) for _ in range(INPUTS)]
    return [batch.to(settings.torch_device) for batch in batches]


def _subject(spec: ModelSpec, settings: Settings, inputs: list[Tensor]) -> _Subject:
    device = settings.torch_device
    torch.manual_seed(0)
    model = build_segmenter(
        spec.encoder, spec.backbone, spec.num_classes, spec.num_queries, **dict(spec.options)
    )
    model = model.eval().to(device)
    eager = _caller(model, inputs, settings)
    timed = eager
    if settings.compile:
        timed = _caller(torch.compile(model), inputs, settings)
    if settings.cuda_graph:
        timed = _graphed(timed, inputs, settings, model)
    return _Subject(spec, model, timed, eager, warm_up(timed, device, settings.plan.warm_up_seconds))


def _caller(model: Callable[..., Any], inputs: list[Tensor], settings: Settings) -> Callable[[], object]:
    rotation = itertools.cycle(inputs)
    return lambda: _forward(model, next(rotation), settings)


def _forward(model: Callable[..., Any], images: Tensor, settings: Settings) -> object:
    dtype = DTYPES[settings.dtype]
    if dtype == torch.float32:
        return model(images)
    # A cast kept from one call to the next would lie outside a captured graph.
    with torch.autocast(images.device.type, dtype, cache_enabled=not settings.cuda_graph):
        return model(images)


def _graphed(
    timed: Callable[[], object], inputs: list[Tensor], settings: Settings, model: nn.Module
) -> Callable[[], object]:
    """Capture one call; every replay first copies the next input into the captured one."""
    fixed = inputs[0].clone()
    chosen = torch.compile(model) if settings.compile else model
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _forward(chosen, fixed, settings)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _forward(chosen, fixed, settings)
    rotation = itertools.cycle(inputs)

    def replay() -> None:
        fixed.copy_(next(rotation))
        graph.replay()

    return replay


def _run(subject: _Subject, times: list[float], settings: Settings, peaks: Peaks, kind: str) -> Run:
    spec, device = subject.spec, settings.torch_device
    summary = summarise(times)
    dtype = DTYPES[settings.dtype]
    shape = (settings.batch, 3, *settings.padded_size)
    work = component_work(meta_model(spec), shape, dtype.itemsize, settings.depth)
    components, overhead, share, hooked = _components(subject, settings)
    for name, figures in components.items():
        done = work.get(name)
        if done is not None:
            figures.update(_achieved(done.flops, done.traffic_bytes, figures["ms"], peaks))
            figures["activation_bytes"] = done.activation_bytes
    flops = sum(w.flops for w in work.values())
    traffic = sum(w.traffic_bytes for w in work.values())
    notes = {
        "components": f"{hooked} calls with hooks at component borders, each beside one without; "
        f"hooks cost {100 * (overhead - 1):+.1f} %; component times are {100 * share:.1f} % of the whole"
    }
    memory, notes["memory"] = peak_memory(subject.eager, device)
    energy: dict[str, float | None] = {"joules_per_image": None, "watts": None}
    try:
        taken = measure_energy(subject.timed, device)
        energy = {"joules_per_image": taken.joules_per_call / settings.batch, "watts": taken.watts}
        notes["energy"] = f"{taken.method}, {taken.calls} calls in {taken.seconds:.1f} s, idle power included"
    except EnergyUnavailable as error:
        notes["energy"] = f"not measured: {error}"
    if not subject.warm.stable:
        notes["warm_up"] = f"the median was not stable after {subject.warm.calls} calls"
    return Run(
        id=new_id(),
        time=now(),
        kind=kind,
        status="ok",
        model=spec.text,
        title=spec.title,
        settings=settings.record(spec),
        figures={
            "fps": 1e3 * settings.batch / summary.median,
            "parameter_bytes": float(parameter_bytes(subject.model)),
            "activation_bytes": sum(w.activation_bytes for w in work.values()),
            **memory,
            **energy,
            **_achieved(flops, traffic, summary.median, peaks),
            "peak_tflops": peaks.tflops,
            "peak_gbytes_per_s": peaks.gbytes_per_s,
            "hook_overhead": overhead,
            "component_sum_share": share,
            "first_call_ms": subject.warm.first_ms,
            "warm_up_calls": float(subject.warm.calls),
        },
        statistics={"latency_ms": summary.record()},
        components=components,
        samples={"latency_ms": times},
        environment=environment(device, dtype),
        notes=notes,
    )


def _components(
    subject: _Subject, settings: Settings
) -> tuple[dict[str, dict[str, float | None]], float, float, int]:
    """Median milliseconds per component, the hooks' cost, the components' sum over the whole, the calls.

    The hooks' cost is a ratio of calls with and without hooks; the share is the sum over the same call
    timed from outside without hooks, both paired by round.
    """
    device = settings.torch_device
    timer = ComponentTimer(subject.model, device, settings.depth)
    rounds: list[dict[str, float]] = []
    plain: list[float] = []
    subject.eager()
    fewest, most = COMPONENT_ROUNDS
    end = time.monotonic() + settings.plan.seconds / 3
    for index in range(most):
        if index >= fewest and time.monotonic() >= end:
            break
        if index % 2 == 0:
            plain.append(time_ms(subject.eager, device))
        with timer.hooked():
            rounds.append(timer.run(subject.eager))
        if index % 2:
            plain.append(time_ms(subject.eager, device))
    sums = [sum(each.values()) for each in rounds]
    overhead = median(total / whole for total, whole in zip(sums, plain, strict=True))
    # Shares within a call add up to 1; so do their means, while medians of them need not on a busy machine.
    whole = median(sums)
    shares = {
        name: mean(each.get(name, 0.0) / total for each, total in zip(rounds, sums, strict=True))
        for name in dict.fromkeys(name for each in rounds for name in each)
    }
    components: dict[str, dict[str, float | None]] = {
        name: {"ms": part * whole, "share": part} for name, part in shares.items()
    }
    return components, overhead, sum(shares.values()) * overhead, len(rounds)


def _achieved(flops: float, traffic: float, ms: float | None, peaks: Peaks) -> dict[str, float | None]:
    if not ms or not flops or not traffic:
        return {"gflops": flops / 1e9, "tflops_per_s": None, "peak_share": None, "flops_per_byte": None}
    rate, intensity = flops / ms / 1e9, flops / traffic
    # The roof at this intensity: below the ridge it is the memory's.
    roof = min(peaks.tflops, intensity * peaks.gbytes_per_s / 1e3)
    return {
        "gflops": flops / 1e9,
        "tflops_per_s": rate,
        "peak_share": rate / peaks.tflops,
        "roof_share": rate / roof,
        "flops_per_byte": intensity,
        "compute_bound": float(peaks.bound(intensity) == "compute"),
    }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_named(specs: Sequence[ModelSpec], settings: Settings) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        names = ", ".join(spec.title for spec in specs)
        raise OutOfMemory(
            f"out of memory on {settings.device}: {names} at {format_size(settings.padded_size)}, batch "
            f"{settings.batch}, {settings.dtype}; take a smaller batch or size"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; torch's CPU allocator has no class of its own."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
