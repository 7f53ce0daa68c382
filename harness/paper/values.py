"""The figures that a plan asks for: counted, read from records, or made of two others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segmeter.harness.counting import count_model, flops_record, versions
from segmeter.harness.inputs import choose_sizes, default_classes
from segmeter.harness.models import inputs_of, model_from_parts, resolve_preset, usual_input
from segmeter.harness.paper.plan import BREAKDOWN, TIMED, NumberPlan, Plan, TablePlan
from segmeter.harness.records import (
    FlopsRecord,
    Run,
    component_units,
    how_measured,
    read_folder,
    read_run,
)
from segmeter.model_text import relative_source
from segmeter.plain import shown
from segmeter.words import nearest

SCHEMA = "segmeter.paper/1"
# Of a record: name -> where it lies in its statistics of the latency.
LATENCY = {
    "latency_ms": "median",
    "latency_low_ms": "low",
    "latency_high_ms": "high",
    "latency_p90_ms": "p90",
    "latency_p99_ms": "p99",
}
UNITS = {"fps": "images/s", "joules_per_image": "J", "watts": "W", "tflops_per_s": "TFLOP/s"}
MEBI = 2**20


@dataclass(frozen=True)
class Value:
    """A number of the paper.

    Attributes:
        text: as it stands in the text: ``value`` to its digits.
        source: where it is from, in words: model, convention and size, or record and machine.
    """

    key: str
    macro: str
    value: float
    text: str
    unit: str
    source: str


def paper_values(plan: Plan, step: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Everything that a plan asks for.

    Args:
        plan: as read.
        step: called with the name of what is made next.

    Returns:
        The record, ready for JSON: ``numbers``, ``tables`` and ``figures``.

    Raises:
        ValueError: a model that is none, a record that cannot be read, or a figure that it lacks; one line.
    """
    found: dict[str, Value] = {}
    waiting = list(plan.numbers)
    while waiting:
        ready = [
            one for one in waiting if one.way in ("count", "record") or all(of in found for of in one.of)
        ]
        if not ready:
            names = " and ".join(one.key for one in waiting[:3])
            raise ValueError(f"{plan.path}: the numbers {names} are made of each other")
        for one in ready:
            step(one.key)
            found[one.key] = _told(plan, f"numbers.{one.key}", partial(_value, plan, one, found))
        waiting = [one for one in waiting if one.key not in found]
    tables: dict[str, Any] = {}
    for table in plan.tables:
        step(table.key)
        tables[table.key] = _told(plan, f"tables.{table.key}", partial(_table, plan, table))
    figures: dict[str, Any] = {}
    for figure in plan.figures:
        step(figure.key)
        told: dict[str, Any] = {"kind": figure.kind, "caption": figure.caption, "label": figure.label}
        if figure.kind == BREAKDOWN:
            count = partial(_records, plan, figure.models, figure.at)
            told["records"] = _told(plan, f"figures.{figure.key}", count)
        figures[figure.key] = told
    return {
        "schema": SCHEMA,
        "numbers": [asdict(found[one.key]) for one in plan.numbers],
        "tables": tables,
        "figures": figures,
        "versions": versions(),
    }


def _told(plan: Plan, where: str, make: Callable[[], Any]) -> Any:
    """What is made; where that fails, the error says for which entry."""
    try:
        return make()
    except (ValueError, OSError) as error:
        raise ValueError(f"{plan.path}, {where}: {error}") from error


def _value(plan: Plan, one: NumberPlan, found: Mapping[str, Value]) -> Value:
    if one.way == "count":
        value, unit, source = _counted(plan, one)
    elif one.way == "record":
        value, unit, source = _recorded(plan, one)
    else:
        before, after = (found[key] for key in one.of)
        if not before.value:
            raise ValueError(f"{before.key} is 0: nothing can be set against it")
        if before.unit != after.unit:
            raise ValueError(f"{before.key} is in {before.unit}, {after.key} in {after.unit}")
        share = after.value / before.value
        value, unit = (100 * (share - 1), "%") if one.way == "change" else (share, "times")
        source = f"{one.way} from {before.key} to {after.key}"
    digits = one.digits if one.digits is not None else 2 if one.way in ("count", "ratio") else 1
    text = f"{value:.{digits}f}"
    # No number is minus nothing.
    text = text.removeprefix("-") if not float(text) else text
    return Value(one.key, one.macro, value, text, unit, source)


