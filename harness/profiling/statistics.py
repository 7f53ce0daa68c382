"""Statistics of timings on a machine that others use too: medians, block bootstrap, paired ratios.

Neighbouring samples of a busy machine resemble each other, so samples are resampled in blocks (Künsch 1989,
"The jackknife and the bootstrap for general stationary observations"), never one by one. A spread that is
known from a few blocks only is itself uncertain: Student's t takes the place of the normal distribution.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

RESAMPLES = 2000
LEVEL = 0.95
# Two runs of equal spread differ by sqrt(2) times the spread of one: an interval for a repeat's median
# must be that much wider than the usual confidence interval of the median itself.
REPEAT = 2.0**0.5
# Rounds that share one copy of a model in memory. A block spans them, so that the copies' spread is seen.
COPY_ROUNDS = 5
# A tail quantile below this many samples is the largest sample under another name.
P90_SAMPLES, P99_SAMPLES = 10, 100


@dataclass(frozen=True)
class Interval:
    """A median with the interval in which a repeat's median falls 95 times in 100."""

    median: float
    low: float
    high: float

    @property
    def relative_width(self) -> float:
        """Width as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Summary(Interval):
    """What a table shows of samples; quantiles that the samples cannot carry are None."""

    samples: int
    mean: float
    q25: float
    q75: float
    p90: float | None
    p99: float | None

    def record(self) -> dict[str, float | int | None]:
        """As plain data."""
        return asdict(self)


def interval(samples: Sequence[float], seed: int = 0) -> Interval:
    """Median with its 95 % repeat interval: Student's t times the standard error by block bootstrap.

    The interval is pulled in to no less than zero for positive samples. With fewer than three samples it
    is their range.

    Raises:
        ValueError: no samples.
    """
    return Interval(*_repeat_interval(samples, np.median, seed))


def mean_interval(samples: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and the two ends of its 95 % repeat interval, as :func:`interval` has them of the median.

    Raises:
        ValueError: no samples.
    """
    return _repeat_interval(samples, np.mean, seed)


def _repeat_interval(
    samples: Sequence[float], centre: Callable[..., Any], seed: int
) -> tuple[float, float, float]:
    values = np.asarray(samples, dtype=np.float64)
    if not len(values):
        raise ValueError("statistics need at least one sample")
    middle = float(centre(values))
    if len(values) < 3:
        return middle, float(values.min()), float(values.max())
    block = block_length(len(values))
    generator = np.random.default_rng(seed)
    # Blocks wrap around, so that every sample is drawn equally often.
    starts = generator.integers(0, len(values), (RESAMPLES, -(-len(values) // block), 1))
    places = ((starts + np.arange(block)) % len(values)).reshape(RESAMPLES, -1)[:, : len(values)]
    # Resampling k blocks spreads as if each were drawn from k values, not from all there could be.
    blocks = len(values) / block
    error = float(centre(values[places], axis=1).std()) * (blocks / (blocks - 1)) ** 0.5
    half = REPEAT * float(stdtrit(blocks - 1, (1 + LEVEL) / 2)) * error
    low = max(middle - half, 0.0) if values.min() >= 0 else middle - half
    return middle, low, middle + half


def block_length(samples: int) -> int:
    """Samples resampled together: six blocks if they can be had, long enough to hold a copy's rounds.

    >>> [block_length(n) for n in (3, 5, 8, 11, 20, 100, 1000)]
    [1, 1, 2, 2, 3, 5, 9]
    """
    return max(1, int(samples ** (1 / 3)), min(COPY_ROUNDS, samples // 6))


def summarise(samples: Sequence[float]) -> Summary:
    """Median, quartiles, tails and the 95 % repeat interval of samples.

    Raises:
        ValueError: no samples.
    """
    found = interval(samples)
    values = np.asarray(samples, dtype=np.float64)
    q25, q75, p90, p99 = (float(q) for q in np.quantile(values, [0.25, 0.75, 0.9, 0.99]))
    return Summary(
        found.median,
        found.low,
        found.high,
        len(values),
        float(values.mean()),
        q25,
        q75,
        p90 if len(values) >= P90_SAMPLES else None,
        p99 if len(values) >= P99_SAMPLES else None,
    )


@dataclass(frozen=True)
class Ratio(Interval):
    """How many times faster the second is than the first, from rounds that timed both."""

    rounds: int

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``no difference`` (the interval holds 1, or there are under 5 rounds)."""
        if self.rounds < 5 or self.low <= 1.0 <= self.high:
            return "no difference"
        return "faster" if self.low > 1.0 else "slower"


def speedup(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Ratio of times ``first / second``, paired by round: above 1, the second is faster.

    A drift of the machine is in both times of a round and leaves their ratio.

    Raises:
        ValueError: different numbers of rounds, or none.
    """
    if len(first) != len(second):
        raise ValueError(f"a ratio needs the same rounds, got {len(first)} and {len(second)}")
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    found = interval(ratios)
    return Ratio(found.median, found.low, found.high, len(ratios))
