"""Level 1: whether the rows of a column, and the columns of a row, may be compared."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from segmeter.harness.audit.comparisons.table import (
    SUSPICIOUS,
    UNKNOWN,
    Column,
    Finding,
    Row,
    Table,
    place,
)

LEVEL = "comparability"
RULES = {
    "mixed": "one column over several sizes, devices, precisions, batches, counters or forms",
    "sizes": "cost at one size beside speed at another",
    "two": "rows of one model whose costs are two to one: MACs and FLOPs in one column",
    "batch": "rows of one model whose costs stand as their batches: the batch is multiplied in",
    "missing": "what a figure depends on and the table does not say",
    "indicators": "one indicator of cost alone, or two that rank the rows differently",
}
# What a figure depends on.
DEPENDS = {
    "cost": ("size", "form", "counter"),
    "fps": ("size", "device", "dtype", "batch", "form"),
    "latency": ("size", "device", "dtype", "batch", "form"),
    "memory": ("size", "dtype", "batch", "form"),
}
# Said by silence: inference, by whatever counter.
USUALLY_UNSAID = ("form", "counter")
TWO = (1.94, 2.06)
NEAR = 0.02
# Rows of one model that are compared each with each.
MAX_GROUP = 50
_WORD = re.compile(r"[\s@/_(-]")


def comparability(tables: Sequence[Table]) -> Iterator[Finding]:
    """All findings of this level."""
    for table in tables:
        for column in table.of(*DEPENDS):
            yield from _mixed(table, column)
        yield from _sizes(table)
        for column in table.of("cost"):
            yield from _two(table, column)
        yield from _missing(table)
        yield from _indicators(table)


def _finding(
    rule: str, sure: str, text: str, arithmetic: str, table: Table, *cells: tuple[Row, Column]
) -> Finding:
    places = tuple(place(table, row, column) for row, column in cells)
    return Finding(rule, LEVEL, sure, text, arithmetic, places, (table.source, table.number))


def written(value: Any) -> str:
    """A context in words."""
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value)


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def _either_way(value: Any) -> Any:
    """A size as height and width: some print the width first, with the same pixels."""
    return (min(value), max(value)) if isinstance(value, tuple) else value


def _mixed(table: Table, column: Column) -> Iterator[Finding]:
    rows = [row for row in table.rows if column.index in row.figures]
    for what in DEPENDS[column.kind]:
        values: dict[Any, list[Row]] = defaultdict(list)
        for row in rows:
            value = _either_way(table.context(row, column, what))
            if value is not None:
                values[value].append(row)
        if len(values) < 2:
            continue
        # One model at many sizes is a study of sizes; each data set may have a size of its own.
        groups: dict[Any, set[Any]] = defaultdict(set)
        for value, group in values.items():
            for row in group:
                groups[table.context(row, column, "dataset")].add(value)
        if all(len(group) == 1 for group in groups.values()) and what == "size":
            continue
        if len({row.who for row in rows}) == 1:
            continue
        listed = "; ".join(
            f"{written(value)}: {counted(len(group), 'row')}, {group[0].who} first"
            for value, group in list(values.items())[:4]
        )
        text = f"column {column.header!r} mixes {len(values)} values of {what}: {listed}"
        yield _finding(
            "mixed", SUSPICIOUS, text, "", table, *((g[0], column) for g in list(values.values())[:4])
        )


def _sizes(table: Table) -> Iterator[Finding]:
    for cost in table.of("cost"):
        for speed in table.of("fps", "latency"):
            for row in table.rows:
                if cost.index not in row.figures or speed.index not in row.figures:
                    continue
                a, b = table.context(row, cost, "size"), table.context(row, speed, "size")
                if a is not None and b is not None and _either_way(a) != _either_way(b):
                    text = f"{cost.header!r} is at {written(a)}, {speed.header!r} at {written(b)}"
                    yield _finding("sizes", SUSPICIOUS, text, "", table, (row, cost), (row, speed))
                    break


def _two(table: Table, column: Column) -> Iterator[Finding]:
    """Factors of two and of the batch between rows of one model at one size."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    params = next(table.of("params"), None)
    for row in table.rows:
        if column.index not in row.figures or row.figures[column.index].low <= 0:
            continue
        size = table.context(row, column, "size")
        groups[row.who.lower(), size].append(row)
        weights = row.figures.get(params.index) if params else None
        if weights is not None and weights.value >= 10:
            # The same weights under a name that begins alike are taken for one model.
            groups[_WORD.split(row.model.lower(), maxsplit=1)[0], weights.value, size].append(row)
    told = set()
    for group in groups.values():
        group = group[:MAX_GROUP]
        for i, row in enumerate(group):
            for other in group[:i]:
                a, b = row.figures[column.index], other.figures[column.index]
                small, large = (row, other) if a.value < b.value else (other, row)
                ratio = max(a.value, b.value) / min(a.value, b.value)
                if (id(small), id(large)) in told or ratio < TWO[0]:
                    continue
                batches = [table.context(r, column, "batch") for r in (small, large)]
                high, low = (r.figures[column.index].value for r in (large, small))
                computed = f"{high:g} / {low:g} = {ratio:.3f}"
                cells = ((small, column), (large, column))
                known = all(isinstance(b, int) for b in batches)
                if known and batches[1] > batches[0] and abs(ratio * batches[0] / batches[1] - 1) < NEAR:
                    text = f"{large.who}: cost stands as the batch, {batches[0]} to {batches[1]}"
                    told.add((id(small), id(large)))
                    yield _finding("batch", SUSPICIOUS, text, computed, table, *cells)
                elif TWO[0] <= ratio <= TWO[1]:
                    text = (
                        f"{small.who} and {large.who}: one model at one size, two to one in "
                        f"{column.header!r}, as MACs and FLOPs are"
                    )
                    told.add((id(small), id(large)))
                    yield _finding("two", SUSPICIOUS, text, computed, table, *cells)


