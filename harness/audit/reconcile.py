"""Which unit, counting path, boundary, size, classes and queries give a figure that somebody prints.

Many hypotheses meet a figure by chance, so each match comes with the number of matches to expect by chance
among the hypotheses that are at least as plausible, and the answer with the share of wrong figures that would
have been explained as well.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from segmeter.harness.audit.chance import DRAWS, LEAST, MOST, SEED
from segmeter.harness.audit.figure import WHATS, read_figure
from segmeter.harness.audit.hypotheses import (
    CITYSCAPES,
    PATHS,
    Hypothesis,
    Subject,
    hypotheses_of,
    hypothesis_steps,
)
from segmeter.harness.counting import DataDependentError, versions, work_of
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import blaming

SCHEMA = "segmeter.reconcile/1"
# Rounding: to the digits given, to whole ones as fvcore prints from 100 G on, cut off.
ROUNDINGS = {"rounded": 1.0, "rounded to whole ones": 0.7, "zeros appended": 0.9, "cut off": 0.3}
NEIGHBOURHOOD = 0.2
# Below this a match explains nothing, and so does one that chance alone would bring one time in five.
LEAST_PLAUSIBLE, MOST_BY_CHANCE = 0.05, 0.2
SHOWN = 8


def reconcile_figure(
    subject: Subject,
    published: str,
    what: str = "encoder",
    *,
    step: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Find what gives a printed figure.

    Args:
        subject: the model; where its classes and queries are not known, those of the data sets are tried.
        published: the figure as printed, e.g. "117.0"; its digits say how it was rounded.
        what: "encoder" or "total".
        step: called with what is tried next, :func:`reconcile_steps` times.

    Returns:
        The record: matches, the most credible first; the nearest misses; how many hypotheses were tried.

    Raises:
        ValueError: an unknown model, one whose work depends on its input, a figure that is no positive
            number, an unknown ``what``.
    """
    value, ranges = read_figure(published)
    if what not in WHATS:
        raise ValueError(f"what must be encoder or total, got {what!r}")
    check_countable(subject)
    hypotheses = hypotheses_of(subject, what, step)
    matches = matches_of(hypotheses, published)
    nearest = sorted(hypotheses, key=lambda h: abs(h.giga - value) / h.plausibility**0.5)
    return {
        "schema": SCHEMA,
        "model": subject.usual.text,
        "title": subject.usual.title,
        "what": what,
        "published": published,
        "value": value,
        "ranges": {name: list(window) for name, window in ranges.items()},
        "tried": len(hypotheses),
        "verdict": _verdict(matches),
        "explained_by_chance": explained_by_chance(hypotheses, published),
        "draws": DRAWS,
        "matches": matches[:SHOWN],
        "more_matches": max(0, len(matches) - SHOWN),
        "nearest": [_plain(h, value) for h in nearest[:SHOWN] if not any(_same(h, m) for m in matches)][:3],
        "versions": versions(),
    }


def reconcile_steps() -> int:
    """How often :func:`reconcile_figure` calls ``step``."""
    return hypothesis_steps()


def check_countable(subject: Subject) -> None:
    """Refuse a model whose work depends on what it sees.

    Raises:
        ValueError: it does, or it is unknown; one line.
    """
    name = subject.encoder
    try:
        with blaming(f"{name} failed at {format_size(CITYSCAPES)}"):
            work_of(subject.usual, ImageSize(CITYSCAPES, CITYSCAPES))
    except DataDependentError as error:
        raise ValueError(f"{name} cannot be reconciled, its work depends on its input: {error}") from None


def explained_by_chance(hypotheses: Sequence[Hypothesis], published: str) -> float:
    """Share of wrong figures that would be called explained: the figure moved by 0.5 to 20 %, either way.

    Args:
        hypotheses: all that was tried.
        published: the figure as printed; the wrong ones have as many digits.
    """
    chance = random.Random(SEED)
    value, _ = read_figure(published)
    digits = len(published.strip().rstrip("gG").partition(".")[2])
    # No other can be credible, whatever its rounding.
    able = [h for h in hypotheses if h.plausibility >= LEAST_PLAUSIBLE]
    explained = 0
    for _ in range(DRAWS):
        moved = value * (1 + chance.choice((-1, 1)) * chance.uniform(LEAST, MOST))
        text = f"{moved:.{digits}f}"
        if float(text):
            explained += any(
                m["plausibility"] >= LEAST_PLAUSIBLE and m["by_chance"] <= MOST_BY_CHANCE
                for m in matches_of(able, text)
            )
    return explained / DRAWS


def matches_of(hypotheses: Sequence[Hypothesis], published: str) -> list[dict[str, Any]]:
    """The hypotheses that would print so, the most plausible first."""
    value, ranges = read_figure(published)
    matches = []
    for h in hypotheses:
        for rounding, (low, high) in ranges.items():
            if low <= h.giga <= high:
                matches.append(_match(h, rounding, value, (low, high), hypotheses))
                break
    return sorted(matches, key=lambda m: (-m["plausibility"], abs(m["off_percent"])))


def _match(
    h: Hypothesis,
    rounding: str,
    value: float,
    window: tuple[float, float],
    hypotheses: Collection[Hypothesis],
) -> dict[str, Any]:
    plausibility = h.plausibility * ROUNDINGS[rounding]
    # Hypotheses around the figure that one would believe at least as readily: how many would hit the window?
    around = sum(
        o.plausibility >= h.plausibility and abs(o.giga / value - 1) <= NEIGHBOURHOOD
        for o in hypotheses
        if o is not h
    )
    # One more for the match itself, so that few neighbours do not pass for certainty.
    by_chance = (around + 1) * (window[1] - window[0]) / (2 * NEIGHBOURHOOD * value)
    return {
        **_plain(h, value),
        "plausibility": plausibility,
        "rounding": rounding,
        "by_chance": by_chance,
    }


def _plain(h: Hypothesis, value: float) -> dict[str, Any]:
    path = PATHS[h.path]
    return {
        "unit": path.unit,
        "path": h.path,
        "path_text": path.text,
        "boundary": h.boundary,
        "size": h.size,
        "setup": h.setup,
        "giga": h.giga,
        "off_percent": 100 * (h.giga / value - 1),
        "plausibility": h.plausibility,
    }


def _same(h: Hypothesis, match: Mapping[str, Any]) -> bool:
    return (h.path, h.boundary, h.size, h.setup) == tuple(
        match[name] for name in ("path", "boundary", "size", "setup")
    )


def _verdict(matches: list[dict[str, Any]]) -> str:
    if not matches:
        return "nothing does"
    credible = [
        m for m in matches if m["plausibility"] >= LEAST_PLAUSIBLE and m["by_chance"] <= MOST_BY_CHANCE
    ]
    return "explained" if credible else "by chance at best"
