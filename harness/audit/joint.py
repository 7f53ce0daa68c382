"""Several printed figures of one source at once: one unit, path, boundary, size and offset for all of them.

One figure is met by many hypotheses; six figures of one table, counted by one tool at one size, by few. What
is left over is an offset: the same amount missing or added in every figure, as a part that all models share
would be; it is told, not explained away.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segmeter.harness.audit.chance import DRAWS, LEAST, MOST, SEED
from segmeter.harness.audit.figure import WHATS, read_figure
from segmeter.harness.audit.hypotheses import PATHS, Hypothesis, Subject, hypotheses_of, hypothesis_steps
from segmeter.harness.audit.reconcile import SHOWN, check_countable
from segmeter.harness.counting import versions

SCHEMA = "segmeter.reconcile-jointly/1"
# An offset beyond this share of the smallest figure is no part that was left out: it is another figure.
MOST_OFFSET = 0.05
# The counting tool's third decimal, which is rounded before the paper's second.
NO_OFFSET = 0.0005
# How all figures of a source were rounded.
JOINT_ROUNDINGS = {"rounded": 1.0, "cut off": 0.3}
# With several figures, ways that are less usual than one figure's match needs to be are still worth telling.
LEAST_PLAUSIBLE = 0.01
MOST_FIGURES = 20
Key = tuple[str, str, str, str]


# A model and what is printed for it.
PrintedFigure = tuple[Subject, str]


def reconcile_jointly(
    figures: Sequence[PrintedFigure], what: str = "total", step: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Find what gives several figures at once.

    Args:
        figures: from two on, of one source.
        what: "encoder" or "total".
        step: called with what is tried next, :func:`joint_steps` times.

    Returns:
        The record: solutions, the least offset first; without one the nearest ways, by how much their offsets
        differ.

    Raises:
        ValueError: fewer than two figures or too many, or one that cannot be reconciled.
    """
    if what not in WHATS:
        raise ValueError(f"what must be encoder or total, got {what!r}")
    if not 2 <= len(figures) <= MOST_FIGURES:
        raise ValueError(f"to solve jointly needs 2 to {MOST_FIGURES} figures, got {len(figures)}")
    values = [read_figure(figure[1]) for figure in figures]
    for figure in figures:
        check_countable(figure[0])
    tried: list[dict[Key, Hypothesis]] = []
    for figure in figures:
        found = hypotheses_of(figure[0], what, step)
        # The least plausible first, so that of one key the most plausible stays.
        found.sort(key=lambda h: h.plausibility)
        tried.append({_key(h): h for h in found if h.plausibility >= LEAST_PLAUSIBLE})
    common = {key: [one[key] for one in tried] for key in tried[0] if all(key in one for one in tried)}
    windows = [ranges for _, ranges in values]
    numbers = [value for value, _ in values]
    solutions, misses = _solve(common, windows, numbers)
    shown = [_plain(*one, numbers) for one in (solutions or misses)]
    return {
        "schema": SCHEMA,
        "what": what,
        "figures": [
            {"model": f[0].usual.text, "published": f[1], "value": value}
            for f, value in zip(figures, numbers, strict=True)
        ],
        "tried": len(common) * len(JOINT_ROUNDINGS),
        "verdict": _verdict(solutions),
        "solutions": shown[:SHOWN] if solutions else [],
        "nearest": [] if solutions else shown[:SHOWN],
        "solved_by_chance": _solved_by_chance(common, figures, _verdict(solutions)),
        "draws": DRAWS,
        "versions": versions(),
    }


def joint_steps(figures: int) -> int:
    """How often :func:`reconcile_jointly` calls ``step``."""
    return figures * hypothesis_steps()


def _key(h: Hypothesis) -> Key:
    # Queries differ from model to model by their authors' choice; classes do not within one source.
    return h.path, h.boundary, h.size, h.setup.partition(", ")[0]


# Hypotheses of one key, how all were rounded, the least and the greatest offset that all figures allow.
_Solution = tuple[Sequence[Hypothesis], str, float, float]


