"""Level 3: rows that name a model which segmeter knows, counted at the size that the table states.

A figure met at its stated size, by the part that its column names, is reproduced. What needs another part, or
a size that the table does not state, is consistent with it at most. Either comes with the share of wrong
figures that the same rule would have taken: the figure moved by 0.5 to 20 %, 400 times.
"""

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segmeter.harness.audit.chance import DRAWS, LEAST, MOST, SEED
from segmeter.harness.audit.comparisons.naming import Named
from segmeter.harness.audit.comparisons.table import (
    SUSPICIOUS,
    UNKNOWN,
    Column,
    Figure,
    Finding,
    Place,
    Row,
    place,
)
from segmeter.harness.audit.hypotheses import PATHS, WHOLE, path_sums
from segmeter.harness.counting import DataDependentError, find_components, work_of
from segmeter.harness.inputs import ImageSize, Size, format_size
from segmeter.harness.models import ModelSpec, blaming, parameters, parse_model, usual_input
from segmeter.harness.records import GIGA
from segmeter.model_text import is_library_name

LEVEL = "measurement"
RULES = {
    "unit": "the figure is in the other unit than its column says",
    "boundary": "the figure is that of another part than its column says",
    "count": "the figure is not what is counted for the model at the stated size",
    "params": "the parameters are not those of the model",
}
VERDICTS = {
    "reproduced": "counted at the stated size, of the stated part, it prints as it is printed",
    "consistent": "met by another part or at a size that is not stated, or by too wide a rounding to tell",
    "not reproduced": "counted, and met by nothing that was tried",
    "not counted": "the model is named, and could not be counted",
}
CLASSES = {"ade20k": 150, "cityscapes": 19, "pascal context": 60, "pascal_context": 60}
# Where a table states no size.
COMMON_SIZES: tuple[Size, ...] = ((512, 512), (640, 640), (800, 1344), (1024, 1024), (1024, 2048))
# More wrong figures than this taken: the rule says nothing for the figure.
MOST_BY_CHANCE = 0.02
# Heads of other classes change parameters by less.
NEAR_PARAMS = 0.02


@dataclass(frozen=True)
class Measured:
    """One figure beside its count: ``counted`` in the figure's own unit, None where nothing was counted."""

    cell: Place
    model: str
    size: str
    counted: float | None
    counted_as: str
    verdict: str
    by_chance: float | None
    note: str


def measure(
    named: Sequence[Named], step: Callable[[str], None] = lambda what: None
) -> tuple[list[Measured], list[Finding]]:
    """Count the named rows.

    Args:
        named: rows and the model of each.
        step: called with what is counted next, once for each row.
    """
    measured: list[Measured] = []
    findings: list[Finding] = []
    for one in named:
        step(one.model)
        for found, faults in _row(one):
            measured.append(found)
            findings += faults
    return measured, findings


