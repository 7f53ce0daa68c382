"""Measure models beside each other: latency, components, memory, energy, achieved share of the machine.

All models stay in memory and are timed in turn, so that a drifting machine is in every model's time alike.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from segmeter.harness.inputs import format_size
from segmeter.harness.machine import (
    EnergyUnavailable,
    Watch,
    give_back,
    is_out_of_memory,
    keep_freed_memory,
    lasting,
    measure_energy,
    parameter_bytes,
    peak_memory,
    read_environment,
)
from segmeter.harness.models import ModelSpec, meta_model
from segmeter.harness.profiling.clock import interleave
from segmeter.harness.profiling.components import (
    ComponentTimer,
    ComponentTimes,
    component_memory,
    component_parameter_bytes,
    component_times,
)
from segmeter.harness.profiling.on_inputs import work_on_inputs
from segmeter.harness.profiling.roofline import Peaks, Work, component_work, measure_peaks
from segmeter.harness.profiling.statistics import COPY_ROUNDS, speedup, summarise
from segmeter.harness.profiling.subjects import (
    COMPILE,
    DTYPES,
    EAGER,
    TOLERANCES,
    Settings,
    Subject,
    make_inputs,
    make_subject,
)
from segmeter.harness.records import Run, new_id, now
from segmeter.model_text import is_source


class OutOfMemory(Exception):
    """The device's memory does not hold the measurement; one line."""


def profile(
    specs: Sequence[ModelSpec],
    settings: Settings,
    on_step: Callable[[str], None] | None = None,
    kind: str = "profile",
) -> list[Run]:
    """Measure models; one record each, the ratios to the first model in the others' records.

    Raises:
        ValueError: no model, one that cannot be built or does not run, or unreadable images.
        OutOfMemory: the models do not fit.
    """
    if not specs:
        raise ValueError("profile needs a model")
    say = on_step or (lambda what: None)
    device, dtype = settings.torch_device, DTYPES[settings.dtype]
    if settings.keep_memory and not keep_freed_memory():
        raise ValueError("--keep-memory needs glibc's malloc, which this process has not")
    # Events and captures belong to the current GPU, which need not be the one asked for.
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with _memory_named(specs, settings), _threads(settings.threads), torch.inference_mode(), on_device:
        batches = {
            pixels: lasting(partial(make_inputs, settings, pixels))
            for pixels in dict.fromkeys(spec.system.pixels for spec in specs)
        }
        peaks = measure_peaks(device, dtype)
        subjects = []
        for spec, runtime in itertools.product(specs, settings.chosen_runtimes):
            say(f"warming up {spec.title}")
            subjects.append(make_subject(spec, settings, batches[spec.system.pixels], runtime))
        say("timing in turn")
        watch = Watch(device)
        # Through the subject, whose call changes with its copy.
        calls = [lambda subject=subject: subject.timed() for subject in subjects]
        samples = interleave(calls, device, settings.plan, _between(subjects, watch))
        watch.read()
        during = watch.report()
        say("measuring the machine's peaks")
        # Twice, since a busy machine may be at its worst just then; the better of the two counts.
        peaks = peaks.best(measure_peaks(device, dtype))
        runs = []
        for subject, times in zip(subjects, samples, strict=True):
            say(f"components of {subject.spec.title}")
            run = _run(subject, times, settings, peaks, kind, settings.plan.seconds / len(subjects))
            _count_on_inputs(run, subject, settings, batches[subject.spec.system.pixels])
            run.environment["during"] = during
            runs.append(run)
        for index, run in enumerate(runs[1:], start=1):
            found = speedup(samples[0], samples[index])
            run.ratios.append(
                {
                    "baseline": runs[0].id,
                    "baseline_model": runs[0].model,
                    "baseline_title": runs[0].title,
                    "baseline_runtime": runs[0].settings["runtime"],
                    "times_faster": found.median,
                    "low": found.low,
                    "high": found.high,
                    "rounds": found.rounds,
                    "verdict": found.verdict,
                }
            )
    return runs


