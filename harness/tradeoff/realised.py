"""Claimed beside realised savings: FLOPs that fell, and the time that did or did not fall with them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize, parse_size
from segmeter.harness.models import parse_model
from segmeter.harness.records import Run, how_measured, in_one_runtime
from segmeter.model_text import ModelText, is_source

# A component below this share of the baseline's time is noise.
LEAST_SHARE = 0.01


def realised_savings(runs: Sequence[Run], own: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For each model that was timed in the same rounds as a baseline: its savings, the newest first.

    A record may name a model of somebody's own code, which is only imported and counted if ``own`` names it
    too, as the user wrote it; otherwise its record is passed over.

    Returns:
        Dicts of {"model", "title", "baseline", "size", "machine", "record", "rows"}; a row is {"component",
        "claimed": the saving of MACs in the published convention, "realised": that of time, both shares of
        the baseline's, negative for a loss; "low", "high": 95 % repeat interval of the realised one, or
        None for the encoder as a whole and where the records have none}. The rows are "total", "encoder" and
        its components. Every record gives one: which of them to believe is not for us to choose.
    """
    by_id = {run.id: run for run in runs}
    found: list[dict[str, Any]] = []
    for run in sorted(runs, key=lambda run: (run.time, run.id), reverse=True):
        for ratio in run.ratios:
            baseline = by_id.get(ratio["baseline"])
            if (
                not in_one_runtime(run, ratio)
                or run.status != "ok"
                or baseline is None
                or not baseline.components
                or not run.components
            ):
                continue
            if all(_may_be_counted(one, own) for one in (run, baseline)):
                found.append(_pair(run, baseline, ratio, own))
    return found


def _may_be_counted(run: Run, own: Sequence[str]) -> bool:
    """Whether a record's model is counted in it, is named by the user, or is none of anybody's own code."""
    if run.figures.get("published_gmacs") is not None or run.model in own:
        return True
    text = ModelText.parse(run.model, SYSTEMS)
    return text.name in SYSTEMS and not any(is_source(value) for _, value in text.options)


def _pair(run: Run, baseline: Run, ratio: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    settings = run.settings
    claimed, reference = _work(run, own), _work(baseline, own)
    times, before = _times(run), _times(baseline)
    rows = [
        {
            "component": "total",
            "claimed": 1 - claimed["total"] / reference["total"],
            "realised": 1 - 1 / ratio["times_faster"],
            # Too few calls on a busy machine bound nothing.
            "low": 1 - 1 / ratio["low"] if ratio["low"] else None,
            "high": 1 - 1 / ratio["high"] if ratio["low"] else None,
        }
    ]
    whole = sum(time for name, time in before.items() if "." in name or name == "other")
    part = "encoder" if any(name.startswith("encoder.") for name in before) else "backbone"
    for name in [part, *(n for n in before if n.startswith(f"{part}."))]:
        if before.get(name, 0.0) < LEAST_SHARE * whole:
            continue
        rows.append(
            {
                "component": name,
                "claimed": 1 - claimed.get(name, 0.0) / reference[name] if reference.get(name) else None,
                "realised": 1 - times.get(name, 0.0) / before[name],
                **_interval(run.components.get(name, {}), baseline.components.get(name, {})),
            }
        )
    rows += _added(times, before, claimed, reference["total"], whole)
    return {
        "model": run.model,
        "title": run.title,
        "baseline": baseline.title,
        "size": settings.get("padded_size", ""),
        "machine": how_measured(run),
        "record": run.id,
        "rows": rows,
    }


def _added(
    times: Mapping[str, float],
    before: Mapping[str, float],
    claimed: Mapping[str, float],
    total: float,
    whole: float,
) -> list[dict[str, Any]]:
    """What the baseline has not, such as the matching of tokens: losses, as shares of the whole baseline."""
    return [
        {
            "component": f"{name} (of the whole)",
            "claimed": -claimed.get(name, 0.0) / total,
            "realised": -ms / whole,
            "low": None,
            "high": None,
        }
        for name, ms in times.items()
        if "." in name and name not in before and whole and ms >= LEAST_SHARE * whole
    ]


def _interval(now: Mapping[str, float | None], before: Mapping[str, float | None]) -> dict[str, float | None]:
    """Interval of a component's saving; the calls of the two are not paired, so both spreads count."""
    relative = []
    for figures in (now, before):
        ms, low, high = (figures.get(name) for name in ("ms", "ms_low", "ms_high"))
        if not ms or low is None or high is None:
            return {"low": None, "high": None}
        relative.append((high - low) / 2 / ms)
    left = (now["ms"] or 0.0) / (before["ms"] or 1.0)
    spread = math.hypot(*relative)
    return {"low": 1 - left * (1 + spread), "high": 1 - left * (1 - spread)}


def _times(run: Run) -> dict[str, float]:
    """Milliseconds of each component, and of the encoder as a whole."""
    times = {name: figures.get("ms") or 0.0 for name, figures in run.components.items()}
    return times | {
        part: sum(ms for name, ms in times.items() if name.partition(".")[0] == part)
        for part in ("encoder", "backbone")
    }


def _work(run: Run, own: Sequence[str]) -> dict[str, float]:
    """MACs of an image in each component to a depth of two, of the parts and in all, as the papers count.

    A record of a model whose work depends on the images holds those of its own inputs.
    """
    counted = run.figures.get("published_gmacs")
    if counted is not None:
        found = {
            name: (figures.get("published_gmacs") or 0.0) * 1e9 for name, figures in run.components.items()
        }
        parts = {
            part: sum(macs for name, macs in found.items() if name.partition(".")[0] == part)
            for part in ("encoder", "backbone")
        }
        return {**found, **parts, "total": counted * 1e9}
    settings = run.settings
    spec = parse_model(
        run.model,
        num_classes=settings.get("num_classes", 133),
        num_queries=settings.get("num_queries"),
        own=run.model in own,
    )
    padded = parse_size(str(settings["padded_size"]))
    figures = count_model(spec, ImageSize(padded, padded), "published").figures
    names = {".".join(name.split(".")[:2]) for name in figures.by_component}
    return {name: figures.of(name) for name in names} | {
        "encoder": figures.of("encoder"),
        "backbone": figures.of("backbone"),
        "total": figures.total,
    }
