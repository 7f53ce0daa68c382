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


class ComponentTimer:
    """Times of one model's components; use :meth:`hooked`, and :meth:`run` within it."""

    def __init__(self, model: nn.Module, device: torch.device, depth: int = 2) -> None:
        find = component_finder(model)
        self.device = device
        self.model = model
        self.components = {
            name: ".".join(find(name).split(".")[:depth]) or OUTSIDE for name, _ in named_parts(model)
        }
        # A list of modules is never called itself: what it holds is bordered by the module around it.
        called = {name for name, module in named_parts(model) if type(module).forward is not _NO_FORWARD}
        self.borders = [
            name
            for name in self.components
            if name in called and self.components[name] != self._around(name, called)
        ]
        self._marks: list[tuple[Any, str]] = []
        self._stack = [OUTSIDE]

    def _around(self, name: str, called: set[str]) -> str:
        """Component of the innermost module around ``name`` that is itself called."""
        while name:
            name = name.rpartition(".")[0]
            if name in called:
                return self.components[name]
        return OUTSIDE

    @contextmanager
    def hooked(self) -> Iterator[int]:
        """Within this context the borders are watched; yields the number of hooked modules."""
        handles = []
        for name in self.borders:
            module = self.model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._entering(self.components[name])))
            handles.append(module.register_forward_hook(self._leaving, always_call=True))
        try:
            yield len(self.borders)
        finally:
            for handle in handles:
                handle.remove()

    def run(self, call: Callable[[], object]) -> dict[str, float]:
        """Milliseconds per component of one call; they add up to the call's."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._marks, self._stack = [], [OUTSIDE]
        self._mark(OUTSIDE)
        call()
        self._mark(OUTSIDE)
        return self._times()

    def _entering(self, component: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._stack.append(component)
            self._mark(component)

        return enter

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._stack.pop()
        self._mark(self._stack[-1])

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
        with timer.hooked():
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


class ComponentMemory(ComponentTimer):
    """Peak memory while each component ran, read at the same borders; use :meth:`peaks`."""

    def peaks(self, call: Callable[[], object]) -> dict[str, dict[str, float]]:
        """Component -> bytes at its peak in one call; empty where the system does not tell.

        Returns:
            CUDA: ``peak_allocated_over_start_bytes`` and ``peak_reserved_over_start_bytes``. CPU:
            ``peak_rss_over_start_bytes``. All over what was held before the call.
        """
        self._found: dict[str, dict[str, float]] = {}
        self._running, self._stack = OUTSIDE, [OUTSIDE]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            give_back()
            if not reset_peak():
                return {}
        self._start = self._peaks()
        with self.hooked():
            call()
        self._mark(OUTSIDE)
        return self._found

    def _mark(self, component: str) -> None:
        now = self._peaks()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak()
        peaks = {name: float(max(0, value - self._start[name])) for name, value in now.items()}
        seen = self._found.setdefault(self._running, peaks)
        self._found[self._running] = {name: max(value, seen[name]) for name, value in peaks.items()}
        self._running = component

    def _peaks(self) -> dict[str, int]:
        """Peaks since the last reset. CUDA's allocator works in step with the launching thread."""
        if self.device.type == "cuda":
            return {
                "peak_allocated_over_start_bytes": torch.cuda.max_memory_allocated(self.device),
                "peak_reserved_over_start_bytes": torch.cuda.max_memory_reserved(self.device),
            }
        return {"peak_rss_over_start_bytes": resident_bytes("VmHWM") or 0}


def component_parameter_bytes(timer: ComponentTimer) -> dict[str, int]:
    """Bytes of each component's own parameters and buffers; a shared one counts where it stands first."""
    found: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    for name, module in named_parts(timer.model):
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[timer.components[name]] += tensor.numel() * tensor.element_size()
    return dict(found)
