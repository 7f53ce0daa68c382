"""The gate: measure the models of a budget file and judge them against limits and a baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segmeter.harness.counting import UNITS
from segmeter.harness.gate.budgets import Budgets, Limit, ModelBudget
from segmeter.harness.gate.capture import take_snapshot
from segmeter.harness.gate.changes import ASKED, Change, causes, changes_between, pattern_of
from segmeter.harness.gate.places import place_of, repository_root
from segmeter.harness.gate.snapshot import Snapshot
from segmeter.harness.gate.verdict import FIGURES, OVER, UNCOUNTED, WITHIN, Measured, Verdict
from segmeter.harness.inputs import ImageSize, SizeSet, default_classes, parse_size
from segmeter.harness.models import ModelSpec, parse_model
from segmeter.model_text import relative_source
from segmeter.words import nearest

SCHEMA = "segmeter.check/1"


def measure(budgets: Budgets, progress: Callable[[str], None] = lambda name: None) -> dict[str, Measured]:
    """Measure every model of a budget file.

    Raises:
        ValueError: a model cannot be built or run.
    """
    measured = {}
    for budget in budgets.models:
        measured[budget.name] = measure_one(budget, budgets.path.parent)
        progress(budget.name)
    return measured


def measure_one(budget: ModelBudget, folder: Path) -> Measured:
    """Measure one model; its file, if it is the user's own, is relative to ``folder``."""
    size = ImageSize(parse_size(budget.size), parse_size(budget.size))
    try:
        spec = _spec(budget, folder, size)
        snapshot, module = take_snapshot(spec, size, budget.convention, budget.components)
    except ValueError as error:
        raise type(error)(f"models.{budget.name}: {error}") from error.__cause__
    # As the file writes it: without this machine's folders.
    return Measured(budget, replace(snapshot, model=budget.model + _options(budget)), module)


def _spec(budget: ModelBudget, folder: Path, size: ImageSize) -> ModelSpec:
    text = relative_source(budget.model, folder)
    classes = budget.num_classes or default_classes(SizeSet("", {size: 1}, ""))
    return parse_model(
        text, num_classes=classes, num_queries=budget.num_queries, options=dict(budget.options), own=True
    )


def _options(budget: ModelBudget) -> str:
    return "".join(f":{name}={_written(value)}" for name, value in sorted(budget.options.items()))


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def judge_measured(
    measured: Measured, baseline: Snapshot | None, same: bool = True
) -> tuple[list[Verdict], list[Change]]:
    """Judge one model against its limits and its baseline.

    Args:
        measured: the model, with its budget.
        baseline: what it was; None without one.
        same: refuse a baseline of another model or size; else that is the first cause of what moved.

    Raises:
        ValueError: a limit names no component, or is relative without a baseline; or the baseline is of
            another convention, or of another model or size where that is refused.
    """
    budget, now = measured.budget, measured.snapshot
    where = f"models.{budget.name}"
    if baseline is not None:
        _check_same(where, baseline, now, ("convention", *(ASKED if same else ())))
    changes = changes_between(baseline, now) if baseline is not None else []
    verdicts = []
    for what, limit in _limits(budget, baseline).items():
        figure = figure_of(now, what)
        before = figure_of(baseline, what) if baseline is not None else None
        if figure is None and before is None:
            raise ValueError(f"{where}.limits: no component {what!r}{nearest(what, sorted(_names(now)))}")
        most = limit.most(before or 0 if baseline is not None else None)
        if most is None:
            raise ValueError(f"{where}.limits.{what} is relative, but there is no baseline to relate it to")
        moved = causes(changes, "" if what in FIGURES else what)
        verdicts.append(
            Verdict(
                model=budget.name,
                what=what,
                status=OVER if (figure or 0) > most else WITHIN,
                now=figure or 0,
                before=before if baseline is None else before or 0,
                most=most,
                unit=_unit(what, now.convention),
                causes=tuple(moved) if figure != before else (),
            )
        )
    known = set(budget.allow_uncounted) | set(baseline.uncounted if baseline is not None else ())
    for operator, detail in now.uncounted.items():
        if operator not in known:
            verdicts.append(Verdict(budget.name, operator, UNCOUNTED, 0, None, None, "", detail=detail))
    return verdicts, changes