def _between(subjects: Sequence[Subject], watch: Watch) -> Callable[[int], None]:
    """What happens between two rounds: clocks are read, and every few rounds the models are copied afresh."""
    shuffle = random.Random(0)

    def between(done: int) -> None:
        if done % COPY_ROUNDS == 0:
            # Before the copies: their first calls fault in what they need, and are not timed.
            give_back()
            for subject in shuffle.sample(subjects, len(subjects)):
                subject.copy_afresh()
        watch.read()

    return between


def _run(
    subject: Subject,
    times: list[float],
    settings: Settings,
    peaks: Peaks,
    kind: str,
    component_seconds: float,
) -> Run:
    spec, device = subject.spec, settings.torch_device
    summary = summarise(times)
    notes: dict[str, str] = {}
    work = _work(spec, settings, notes)
    components: dict[str, dict[str, float | None]] = {}
    sums: dict[str, float | None] = {}
    samples: dict[str, list[float]] = {}
    if subject.runtime in (EAGER, COMPILE):
        timer = ComponentTimer(subject.model, device, settings.depth)
        parts = component_times(timer, subject.eager, device, component_seconds)
        notes["components"] = _told(parts)
        components = _component_figures(timer, parts, subject, settings, work, peaks)
        sums = _component_sums(parts)
        samples["without_hooks_ms"] = parts.plain
        samples |= {f"component_ms.{name}": taken for name, taken in parts.samples.items()}
        memory, notes["memory"] = peak_memory(subject.eager, device, parameter_bytes(subject.model))
    else:
        notes["components"] = f"not parted: {subject.runtime} runs the model as one graph of its own"
        notes["components"] += f", {subject.note}" if subject.note else ""
        memory, notes["memory"] = peak_memory(subject.timed, device, parameter_bytes(subject.model))
    if subject.difference is not None:
        notes["outputs"] = (
            f"{subject.runtime}'s differ from eager's by {subject.difference:.2g} of an output's largest "
            f"entry, tolerance {TOLERANCES[settings.dtype]:g}"
        )
    energy: dict[str, float | None] = {"joules_per_image": None, "watts": None}
    try:
        taken = measure_energy(subject.timed, device)
        energy = {"joules_per_image": taken.joules_per_call / settings.batch, "watts": taken.watts}
        notes["energy"] = f"{taken.method}, {taken.calls} calls in {taken.seconds:.1f} s, idle power included"
    except EnergyUnavailable as error:
        notes["energy"] = f"not measured: {error}"
    if not subject.warm.stable:
        notes["warm_up"] = f"the median was not stable after {subject.warm.calls} calls"
    if not subject.copies and len(times) > COPY_ROUNDS:
        notes["copies"] = (
            "the model stayed at one place in memory; two instances of one model can differ steadily by 1 %"
        )
    flops = sum(w.flops for w in work.values())
    traffic = sum(w.traffic_bytes for w in work.values())
    return Run(
        id=new_id(),
        time=now(),
        kind=kind,
        status="ok",
        model=spec.text,
        title=spec.title,
        settings=settings.record(spec, subject.runtime),
        figures={
            "fps": 1e3 * settings.batch / summary.median,
            "parameter_bytes": float(parameter_bytes(subject.model)),
            "activation_bytes": sum(w.activation_bytes for w in work.values()) if work else None,
            **memory,
            **energy,
            **_achieved(flops, traffic, summary.median, peaks),
            "peak_tflops": peaks.tflops,
            "peak_gbytes_per_s": peaks.gbytes_per_s,
            **sums,
            "output_difference": subject.difference,
            "first_call_ms": subject.warm.first_ms,
            "warm_up_calls": float(subject.warm.calls),
            "fresh_copies": float(subject.copies),
        },
        statistics={"latency_ms": summary.record()},
        components=components,
        samples={"latency_ms": times, **samples},
        environment=read_environment(device, DTYPES[settings.dtype]),
        notes=notes,
    )