def _solve(
    common: Mapping[Key, Sequence[Hypothesis]],
    windows: Sequence[Mapping[str, tuple[float, float]]],
    values: Sequence[float],
) -> tuple[list[_Solution], list[_Solution]]:
    """What meets all figures with one offset, and what comes near."""
    limit = MOST_OFFSET * min(values)
    solutions: list[_Solution] = []
    misses: list[_Solution] = []
    for hypotheses in common.values():
        for rounding in JOINT_ROUNDINGS:
            pairs = list(zip(hypotheses, windows, strict=True))
            ends = [(h.giga, *_window(window, rounding)) for h, window in pairs]
            low = max(least - giga for giga, least, _ in ends)
            high = min(most - giga for giga, _, most in ends)
            if low <= high and _offset(low, high) <= limit and _offset(low, high) >= -limit:
                solutions.append((hypotheses, rounding, low, high))
            elif abs(low + high) / 2 <= limit and rounding == "rounded":
                misses.append((hypotheses, rounding, low, high))
    solutions.sort(key=lambda s: (abs(_offset(s[2], s[3])) > 0, -_plausible(s), abs(_offset(s[2], s[3]))))
    misses.sort(key=lambda s: s[2] - s[3])
    return solutions, misses


def _window(ranges: Mapping[str, tuple[float, float]], rounding: str) -> tuple[float, float]:
    """What prints so: cut off, or rounded, to whole ones as well where the printed zeros allow it."""
    if rounding == "cut off":
        return ranges[rounding]
    rounded = [window for name, window in ranges.items() if name != "cut off"]
    return min(low for low, _ in rounded), max(high for _, high in rounded)


def _offset(low: float, high: float) -> float:
    """The least amount within a range; 0 where it holds 0, or misses it by a tool's last decimal."""
    return 0.0 if low <= NO_OFFSET and high >= -NO_OFFSET else min(low, high, key=abs)


def _plausible(solution: _Solution) -> float:
    return min(h.plausibility for h in solution[0]) * JOINT_ROUNDINGS[solution[1]]


def _verdict(solutions: Sequence[_Solution]) -> str:
    if not solutions:
        return "nothing does"
    return "no offset" if _offset(solutions[0][2], solutions[0][3]) == 0 else "one offset"


def _plain(
    hypotheses: Sequence[Hypothesis], rounding: str, low: float, high: float, values: Sequence[float]
) -> dict[str, Any]:
    first = hypotheses[0]
    differences = [value - h.giga for value, h in zip(values, hypotheses, strict=True)]
    return {
        "unit": PATHS[first.path].unit,
        "path": first.path,
        "path_text": PATHS[first.path].text,
        "boundary": first.boundary,
        "size": first.size,
        "setup": first.setup.partition(", ")[0],
        "rounding": rounding,
        "offset": _offset(low, high) if low <= high else (low + high) / 2,
        "spread": max(differences) - min(differences),
        "plausibility": _plausible((hypotheses, rounding, low, high)),
        "counted": [h.giga for h in hypotheses],
    }


def _solved_by_chance(
    common: Mapping[Key, Sequence[Hypothesis]], figures: Sequence[PrintedFigure], verdict: str
) -> float:
    """Share of sets with one wrong figure in them that are solved as well as the printed set, or better."""
    chance = random.Random(SEED)
    texts = [figure[1] for figure in figures]
    solved = 0
    for _ in range(DRAWS):
        at = chance.randrange(len(texts))
        value, _ = read_figure(texts[at])
        digits = len(texts[at].strip().rstrip("gG").partition(".")[2])
        moved = value * (1 + chance.choice((-1, 1)) * chance.uniform(LEAST, MOST))
        changed = [*texts[:at], f"{moved:.{digits}f}", *texts[at + 1 :]]
        read = [read_figure(text) for text in changed]
        solutions, _ = _solve(common, [ranges for _, ranges in read], [value for value, _ in read])
        solved += bool(solutions) and verdict in ("nothing does", "one offset", _verdict(solutions))
    return solved / DRAWS
