"""Trade-off points from records: timings (``segmeter profile``) and qualities (``segmeter evaluate``)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from segmeter.harness.records import WAYS, Damaged, Records, Run, how_measured, read_folder
from segmeter.harness.tradeoff.counted import COMMON_SIZES, counted_point
from segmeter.harness.tradeoff.point import OWN, QUALITIES, UNIT, Interval, Point
from segmeter.model_text import ModelText
from segmeter.plain import one_line

DATASET_OF_CLASSES = {133: "coco", 19: "cityscapes"}


def read_records(folder: Path) -> Records:
    """Read every timing and quality record of a folder and its subfolders; other JSON is passed over.

    Raises:
        OSError: no such folder.
    """
    found = read_folder(folder)
    checked = Records(damaged=found.damaged)
    for path, run in found.runs:
        try:
            checked.runs.append((path, _checked_run(run)))
        except ValueError as error:
            checked.damaged.append(Damaged(path, one_line(error)))
    for path, content in found.qualities:
        try:
            checked.qualities.append((path, _checked_quality(content)))
        except ValueError as error:
            checked.damaged.append(Damaged(path, one_line(error)))
    return checked


def _checked_run(run: Run) -> Run:
    """Raise ValueError unless the figures that points and savings are made of are numbers."""
    latency = run.statistics.get("latency_ms") or {}
    if not isinstance(latency, dict):
        raise ValueError("statistics.latency_ms must be an object")
    needed = {f"latency_ms.{key}": latency[key] for key in ("median", "low", "high") if latency.get(key)}
    if run.figures.get("fps") is not None:
        needed["fps"] = run.figures["fps"]
    for place, ratio in enumerate(run.ratios):
        if not isinstance(ratio, dict) or not isinstance(ratio.get("baseline"), str):
            raise ValueError(f"ratios[{place}] names no baseline")
        needed |= {f"ratios[{place}].{key}": ratio.get(key) for key in ("times_faster", "high")}
        # Too few calls on a busy machine leave the lower end at 0.
        if ratio.get("low") != 0:
            needed[f"ratios[{place}].low"] = ratio.get("low")
    for name, value in needed.items():
        if not _is_number(value) or value <= 0:
            raise ValueError(f"{name} must be a number above 0, got {value!r}")
    for name, figures in run.components.items():
        ms = figures.get("ms") if isinstance(figures, dict) else ""
        if ms is not None and not _is_number(ms):
            raise ValueError(f"components.{name}.ms must be a number or null")
    return run


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked_quality(content: dict[str, Any]) -> dict[str, Any]:
    for key in QUALITIES:
        value = content.get(key)
        if value is not None and not _is_number(value):
            raise ValueError(f"{key} must be a number or null, got {value!r}")
    for key in ("title", "dataset"):
        if not isinstance(content.get(key), str):
            raise ValueError(f"{key} must be a text, got {content.get(key)!r}")
    return content


def record_points(records: Records, published: Sequence[Point]) -> list[Point]:
    """A point for each timing and each quality record.

    A timing takes the quality of a record of the same model and data set, else the printed one; a quality
    record of a model that segmeter can count has its GFLOPs measured at the data set's common size.
    """
    qualities = [_quality_point(path, record) for path, record in records.qualities]
    timings = [
        _timing_point(path, run, [*qualities, *published])
        for path, run in records.runs
        if run.status == "ok" and run.statistics.get("latency_ms")
    ]
    return [*timings, *qualities]


def _quality_point(path: Path, record: dict[str, Any]) -> Point:
    model, dataset = str(record.get("model") or ""), record["dataset"].split("-")[0]
    base = Point(label=record["title"], encoder=record["title"], dataset=dataset, source="measured")
    note = f"{record.get('images')} images of {record['dataset']} {record.get('split', '')}".strip()
    if record.get("fault_count"):
        note += f", {record['fault_count']} faults left out"
    if model and dataset in COMMON_SIZES:
        try:
            base = counted_point(model, dataset)
        except ValueError as error:
            note += f"; not counted: {error}"
    cost = record.get("cost")
    if not model and isinstance(cost, dict) and _is_number(cost.get("total_gmacs")):
        # Another system's cost is what the user said it is; see `segmeter evaluate --total-gflops`.
        base = replace(base, gflops_total=cost["total_gmacs"], total_basis=OWN)
        note += "; GFLOPs as given"
    scores: dict[str, Any] = {key: record.get(key) for key in QUALITIES}
    return replace(base, **scores, reference=str(path), note=note)


def _timing_point(path: Path, run: Run, known: Sequence[Point]) -> Point:
    settings, latency = run.settings, run.statistics["latency_ms"]
    dataset = DATASET_OF_CLASSES.get(settings.get("num_classes", 0), "")
    written = ModelText.named(run.model)
    batch = settings.get("batch") or 1
    size = str(settings.get("padded_size", ""))
    scored = next(
        (p for p in known if p.model == run.model and p.dataset == dataset and _has_quality(p)), None
    )
    how = f"{how_measured(run)}, {size}"
    flags = "".join(f" --{key.replace('_', '-')}" for key in WAYS if settings.get(key))
    figures: dict[str, Any] = {"latency_ms": latency.get("median"), "fps": run.figures.get("fps")}
    if scored is not None:
        figures |= scored.qualities
    return Point(
        label=run.title.rpartition(", ")[0] or run.title or run.model,
        model=run.model,
        encoder=written.name,
        backbone=written.backbone,
        dataset=dataset,
        source="measured",
        reference=str(path),
        command=f"segmeter profile {run.model} --padded-size {size} --device {settings.get('device')} "
        f"--dtype {settings.get('dtype')} --batch {batch}{flags}",
        size=size,
        speed_basis=how,
        convention=UNIT,
        spread=_latency_spread(latency, batch),
        note=f"timed on {how}; " + (f"quality from {scored.reference}" if scored else "quality unknown"),
        **figures,
    )


def _has_quality(p: Point) -> bool:
    return any(value is not None for value in p.qualities.values())


def _latency_spread(latency: dict[str, Any], batch: int) -> dict[str, Interval] | None:
    low, high = latency.get("low"), latency.get("high")
    if not low or not high:
        return None
    kind = "95 % repeat interval of the median"
    return {
        "latency_ms": {"low": low, "high": high, "kind": kind},
        "fps": {"low": 1e3 * batch / high, "high": 1e3 * batch / low, "kind": kind},
    }
