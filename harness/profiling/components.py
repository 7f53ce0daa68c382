"""Where a call's time goes: hooks at the borders between components.

The clock is read (an event is recorded, on CUDA) whenever the running component changes; each stretch goes
to the component that was running. So every moment belongs to exactly one component and the times add up to
the call's. Only modules at which the component changes get hooks; what they cost is measured by timing calls
with and without them in turn.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from segmeter.cuda_ops import rows
from segmeter.harness.machine import give_back, reset_peak, resident_bytes
from segmeter.harness.models import component_finder, named_parts
from segmeter.harness.profiling.clock import time_ms
from segmeter.harness.profiling.statistics import Interval, interval, mean_interval

OUTSIDE = "other"
# Fewest and most calls with hooks; between them, while the time lasts and the sum is not known to +-2.5 %.
ROUNDS = (3, 25)
SUM_WIDTH = 0.05
COST_MARKS, COST_TRIES = 100, 7
_NO_FORWARD = nn.Module.forward


class Borders:
    """Where a model's components begin and end: the modules at which the running component changes."""

    def __init__(self, model: nn.Module, depth: int = 2) -> None:
        find = component_finder(model)
        self.model = model
        self.components = {
            name: ".".join(find(name).split(".")[:depth]) or OUTSIDE for name, _ in named_parts(model)
        }
        # A list of modules is never called itself: what it holds is bordered by the module around it.
        called = {name for name, module in named_parts(model) if type(module).forward is not _NO_FORWARD}
        self.places = [
            name
            for name in self.components
            if name in called and self.components[name] != self._around(name, called)
        ]

    def _around(self, name: str, called: set[str]) -> str:
        """Component of the innermost module around ``name`` that is itself called."""
        while name:
            name = name.rpartition(".")[0]
            if name in called:
                return self.components[name]
        return OUTSIDE

    @contextmanager
    def watched(self, mark: Callable[[str], None]) -> Iterator[None]:
        """Within this context ``mark`` is called with the component that runs from that moment on."""
        stack = [OUTSIDE]

        def entering(component: str) -> Callable[[nn.Module, Any], None]:
            def enter(module: nn.Module, inputs: Any) -> None:
                stack.append(component)
                mark(component)

            return enter

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            stack.pop()
            mark(stack[-1])

        handles = []
        for name in self.places:
            module = self.model.get_submodule(name)
            enter = rows.sees_nothing(entering(self.components[name]))
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(rows.sees_nothing(leave), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class ComponentTimer:
    """The time of each of a model's components; one :meth:`run` for each call."""

    def __init__(self, model: nn.Module, device: torch.device, depth: int = 2) -> None:
        self.device = device
        self.borders = Borders(model, depth)
        self._marks: list[tuple[Any, str]] = []

    def run(self, call: Callable[[], object]) -> dict[str, float]:
        """Milliseconds per component of one call; they add up to the call's."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._marks = []
        with self.borders.watched(self._mark):
            self._mark(OUTSIDE)
            call()
            self._mark(OUTSIDE)
        return self._times()

    def _mark(self, component: str) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((event, component))
        else:
            self._marks.append((time.perf_counter_ns(), component))

    def _times(self) -> dict[str, float]:
        times: dict[str, float] = defaultdict(float)
        if self.device.type == "cuda":
            self._marks[-1][0].synchronize()
        for (begin, component), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            times[component] += begin.elapsed_time(end) if self.device.type == "cuda" else (end - begin) / 1e6
        return dict(times)

    @property
    def crossings(self) -> int:
        """Borders crossed in the last call."""
        return max(0, len(self._marks) - 2)

    def mark_ms(self) -> float:
        """Milliseconds that one reading of the clock takes at the least, the device's part included."""

        def marks() -> None:
            for _ in range(COST_MARKS):
                self._mark(OUTSIDE)

        times = []
        for _ in range(COST_TRIES):
            self._marks = []
            times.append(time_ms(marks, self.device) / COST_MARKS)
        return min(times)


@dataclass(frozen=True)
class ComponentTimes:
    """Where the time of one model went.

    Attributes:
        ms: component -> milliseconds of a call, the median call's length parted by the mean shares.
        share: component -> mean share of a call; they add up to 1.
        share_interval: component -> the ends of the 95 % repeat interval of its share.
        samples: component -> milliseconds in each call with hooks, in the order taken.
        plain: milliseconds of the calls without hooks around them, one more than those.
        sum_share: sum of the components' times over the same call timed from outside without hooks.
        rounds: calls with hooks, each between two without.
        crossings: borders crossed in a call.
        hook_share: what reading the clock at them costs, as a share of a call.
    """

    ms: dict[str, float]
    share: dict[str, float]
    share_interval: dict[str, tuple[float, float]]
    samples: dict[str, list[float]]
    plain: list[float]
    sum_share: Interval
    rounds: int
    crossings: int
    hook_share: float


def component_times(
    timer: ComponentTimer, call: Callable[[], object], device: torch.device, seconds: float
) -> ComponentTimes:
    """Time a model's components: calls with hooks and calls without in turn, the first and the last without.

    A call with hooks is set against the mean of the two around it, which takes a steady drift of the machine
    out of their ratio.
    """
    rounds: list[dict[str, float]] = []
    ratios: list[float] = []
    call()
    plain = [time_ms(call, device)]
    fewest, most = ROUNDS
    end = time.monotonic() + seconds
    while len(rounds) < most:
        if len(rounds) >= fewest and (
            time.monotonic() >= end or interval(ratios).relative_width <= SUM_WIDTH
        ):
            break
        rounds.append(timer.run(call))
        crossings = timer.crossings
        plain.append(time_ms(call, device))
        ratios.append(2 * sum(rounds[-1].values()) / (plain[-2] + plain[-1]))
    sums = [sum(each.values()) for each in rounds]
    whole = median(sums)
    # Shares within a call add up to 1; so do their means, while medians of them need not on a busy machine.
    names = dict.fromkeys(name for each in rounds for name in each)
    samples = {name: [each.get(name, 0.0) for each in rounds] for name in names}
    shares = {
        name: mean_interval([ms / total for ms, total in zip(taken, sums, strict=True)])
        for name, taken in samples.items()
    }
    return ComponentTimes(
        ms={name: share * whole for name, (share, _, _) in shares.items()},
        share={name: share for name, (share, _, _) in shares.items()},
        share_interval={name: (low, high) for name, (_, low, high) in shares.items()},
        samples=samples,
        plain=plain,
        sum_share=interval(ratios),
        rounds=len(rounds),
        crossings=crossings,
        hook_share=crossings * timer.mark_ms() / whole,
    )


def component_memory(
    borders: Borders, device: torch.device, call: Callable[[], object]
) -> dict[str, dict[str, float]]:
    """Component -> bytes at its peak in one call, read at its borders; empty where the system does not tell.

    Returns:
        CUDA: ``peak_allocated_over_start_bytes`` and ``peak_reserved_over_start_bytes``. CPU:
        ``peak_rss_over_start_bytes``. All over what was held before the call.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    else:
        give_back()
    if not _reset_peaks(device):
        return {}
    found: dict[str, dict[str, float]] = {}
    start, running = _peaks(device), OUTSIDE

    def mark(component: str) -> None:
        nonlocal running
        now = _peaks(device)
        _reset_peaks(device)
        peaks = {name: float(max(0, value - start[name])) for name, value in now.items()}
        seen = found.setdefault(running, peaks)
        found[running] = {name: max(value, seen[name]) for name, value in peaks.items()}
        running = component

    with borders.watched(mark):
        call()
    mark(OUTSIDE)
    return found


def _reset_peaks(device: torch.device) -> bool:
    """Begin a new peak; whether the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    return reset_peak()


def _peaks(device: torch.device) -> dict[str, int]:
    """Peaks since the last reset. CUDA's allocator works in step with the launching thread."""
    if device.type == "cuda":
        return {
            "peak_allocated_over_start_bytes": torch.cuda.max_memory_allocated(device),
            "peak_reserved_over_start_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"peak_rss_over_start_bytes": resident_bytes("VmHWM") or 0}


def component_parameter_bytes(borders: Borders) -> dict[str, int]:
    """Bytes of each component's own parameters and buffers; a shared one counts where it stands first."""
    found: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    for name, module in named_parts(borders.model):
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[borders.components[name]] += tensor.numel() * tensor.element_size()
    return dict(found)
