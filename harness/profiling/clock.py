"""Timing: warm up until stable, then measure several calls in turn, round by round.

Every sample is synchronised: CUDA events and a synchronisation on a GPU, a monotonic clock on a CPU.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from segmeter.harness.profiling.statistics import COPY_ROUNDS, interval, speedup

Call = Callable[[], object]
WARM_UP_WINDOW = 3
STABLE = 0.05


@dataclass(frozen=True)
class Plan:
    """When to stop.

    Attributes:
        seconds: time for the rounds of all calls together.
        min_rounds: fewest rounds, whatever the time.
        max_rounds: most rounds.
        width: stop once every interval is narrower than this share of its median.
        warm_up_seconds: longest warm-up of one call.
    """

    seconds: float = 30.0
    min_rounds: int = 5
    max_rounds: int = 1000
    width: float = 0.01
    warm_up_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.min_rounds < 1 or self.max_rounds < self.min_rounds:
            raise ValueError(
                f"rounds must be 1 or more, and the most not below the fewest; got {self.min_rounds} to "
                f"{self.max_rounds}"
            )
        for name in ("seconds", "warm_up_seconds", "width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class WarmUp:
    """How a call was warmed up."""

    calls: int
    first_ms: float
    stable: bool


def time_ms(call: Call, device: torch.device) -> float:
    """Milliseconds of one call, everything it started included."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / 1e6


def warm_up(call: Call, device: torch.device, seconds: float) -> WarmUp:
    """Call until the median of three calls is within 5 % of the three before, or the time is up."""
    samples = [time_ms(call, device)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        samples.append(time_ms(call, device))
        if len(samples) > 2 * WARM_UP_WINDOW:
            before, now = (
                sorted(part)[WARM_UP_WINDOW // 2]
                for part in (samples[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW], samples[-WARM_UP_WINDOW:])
            )
            if abs(now - before) <= STABLE * before:
                return WarmUp(len(samples), samples[0], True)
    return WarmUp(len(samples), samples[0], False)


def interleave(
    calls: Sequence[Call],
    device: torch.device,
    plan: Plan,
    between: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Time the calls in turn, round by round; one list of milliseconds for each call.

    Two rounds at a time go through the calls in a random order (seeded) and back, so that no call always runs
    after the same other one.

    Args:
        calls: what is timed.
        device: where it runs.
        plan: when to stop.
        between: called with the number of rounds done, if another follows; in nobody's time.
    """
    samples: list[list[float]] = [[] for _ in calls]
    shuffle = random.Random(0)
    order = list(range(len(calls)))
    end = time.monotonic() + plan.seconds
    for done in range(1, plan.max_rounds + 1):
        if done % 2:
            shuffle.shuffle(order)
        else:
            order.reverse()
        for index in order:
            samples[index].append(time_ms(calls[index], device))
        enough = time.monotonic() >= end or (done % COPY_ROUNDS == 0 and narrow(samples, plan.width))
        if done == plan.max_rounds or (done >= plan.min_rounds and enough):
            break
        if between:
            between(done)
    return samples


def narrow(samples: Sequence[Sequence[float]], width: float) -> bool:
    """Whether what is asked for is known well enough: the ratios of several calls, the time of one."""
    if len(samples) == 1:
        return interval(samples[0]).relative_width <= width
    return all(speedup(samples[0], other).relative_width <= width for other in samples[1:])