def _work(spec: ModelSpec, settings: Settings, notes: dict[str, str]) -> dict[str, Work]:
    shape = (settings.batch, 3, *settings.padded_size)
    try:
        return component_work(meta_model(spec), shape, DTYPES[settings.dtype].itemsize, settings.depth)
    except (ValueError, RuntimeError, NotImplementedError, TypeError) as error:
        # A model of the user's own that reads values or keeps tensors of its own on one device.
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        notes["work"] = f"FLOPs and bytes are not counted, the model does not run without values: {first}"
        return {}


def _count_on_inputs(run: Run, subject: Subject, settings: Settings, inputs: Sequence[Tensor]) -> None:
    """Put the MACs of an image into a record, where they depend on images or on code of the user's own."""
    spec = subject.spec
    has_own_part = is_source(str(dict(spec.options).get(spec.system.code_option, "")))
    if not (has_own_part or any(stage.depends_on_image for stage in spec.stages)):
        return
    work = work_on_inputs(subject.model, inputs, settings.depth)
    run.figures["published_gmacs"] = work.pop("total") / 1e9
    for name, figures in run.components.items():
        figures["published_gmacs"] = work.get(name, 0.0) / 1e9
    run.notes["work"] = (
        f"published_gmacs are MACs of one image, the mean of the {len(inputs)} batches that were timed; "
        "bytes are not counted, as the work depends on what the images show"
    )


def _component_figures(
    timer: ComponentTimer,
    times: ComponentTimes,
    subject: Subject,
    settings: Settings,
    work: Mapping[str, Work],
    peaks: Peaks,
) -> dict[str, dict[str, float | None]]:
    """Component -> its time, work and memory."""
    weights = component_parameter_bytes(timer.borders)
    held = component_memory(timer.borders, settings.torch_device, subject.eager)
    components: dict[str, dict[str, float | None]] = {}
    for name, ms in times.ms.items():
        taken, whole = summarise(times.samples[name]), ms / times.share[name] if times.share[name] else 0.0
        low, high = times.share_interval[name]
        figures: dict[str, float | None] = {
            "ms": ms,
            "ms_low": low * whole,
            "ms_high": high * whole,
            **{f"ms_{name}": getattr(taken, name) for name in ("q25", "q75", "p90", "p99")},
            "images_per_s": 1e3 * settings.batch / ms if ms else None,
            "share": times.share[name],
        }
        if name in work:
            figures |= _achieved(work[name].flops, work[name].traffic_bytes, ms, peaks)
            figures["activation_bytes"] = work[name].activation_bytes
        figures["parameter_bytes"] = float(weights.get(name, 0))
        components[name] = {**figures, **held.get(name, {})}
    return components


def _told(times: ComponentTimes) -> str:
    """How the components' times stand to the whole, in words."""
    found = times.sum_share
    return (
        f"{times.rounds} calls with hooks at component borders, each between two without; component times "
        f"are {100 * found.median:.1f} % of the whole (95 % interval {100 * found.low:.1f} to "
        f"{100 * found.high:.1f} %); reading the clock at {times.crossings} borders costs "
        f"{100 * times.hook_share:.2f} %"
    )


def _component_sums(times: ComponentTimes) -> dict[str, float | None]:
    """How the components' times stand to the whole, as figures."""
    return {
        "component_sum_share": times.sum_share.median,
        "component_sum_share_low": times.sum_share.low,
        "component_sum_share_high": times.sum_share.high,
        "component_rounds": float(times.rounds),
        "hook_crossings": float(times.crossings),
        "hook_cost_share": times.hook_share,
    }


def _achieved(flops: float, traffic: float, ms: float | None, peaks: Peaks) -> dict[str, float | None]:
    if not ms or not flops or not traffic:
        counted = flops / 1e9 if traffic else None
        return {"gflops": counted, "tflops_per_s": None, "peak_share": None, "flops_per_byte": None}
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
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        names = ", ".join(spec.title for spec in specs)
        raise OutOfMemory(
            f"out of memory on {settings.device}: {names} at {format_size(settings.padded_size)}, batch "
            f"{settings.batch}, {settings.dtype}; take a smaller batch or size"
        ) from error