def _row(one: Named) -> Iterator[tuple[Measured, list[Finding]]]:
    table, row = one.table, one.row
    columns = [c for c in table.of("cost", "params") if c.index in row.figures]
    columns = [c for c in columns if c.part in ("", "total", "encoder") and row.figures[c.index].low > 0]
    for column in columns:
        if column.kind == "params" and column.part == "encoder":
            continue
        cell = place(table, row, column)
        try:
            spec = parse_model(
                one.model, num_classes=_classes(one, row, column), own=is_library_name(one.model)
            )
            if column.kind == "params":
                yield _params(one, column, cell, spec)
            else:
                yield _cost(one, column, cell, spec)
        except (ValueError, DataDependentError, OSError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            if one.implied and re.match(r"unknown (encoder|backbone)|\S+ has no backbone", reason):
                # A name of the field that is not modelled here, or not on this backbone.
                continue
            yield Measured(cell, one.model, "-", None, "", "not counted", None, reason), []


def _classes(one: Named, row: Row, column: Column) -> int:
    dataset = one.table.context(row, column, "dataset")
    if dataset in CLASSES:
        return CLASSES[dataset]
    # COCO has 80 for detectors, 133 for panoptic systems.
    return usual_input(one.model)[1] or 133


def _params(one: Named, column: Column, cell: Place, spec: ModelSpec) -> tuple[Measured, list[Finding]]:
    figure = one.row.figures[column.index]
    counted = parameters(spec)[0] / 1e6
    chance = share_taken(figure, (counted,))
    computed = (
        f"counted {counted:.3f} M, printed {figure.value:g} M: {100 * (counted / figure.value - 1):+.2f} %"
    )
    text = f"{spec.num_classes} classes" if spec.num_classes else ""
    if figure.low <= counted <= figure.high:
        verdict = "reproduced" if chance <= MOST_BY_CHANCE else "consistent"
        return Measured(cell, one.model, "-", counted, "parameters", verdict, chance, text), []
    if figure.low <= counted - (figure.high - figure.low) / 2 <= figure.high:
        text = "; ".join(filter(None, (text, "met with the last digits cut off, not rounded")))
        return Measured(cell, one.model, "-", counted, "parameters", "consistent", chance, text), []
    near = abs(counted / figure.value - 1) <= NEAR_PARAMS
    faults = [] if near else [_fault("params", "the parameters are not the model's", computed, one, cell)]
    note = f"{text}; {'within 2 %, as other heads would be' if near else computed}"
    return Measured(cell, one.model, "-", counted, "parameters", "not reproduced", None, note), faults


def _cost(one: Named, column: Column, cell: Place, spec: ModelSpec) -> tuple[Measured, list[Finding]]:
    table, row = one.table, one.row
    figure = row.figures[column.index]
    stated = table.context(row, column, "size")
    sizes = [stated] if isinstance(stated, tuple) else list(COMMON_SIZES)
    part = WHOLE if column.part == "encoder" else "whole model"
    counts = {(size, *key): giga for size in sizes for key, giga in costs(spec, size).items()}
    own = {key: giga for key, giga in counts.items() if key[2] == part}
    unit = table.context(row, column, "unit")
    for tried, is_own in ((own, True), (counts, False)):
        met = [key for key, giga in tried.items() if figure.low <= giga <= figure.high]
        if not met:
            continue
        # The stated unit first, then the more usual way to count.
        key = max(met, key=lambda k: (PATHS[k[1]].unit == unit, PATHS[k[1]].plausibility))
        size, path, boundary = key
        chance = share_taken(figure, tried.values())
        sure = is_own and len(sizes) == 1 and chance <= MOST_BY_CHANCE
        counted_as = f"{boundary}, {PATHS[path].unit}: {PATHS[path].text}"
        note = "" if len(sizes) == 1 else "the table states no size: this one was solved for"
        found = Measured(
            *(cell, one.model, format_size(size), counts[key], counted_as),
            *("reproduced" if sure else "consistent", chance, note),
        )
        faults = []
        if chance <= MOST_BY_CHANCE and len(sizes) == 1:
            computed = (
                f"{counts[key]:.4g} G{PATHS[path].unit} counted at {format_size(size)}, printed {cell.text}"
            )
            if unit and PATHS[path].unit != unit:
                faults.append(
                    _fault("unit", f"it is {PATHS[path].unit}, its column says {unit}", computed, one, cell)
                )
            if not is_own:
                faults.append(_fault("boundary", f"it is the figure of: {boundary}", computed, one, cell))
        return found, faults
    wide = _zeros_appended(cell.text, figure)
    met = [key for key, giga in own.items() if wide and wide[0] <= giga <= wide[1]]
    if met and wide:
        key = max(met, key=lambda k: (PATHS[k[1]].unit == unit, PATHS[k[1]].plausibility))
        size, path, boundary = key
        chance = share_taken(replace(figure, low=wide[0], high=wide[1]), own.values())
        counted_as = f"{boundary}, {PATHS[path].unit}: {PATHS[path].text}"
        note = "met if its zeros are appended to a rounded figure"
        return Measured(
            *(cell, one.model, format_size(size), counts[key], counted_as, "consistent", chance, note)
        ), []
    (size, path, boundary), giga = min(own.items(), key=lambda item: abs(item[1] / figure.value - 1))
    off = 100 * (giga / figure.value - 1)
    counted_as = f"{boundary}, {PATHS[path].unit}: {PATHS[path].text}"
    found = Measured(
        *(cell, one.model, format_size(size), giga, counted_as, "not reproduced", None),
        f"the nearest of {len(counts)} counts is {off:+.2f} % away",
    )
    if len(sizes) > 1:
        return found, []
    computed = f"nearest: {giga:.4g} G{PATHS[path].unit} at {format_size(size)}, {off:+.2f} %"
    return found, [_fault("count", "the figure is not what is counted", computed, one, cell)]


def _zeros_appended(text: str, figure: Figure) -> tuple[float, float] | None:
    """The range of a figure whose last decimals are zeros that a tool of fewer digits did not print."""
    match = re.match(r"\d+\.(\d*?)(0+)(?!\d)", text)
    if match is None:
        return None
    half = (figure.high - figure.low) / 2 * 10 ** len(match[2])
    return figure.value - half, figure.value + half


def costs(spec: ModelSpec, size: Size) -> Mapping[tuple[str, str], float]:
    """(counting path, part) -> G of its unit, at one size.

    Raises:
        ValueError: the model does not run at this size.
    """
    image = ImageSize(size, size)
    with blaming(f"{spec.text} failed at {format_size(size)}"):
        work = work_of(spec, image).work
        found = dict(path_sums(spec, image))
    find = find_components(spec)
    for name, path in PATHS.items():
        # What a counter does not see depends on the component, whatever a model's components are called.
        found[name, "whole model"] = sum(path.units(one, find(one.module)) for one in work)
    return {key: units / GIGA for key, units in found.items() if units}


def share_taken(figure: Figure, counts: Collection[float]) -> float:
    """Share of wrong figures that these counts would have met: the figure moved by 0.5 to 20 %."""
    chance = random.Random(SEED)
    half = (figure.high - figure.low) / 2
    taken = 0
    for _ in range(DRAWS):
        moved = figure.value * (1 + chance.choice((-1, 1)) * chance.uniform(LEAST, MOST))
        taken += any(abs(one - moved) <= half for one in counts)
    return taken / DRAWS


def _fault(rule: str, text: str, computed: str, one: Named, cell: Place) -> Finding:
    table = (one.table.source, one.table.number)
    sentence = f"{cell.model}, {cell.column} of {cell.text}: {text}"
    sure = SUSPICIOUS
    if one.implied:
        sentence += f" in the configuration that is {one.model} here; the table does not say which it means"
        sure = UNKNOWN
    return Finding(rule, LEVEL, sure, sentence, computed, (cell,), table)


def measured_record(one: Measured) -> dict[str, Any]:
    """For JSON."""
    cell = one.cell
    return {
        "file": cell.file,
        "table": cell.table,
        "row": cell.row,
        "line": cell.line,
        "column": cell.column,
        "printed": cell.text,
        "model": one.model,
        "size": one.size,
        "counted": one.counted,
        "counted_as": one.counted_as,
        "verdict": one.verdict,
        "by_chance": one.by_chance,
        "note": one.note,
    }