def _counted(plan: Plan, one: NumberPlan) -> tuple[float, str, str]:
    record = _record(plan, one.of[0], one.at)
    where = f"{record['model']}, {{}}, one image of {record['size']}, counted"
    if one.what in ("parameters", "encoder_parameters"):
        params = record["params"] if one.what == "parameters" else record["encoder_params"]
        return params / 1e6, "M", where.format(one.what.replace("_", " "))
    units = component_units(record, one.what)
    if units is None:
        known = ["total", "parameters", *record["components"]]
        raise ValueError(f"{record['model']} has no component {shown(one.what)}{nearest(one.what, known)}")
    classes = f", {record['num_classes']} classes" if record["num_classes"] else ""
    return units, record["unit"], where.format(f"{one.what}, convention {record['convention']}{classes}")


def _recorded(plan: Plan, one: NumberPlan) -> tuple[float, str, str]:
    path = plan.folder / one.of[0]
    run = read_run(path)
    value = _figure_of(run, one.what)
    if value is None:
        known = [*LATENCY, *(name for name, figure in run.figures.items() if figure is not None)]
        raise ValueError(f"record {run.id} has no figure {shown(one.what)}{nearest(one.what, known)}")
    unit = "ms" if one.what.endswith("_ms") else UNITS.get(one.what, "")
    if one.what.endswith("_bytes"):
        value, unit = value / MEBI, "MiB"
    size = run.settings.get("padded_size")
    return value, unit, f"{run.model}, {one.what}, {how_measured(run)}, {size}, record {run.id}"


def _figure_of(run: Run, what: str) -> float | None:
    if what in LATENCY:
        found: float | None = run.statistics.get("latency_ms", {}).get(LATENCY[what])
        return found
    return run.figures.get(what)


def _record(plan: Plan, model: str, at: Mapping[str, Any]) -> FlopsRecord:
    """A model's count; it may be code beside the plan, which the user wrote."""
    text = resolve_preset(relative_source(model, plan.folder)) or model
    usual_size, usual_classes = usual_input(text)
    given = at.get("padded_size")
    sizes = choose_sizes(padded_size=given or usual_size)
    classes = at.get("num_classes") or usual_classes or default_classes(sizes)
    spec = model_from_parts(text, None, None, classes, at.get("num_queries"), {})
    inputs = inputs_of(spec)
    size = next(iter(sizes.images))
    if inputs is not None and not given:
        size = type(size)(inputs.size, inputs.size)
    return flops_record(count_model(spec, size, at.get("convention", "published")))


def _records(plan: Plan, models: Sequence[str], at: Mapping[str, Any]) -> list[FlopsRecord]:
    return [_record(plan, model, at) for model in models]


def _table(plan: Plan, table: TablePlan) -> dict[str, Any]:
    records = _records(plan, table.models, table.at)
    sizes = {record["size"] for record in records}
    if len(sizes) > 1:
        raise ValueError(f"its models are counted at {' and '.join(sorted(sizes))}; give one padded_size")
    timed = _timed(plan, table, records) if any(column in TIMED for column in table.columns) else {}
    rows = []
    for record in records:
        cells: dict[str, float | None] = {}
        for column in table.columns:
            if column in TIMED:
                what = "latency_ms" if column == "latency_ms" else "fps"
                cells[column] = _figure_of(timed[record["model"]], what)
            elif column == "parameters":
                cells[column] = record["params"] / 1e6
            else:
                cells[column] = component_units(record, column)
        rows.append({"title": record["title"], "model": record["model"], "cells": cells})
    first = records[0]
    return {
        "columns": list(table.columns),
        "rows": rows,
        "unit": first["unit"],
        "convention": first["convention"],
        "size": first["size"],
        "timed_on": how_measured(next(iter(timed.values()))) if timed else "",
        "timed_at": str(next(iter(timed.values())).settings.get("padded_size")) if timed else "",
        "caption": table.caption,
        "label": table.label,
        "digits": table.digits,
        "sources": {model: run.id for model, run in timed.items()},
    }


def _timed(plan: Plan, table: TablePlan, records: Sequence[FlopsRecord]) -> dict[str, Run]:
    """The newest record of each model, all of one machine and one way of timing."""
    runs: list[Run] = []
    for name in table.records:
        path = plan.folder / name
        if Path(path).is_dir():
            runs += [run for _, run in read_folder(path).runs]
        else:
            runs.append(read_run(path))
    found: dict[str, Run] = {}
    for record in records:
        of_model = [
            run for run in runs if run.model == record["model"] and _figure_of(run, "latency_ms") is not None
        ]
        if not of_model:
            raise ValueError(f"no record of {record['model']} with a time in {', '.join(table.records)}")
        found[record["model"]] = max(of_model, key=lambda run: (run.time, run.id))
    ways = {(how_measured(run), run.settings.get("padded_size")) for run in found.values()}
    if len(ways) > 1:
        said = "; ".join(sorted(f"{how}, {size}" for how, size in ways))
        raise ValueError(f"its times were not taken alike: {said}")
    return found