def _limits(budget: ModelBudget, baseline: Snapshot | None) -> dict[str, Limit]:
    """The file's limits; beside a baseline, total and parameters have one even if the file gives none."""
    limits = dict(budget.limits)
    if baseline is not None:
        for what in ("total", "params"):
            limits.setdefault(what, Limit(budget.tolerance or 0.0, relative=True))
    order = [name for name in FIGURES if name in limits]
    return {name: limits[name] for name in order + [name for name in limits if name not in order]}


def figure_of(snapshot: Snapshot, what: str) -> int | None:
    """A figure by its name in a budget file; None if no component or module has that name.

    Components are tried first, then module paths; ``*`` matches within one name.
    """
    if what == "total":
        return snapshot.total
    if what == "params":
        return snapshot.params
    if what == "activations":
        return snapshot.activation_bytes
    pattern = pattern_of(what)
    by_component = [c.work for c in snapshot.modules.values() if pattern.fullmatch(c.component)]
    by_path = [c.work for path, c in snapshot.modules.items() if pattern.fullmatch(path)]
    found = by_component or by_path
    return sum(found) if found else None


def _names(snapshot: Snapshot) -> set[str]:
    names = set(FIGURES)
    for cost in snapshot.modules.values():
        parts = cost.component.split(".")
        names.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return names - {""}


def _unit(what: str, convention: str) -> str:
    if what in ("params", "activations"):
        return FIGURES[what]
    return UNITS[convention].removeprefix("G")


def _check_same(where: str, baseline: Snapshot, now: Snapshot, parts: Sequence[str]) -> None:
    for what in parts:
        before, after = str(getattr(baseline, what)), str(getattr(now, what))
        if before != after:
            raise ValueError(
                f"{where}: its baseline is of another {what}, {before} instead of {after}; "
                "write it anew with `segmeter baseline update`"
            )


def check_record(
    budgets: Budgets,
    measured: Mapping[str, Measured],
    baseline: Mapping[str, Snapshot] | None,
    against: str,
    same: bool = True,
) -> dict[str, Any]:
    """Judge all models: the record that ``segmeter check --format json`` prints.

    Every figure that is not within budget has a file and a line: of the class behind it, if that is defined
    in the repository, else of the model in the budget file. Files are relative to the repository's root.

    Args:
        budgets: the budget file.
        measured: its models by name.
        baseline: snapshots by model name; None if there is none.
        against: what the baseline is, in words.
        same: see :func:`judge_measured`.

    Raises:
        ValueError: see :func:`judge_measured`.
    """
    root = repository_root(budgets.path)
    models: list[dict[str, Any]] = []
    for name, each in measured.items():
        before = baseline.get(name) if baseline is not None else None
        verdicts, changes = judge_measured(each, before, same)
        models.append(
            {
                "name": name,
                "model": each.budget.model,
                "size": each.snapshot.size,
                "convention": each.snapshot.convention,
                "unit": UNITS[each.snapshot.convention],
                "in_baseline": before is not None,
                "verdicts": [_verdict_record(v, place_of(v, each, budgets.path, root)) for v in verdicts],
                "changes": [_change_record(c) for c in changes],
            }
        )
    passed = all(v["status"] == WITHIN for model in models for v in model["verdicts"])
    return {"schema": SCHEMA, "passed": passed, "against": against, "models": models}


def _verdict_record(verdict: Verdict, place: tuple[str, int] | None) -> dict[str, Any]:
    return {
        "what": verdict.what,
        "status": verdict.status,
        "now": verdict.now,
        "before": verdict.before,
        "limit": verdict.most,
        "unit": verdict.unit,
        "causes": [_change_record(c) for c in verdict.causes],
        "detail": verdict.detail,
        "file": place[0] if place else None,
        "line": place[1] if place else None,
    }


def _change_record(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "path": change.path,
        "text": change.text,
        "work": change.work,
        "params": change.params,
        "components": list(change.components),
    }