def _missing(table: Table) -> Iterator[Finding]:
    said: dict[str, list[str]] = {}
    for column in table.of(*DEPENDS):
        rows = [row for row in table.rows if column.index in row.figures]
        if not rows:
            continue
        lacking = [
            what
            for what in DEPENDS[column.kind]
            if what not in USUALLY_UNSAID and any(table.context(row, column, what) is None for row in rows)
        ]
        if column.kind == "cost" and not table.header.get("unit") and column.unit != "MACs":
            # Most tables headed FLOPs print multiply-accumulates.
            lacking.append("whether one multiply-accumulate is 1 or 2")
        if lacking:
            said.setdefault(", ".join(lacking), []).append(column.header)
    for unsaid, headers in said.items():
        text = f"not said of {', '.join(map(repr, headers))}: {unsaid}"
        yield _finding("missing", UNKNOWN, text, "", table)
    unexplained: dict[str, list[tuple[Row, Column]]] = {}
    for row in table.rows:
        for index, mark in row.marks.items():
            if mark not in table.marks:
                unexplained.setdefault(mark, []).append((row, table.columns[index]))
    for mark, cells in unexplained.items():
        header = cells[0][1].header
        many = f"{counted(len(cells), 'figure')} marked {mark}"
        text = f"{many}, {cells[0][0].who} in {header!r} first: no note says why"
        yield _finding("missing", UNKNOWN, text, "", table, *cells[:4])
    if not any(True for _ in table.of("model")):
        text = "no column names the models: rows are called by their numbers"
        yield _finding("missing", UNKNOWN, text, "", table)


def _indicators(table: Table) -> Iterator[Finding]:
    shown = [c for c in table.of("params", "cost", "fps", "latency") if c.part in ("", "total")]
    kinds = {column.kind for column in shown}
    if len(table.rows) < 2:
        return
    if kinds and not kinds & {"fps", "latency"}:
        names = " and ".join(sorted({"params": "parameters", "cost": "operations"}[k] for k in kinds))
        text = f"{names} alone are printed: how the rows rank in time cannot be known from them"
        yield _finding("indicators", UNKNOWN, text, "", table)
    cost = next((c for c in shown if c.kind == "cost"), None)
    speed = next((c for c in shown if c.kind in ("fps", "latency")), None)
    if cost is None or speed is None:
        return
    rows = [r for r in table.rows if cost.index in r.figures and speed.index in r.figures][:MAX_GROUP]
    against, pairs, first = 0, 0, None
    for i, row in enumerate(rows):
        for other in rows[:i]:
            a, b = row.figures[cost.index], other.figures[cost.index]
            c, d = row.figures[speed.index], other.figures[speed.index]
            if (a.low <= b.high and b.low <= a.high) or (c.low <= d.high and d.low <= c.high):
                continue
            pairs += 1
            dearer_is_faster = (a.value > b.value) == ((c.value > d.value) == (speed.kind == "fps"))
            if dearer_is_faster:
                against += 1
                first = first or ((row, cost), (row, speed), (other, cost), (other, speed))
    if against and first:
        text = (
            f"{cost.header!r} and {speed.header!r} rank {against} of {pairs} pairs of rows differently, "
            f"{first[0][0].who} and {first[2][0].who} first: cost does not stand for time here"
        )
        yield _finding("indicators", UNKNOWN, text, f"{against} / {pairs}", table, *first)
