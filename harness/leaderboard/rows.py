"""Rows of a leaderboard: every model of the records, counted alike, with its times and its quality.

Records may come from anywhere: only segmeter's own models and plain names of installed libraries are counted;
other rows keep what was measured, and say why they have no cost.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segmeter.harness.counting import CONVENTIONS, UNITS, count_model, versions, why_photos
from segmeter.harness.inputs import ImageSize, Size, default_classes, format_size, parse_size
from segmeter.harness.inputs import SizeSet as Sizes
from segmeter.harness.models import ModelSpec, parse_model, usual_input
from segmeter.harness.records import GIGA, Records, how_measured, now, run_of_card
from segmeter.model_text import is_library_name
from segmeter.plain import one_line, plain

SCHEMA = "segmeter.leaderboard/1"
CONVENTION = "published"
DEFAULT_SIZE: Size = (1024, 2048)
QUALITIES = ("pq", "miou", "ap")
# Distinct models that are counted, and rows that are shown; what goes beyond is said.
MOST_MODELS, MOST_ROWS = 500, 5000


@dataclass(frozen=True)
class Timing:
    """One time of a model: ``setting`` is machine, dtype, batch and size, within which times compare."""

    model: str
    title: str
    setting: str
    size: str
    ms: float
    low: float | None
    high: float | None
    fps: float | None
    time: str
    source: str


def timings(records: Records) -> list[Timing]:
    """The newest time of each model in each setting, of runs and of cards, oldest first."""
    runs = [*records.runs]
    for path, card in records.cards:
        runs += [(path, run) for entry in card["models"] if (run := run_of_card(entry)) is not None]
    newest: dict[tuple[str, str], Timing] = {}
    for path, run in sorted(runs, key=lambda pair: (pair[1].time, pair[1].id)):
        latency = run.statistics.get("latency_ms", {})
        ms = latency.get("median")
        if run.status != "ok" or not ms or ms < 0:
            continue
        size = str(run.settings.get("padded_size", ""))
        setting = f"{how_measured(run)}, {size}"
        newest[run.model, setting] = Timing(
            model=run.model,
            title=run.title or run.model,
            setting=setting,
            size=size,
            ms=ms,
            low=latency.get("low"),
            high=latency.get("high"),
            fps=run.figures.get("fps"),
            time=run.time,
            source=path.name,
        )
    return list(newest.values())


def distinct_models(records: Records) -> list[str]:
    """Every model that the records name, once, in their order."""
    named = [run.model for _, run in records.runs]
    named += [entry["model"] for _, card in records.cards for entry in card["models"]]
    named += [str(content["model"]) for _, content in records.qualities if content.get("model")]
    return list(dict.fromkeys(named))


def usual_size(records: Records) -> Size:
    """The size that most times were taken at; Cityscapes' where there are none."""
    sizes = Counter(timing.size for timing in timings(records))
    for text, _ in sizes.most_common():
        try:
            return parse_size(text)
        except ValueError:
            continue
    return DEFAULT_SIZE


def leaderboard(
    records: Records,
    size: Size | None = None,
    convention: str = CONVENTION,
    step: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The record of a leaderboard, ready for JSON.

    Args:
        records: timings, cards and qualities.
        size: what every model is counted at; :func:`usual_size` by default.
        convention: in which.
        step: called with each model that is counted next.
    """
    size = size or usual_size(records)
    models = distinct_models(records)
    counted = {}
    for model in models[:MOST_MODELS]:
        step(model)
        counted[model] = _count(model, size, convention)
    over = {model: {"note": f"beyond the first {MOST_MODELS} models"} for model in models[MOST_MODELS:]}
    rows = list(_rows(records, {**counted, **over}))
    at = f", {format_size(size)}"
    settings = Counter(row["setting"] for row in rows if row["setting"])
    return {
        "schema": SCHEMA,
        "made": now(),
        "size": format_size(size),
        "convention": convention,
        "convention_text": CONVENTIONS[convention],
        "unit": UNITS[convention],
        "rows": rows[:MOST_ROWS],
        "left_out": max(0, len(rows) - MOST_ROWS),
        # At the count's size first, then by how many rows have one, of equal ones the plainest.
        "settings": sorted(
            settings,
            key=lambda name: (not name.endswith(at), -settings[name], "fp32" not in name, len(name), name),
        ),
        "not_counted": {model: one["note"] for model, one in {**counted, **over}.items() if one["note"]},
        "passed_over": [{"file": one.path.name, "why": one.reason} for one in records.damaged],
        "versions": versions(),
    }


def _rows(records: Records, counted: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each time of a model on each data set it was scored on; without times, one all the same."""
    times: dict[str, list[Timing]] = {}
    for each in timings(records):
        times.setdefault(each.model, []).append(each)
    scores: dict[str, list[dict[str, Any]]] = {}
    for path, content in records.qualities:
        score = _score(path.name, content)
        scores.setdefault(str(content.get("model") or f"file {path}"), []).append(score)
    for model in dict.fromkeys([*counted, *scores]):
        cost = counted.get(model, {"note": "the record names no model"})
        for score in scores.get(model) or [{}]:
            taken: list[Timing | None] = [*times.get(model, [])]
            for timing in taken or [None]:
                sources = [name for name in (timing and timing.source, score.get("source")) if name]
                yield {
                    "model": model if model in counted else "",
                    "title": cost.get("title") or (timing and timing.title) or score.get("title") or model,
                    "backbone": cost.get("backbone", ""),
                    "total": cost.get("total"),
                    "encoder": cost.get("encoder"),
                    "parameters": cost.get("parameters"),
                    "setting": timing.setting if timing else "",
                    "ms": timing.ms if timing else None,
                    "ms_low": timing.low if timing else None,
                    "ms_high": timing.high if timing else None,
                    "fps": timing.fps if timing else None,
                    "dataset": score.get("dataset", ""),
                    **{name: score.get(name) for name in QUALITIES},
                    "source": ", ".join(sources) or "card",
                    "note": cost["note"],
                }


def _score(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"source": name}
    for key in QUALITIES:
        value = content.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        found[key] = value if is_number else None
    for key in ("title", "dataset"):
        found[key] = str(content.get(key) or "")
    return found


def _count(model: str, size: Size, convention: str) -> dict[str, Any]:
    try:
        spec = _spec(model, size)
        at = ImageSize(size, size)
        reason = why_photos(spec, at)
        if reason:
            return {"title": spec.title, "backbone": spec.backbone, "note": f"not one figure: {reason}"}
        counted = count_model(spec, at, convention)
    except (ValueError, OSError, ImportError) as error:
        return {"note": one_line(error)[:300]}
    figures = counted.figures
    encoder = figures.of("encoder")
    unknown = ", ".join(one.operator for one in figures.unknown)
    return {
        "title": spec.title,
        "backbone": spec.backbone,
        "total": figures.total / GIGA,
        "encoder": encoder / GIGA if encoder else None,
        "parameters": counted.params / 1e6,
        "note": f"without {plain(unknown)}, which has no formula" if unknown else "",
    }


def _spec(model: str, size: Size) -> ModelSpec:
    own = is_library_name(model)
    usual = None if own else usual_input(model)[1]
    one = Sizes("", {ImageSize(size, size): 1}, "")
    return parse_model(model, num_classes=usual or default_classes(one), own=own)
