"""Do repeated measurements of one pair of models agree? Ratio intervals against each other's medians.

Run it as ``python benchmarks/repeatability.py``; exit 1 if under 9 in 10 intervals hold another's median, or
if A against A is anything but "no difference" more than once in ten.
"""

import itertools
import sys

from segmeter.harness.models.spec import parse_model
from segmeter.harness.profiling.clock import Plan
from segmeter.harness.profiling.run import Settings, profile

REPEATS = 10


def main() -> int:
    """Measure A, B and A again ten times, and compare the repeats."""
    specs = [parse_model(text) for text in ("m2f@r50", "pro-scale@r50:stages=1,1,1", "m2f@r50")]
    settings = Settings((64, 64), threads=1, plan=Plan(seconds=10, min_rounds=15, warm_up_seconds=2))
    found = []
    for _ in range(REPEATS):
        _, pro_scale, again = profile(specs, settings)
        found.append((pro_scale.ratios[0], again.ratios[0]))
        ratio, same = found[-1]
        print(
            f"PRO-SCALE {ratio['times_faster']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}), "
            f"A against A {same['times_faster']:.3f}: {same['verdict']}",
            flush=True,
        )
    pairs = list(itertools.permutations([ratio for ratio, _ in found], 2))
    held = sum(a["low"] <= b["times_faster"] <= a["high"] for a, b in pairs) / len(pairs)
    equal = sum(same["verdict"] == "no difference" for _, same in found)
    print(
        f"intervals that hold another's median: {100 * held:.0f} %; A against A: {equal} of {REPEATS} equal"
    )
    return 0 if held >= 0.9 and equal >= REPEATS - 1 else 1


if __name__ == "__main__":
    sys.exit(main())
