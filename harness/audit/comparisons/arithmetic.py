"""Level 0: what follows from the printed figures alone. Every figure is the range that would print so."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from segmeter.harness.audit.comparisons.table import (
    CONTRADICTION,
    SUSPICIOUS,
    UNKNOWN,
    Column,
    Figure,
    Finding,
    Row,
    Table,
    place,
)

LEVEL = "arithmetic"
RULES = {
    "impossible": "a figure that cannot be: no cost below zero, no share above 100",
    "change": "a percentage, difference or factor, recomputed from its row and its baseline",
    "speed": "images a second against milliseconds and batch",
    "sum": "parts against the total printed beside them",
    "units": "FLOPs against MACs printed beside them: two to one, and elementwise work on top",
    "repeat": "the same cell printed twice, differently",
    "best": "a figure in bold that another row betters",
    "unread": "a cell that should be a figure and is none",
    "ragged": "a row with another number of cells than the header",
    "marks": "decimal commas and decimal points in one column",
}
# Means of times and of speeds differ by their spread.
SPEED_SLACK = 0.03
# Of more images at once rounding does not tell one batch from the next.
LARGEST_TOLD = 16
SUM_SLACK = 1e-9
# Classes of another data set change a head: parameters by less than that factor.
OTHER_HEAD = 1.25
# A backbone's name alone is no model's: tables of other heads have rows of the same names.
_BACKBONE = re.compile(
    r"(?:r|x|resnet|resnext|swin|vit|deit|mit|convnext|mobilenet)[-_ ]?[a-z0-9]{1,4}(?:[-/ ][\w/]{1,6})?",
    re.I,
)
HIGHER = {"fps": True, "metric": True, "params": False, "cost": False, "latency": False, "memory": False}


def arithmetic(tables: Sequence[Table]) -> Iterator[Finding]:
    """All findings of this level."""
    for table in tables:
        yield from _reading(table)
        for row in table.rows:
            yield from _impossible(table, row)
            yield from _units(table, row)
        yield from _speeds(table)
        yield from _changes(table)
        yield from _sums(table)
        yield from _best(table)
    yield from _repeats(tables)


def finding(
    rule: str, sure: str, text: str, arithmetic: str, table: Table, *cells: tuple[Row, Column]
) -> Finding:
    """A finding of this level on cells of one table."""
    places = tuple(place(table, row, column) for row, column in cells)
    return Finding(rule, LEVEL, sure, text, arithmetic, places, (table.source, table.number))


def _reading(table: Table) -> Iterator[Finding]:
    if table.ragged:
        rows = ", ".join(f"{row} (line {line}: {n} cells)" for row, line, n in table.ragged[:5])
        more = f" and {len(table.ragged) - 5} more" if len(table.ragged) > 5 else ""
        text = f"rows without {len(table.columns)} cells are left out: {rows}{more}"
        yield finding("ragged", SUSPICIOUS, text, "", table)
    if table.unread:
        cells = ", ".join(f"{text[:40]!r} (row {row}, {column})" for row, _, column, text in table.unread[:5])
        more = f" and {len(table.unread) - 5} more" if len(table.unread) > 5 else ""
        yield finding("unread", UNKNOWN, f"cells that are no figures are left out: {cells}{more}", "", table)
    for header in table.mixed_marks:
        text = f"column {header!r} has decimal commas and decimal points"
        yield finding("marks", SUSPICIOUS, text, "", table)


def _impossible(table: Table, row: Row) -> Iterator[Finding]:
    for index, figure in row.figures.items():
        column = table.columns[index]
        if column.kind in ("change", "metric"):
            if column.kind == "metric" and figure.value > 100 and _is_share(column):
                text = f"{row.who}: {column.header} of {figure.value:g} is above 100"
                yield finding("impossible", CONTRADICTION, text, "", table, (row, column))
        elif figure.value < 0 or (figure.value == 0 and column.kind in ("fps", "latency")):
            text = f"{row.who}: {column.header} of {figure.value:g} is not above zero"
            yield finding("impossible", CONTRADICTION, text, "", table, (row, column))


def _is_share(column: Column) -> bool:
    return any(word in column.name for word in ("iou", "pq", "ap", "acc", "top", "dice"))


def _speeds(table: Table) -> Iterator[Finding]:
    """Images at once by each row's speed and latency: its batch, or where none is said, that of most rows."""
    for fast in table.of("fps"):
        for slow in table.of("latency"):
            if fast.part != slow.part:
                continue
            implied: dict[tuple[Any, ...], list[tuple[Row, float]]] = {}
            for row in table.rows:
                fps, ms = row.figures.get(fast.index), row.figures.get(slow.index)
                if fps is None or ms is None or fps.value <= 0 or ms.value <= 0:
                    continue
                known = table.shared(row, fast)
                if known != table.shared(row, slow):
                    continue
                images = fps.value * ms.value / 1000
                low = max(fps.low, 0) * max(ms.low, 0) / 1000 * (1 - SPEED_SLACK)
                high = fps.high * ms.high / 1000 * (1 + SPEED_SLACK)
                batch = table.context(row, fast, "batch")
                computed = f"{fps.value:g} /s x {ms.value:g} ms = {images:.3g} images at once"
                cells = (row, fast), (row, slow)
                if batch is None and low <= max(1, round(images)) <= high:
                    implied.setdefault(known, []).append((row, images))
                elif batch is None:
                    text = (
                        f"{row.who}: speed and latency belong to {images:.3g} images at once, no whole number"
                    )
                    yield finding("speed", SUSPICIOUS, text, computed, table, *cells)
                elif not low <= batch <= high:
                    text = f"{row.who}: speed and latency do not belong to batch {batch}"
                    yield finding("speed", CONTRADICTION, text, computed, table, *cells)
            for group in implied.values():
                yield from _other_batches(table, fast, slow, group)


def _other_batches(
    table: Table, fast: Column, slow: Column, rows: Sequence[tuple[Row, float]]
) -> Iterator[Finding]:
    """Rows of which speed and latency belong to another batch than those of most rows."""
    batches = Counter(max(1, round(images)) for _, images in rows)
    most, many = batches.most_common(1)[0]
    if many <= len(rows) / 2 or most >= LARGEST_TOLD:
        return
    for row, images in rows:
        if max(1, round(images)) != most:
            at_once = f"{images:.3g} images at once, those of most rows to {most}"
            text = f"{row.who}: speed and latency belong to {at_once}"
            computed = f"{row.texts[fast.index]} and {row.texts[slow.index]}"
            yield finding("speed", SUSPICIOUS, text, computed, table, (row, fast), (row, slow))


def _units(table: Table, row: Row) -> Iterator[Finding]:
    for macs in (c for c in table.of("cost") if c.unit == "MACs"):
        for flops in (c for c in table.of("cost") if c.unit == "FLOPs"):
            a, b = row.figures.get(macs.index), row.figures.get(flops.index)
            if a is None or b is None or a.low <= 0 or macs.part != flops.part:
                continue
            if table.shared(row, macs) != table.shared(row, flops) or b.high / a.low >= 2 >= b.low / a.high:
                continue
            ratio = b.value / a.value
            if 2 < ratio < 2.5:
                continue
            computed = f"{b.value:g} / {a.value:g} = {ratio:.3g}"
            sure = CONTRADICTION if ratio < 2 else SUSPICIOUS
            text = f"{row.who}: FLOPs are {ratio:.3g} times the MACs, where two for each are the least"
            yield finding("units", sure, text, computed, table, (row, macs), (row, flops))


def _changes(table: Table) -> Iterator[Finding]:
    named: dict[str, Row] = {}
    for row in table.rows:
        named.setdefault(row.model.lower(), row)
    baseline_column = next(table.of("baseline"), None)
    fixed = str(table.header.get("baseline", "")).lower()
    changes = list(table.of("change"))
    candidates: list[Row] = []
    for row in table.rows:
        claims = list(_claims(table, row, changes))
        name = row.texts[baseline_column.index].lower() if baseline_column else fixed
        stated = named.get(name) if name else None
        # "1.0x" and "0 %" in a first row say that it is the baseline.
        none = not (stated or candidates) and all(claim[2] == ("factor" in claim[4]) for claim in claims)
        if not claims or none:
            candidates = [*candidates[-2:], row] if candidates else [row]
            continue
        for column, figure, change, step, ratios, printed_in in claims:
            bases = [stated] if stated else [r for r in (*candidates, *islice(table.rows, 1)) if r is not row]
            bases = [b for b in bases if column.index in b.figures and b.figures[column.index].low > 0]
            if not bases or any(
                _gives(b.figures[column.index], figure, change, step, ratio, column.kind)
                for b in bases
                for ratio in ratios
            ):
                continue
            base = bases[-1].figures[column.index]
            follow = {ratio: _change(base.value, figure.value, ratio, column.kind) for ratio in ratios}
            ratio = min(follow, key=lambda one: abs(abs(follow[one]) - abs(change)))
            unit = {"percent": " %", "factor": " x", "absolute": ""}[ratio]
            wanted = f"{follow[ratio]:+.4g}{unit}"
            computed = f"{figure.value:g} against {base.value:g} is {wanted}, printed {change:+g}{unit}"
            sure = CONTRADICTION if stated or len(table.rows) == 2 else SUSPICIOUS
            told = bases[-1].who if sure == CONTRADICTION else "any row that could be its baseline"
            text = f"{row.who}: the change of {column.header} does not follow from {told}"
            cells = dict.fromkeys([(printed_in.index, True), (column.index, True)])
            own = [(row, table.columns[index]) for index, _ in cells]
            yield finding("change", sure, text, computed, table, *own, (bases[-1], column))


def _claims(
    table: Table, row: Row, changes: Sequence[Column]
) -> Iterator[tuple[Column, Figure, float, float, tuple[str, ...], Column]]:
    """Changes printed in a row: of which column, its figure, the change, half its last digit, what it is."""
    for index, figure in row.figures.items():
        if figure.change is not None:
            column = table.columns[index]
            yield column, figure, figure.change, figure.change_step, (figure.ratio,), column
    for column in changes:
        printed = row.figures.get(column.index)
        of = [c for c in table.of(column.name) if c.index in row.figures and c.part == column.part]
        of = [c for c in of if column.unit in ("", c.unit)]
        if printed is None or len(of) != 1:
            continue
        step = (printed.high - printed.low) / 2
        ratio = printed.ratio or column.ratio
        ratios = (ratio,) if ratio else ("absolute", "percent", "factor")
        yield of[0], row.figures[of[0].index], printed.value, step, ratios, column


def _change(base: float, now: float, ratio: str, kind: str) -> float:
    if ratio == "factor":
        return (now / base if HIGHER[kind] else base / now) if base and now else 0.0
    return 100 * (now / base - 1) if ratio == "percent" else now - base


def _gives(base: Figure, now: Figure, change: float, step: float, ratio: str, kind: str) -> bool:
    """Whether rounding allows the change; a saving is often printed without its sign."""
    ends = [_change(b, n, ratio, kind) for b in (base.low, base.high) for n in (now.low, now.high)]
    # Cut off or rounded: a whole last digit.
    slack = 2 * step + 1e-9
    signs = (change,) if change < 0 or ratio == "factor" else (change, -change)
    if ratio == "factor" and not HIGHER[kind] and change > 0:
        # "0.5x" of a cost is half of it, as "2x" less is.
        share = [n / b for b in (base.low, base.high) for n in (now.low, now.high) if b]
        if share and min(share) - slack <= change <= max(share) + slack:
            return True
    return any(min(ends) - slack <= one <= max(ends) + slack for one in signs)


def _sums(table: Table) -> Iterator[Finding]:
    for columns in table.additive("cost", "params", "latency"):
        kind = columns[0].kind
        parts = [c for c in columns if c.part not in ("", "total")]
        totals = [c for c in columns if c.part == "total"] or [c for c in columns if not c.part]
        if len(totals) != 1 or not parts:
            continue
        total = totals[0]
        sums = []
        for row in table.rows:
            own = [row.figures[c.index] for c in parts if c.index in row.figures]
            whole = row.figures.get(total.index)
            if whole is None or len(own) != len(parts) or whole.value <= 0:
                continue
            low, high = sum(f.low for f in own), sum(f.high for f in own)
            slack = SUM_SLACK * whole.value
            meets = low - slack <= whole.high and whole.low <= high + slack
            sums.append((row, whole, sum(f.value for f in own), meets, low > whole.high + slack))
        whole_rows = sum(meets for *_, meets, _ in sums)
        complete = whole_rows >= 2 and whole_rows > len(sums) / 2
        for row, whole, added, meets, over in sums:
            if meets or not (over or complete):
                continue
            said = "more" if over else "less"
            text = f"{row.who}: the parts of {total.header} come to {said} than it"
            computed = f"{' + '.join(row.texts[c.index] for c in parts)} = {added:g}, printed {whole.value:g}"
            cells = [(row, c) for c in (*parts, total)]
            sure = CONTRADICTION if over and kind != "latency" else SUSPICIOUS
            yield finding("sum", sure, text, computed, table, *cells)


def _best(table: Table) -> Iterator[Finding]:
    for column in table.of(*HIGHER):
        rows = [row for row in table.rows if column.index in row.figures]
        marked = [row for row in rows if row.figures[column.index].marked]
        if not marked or len(marked) > max(1, len(rows) // 3):
            continue
        higher = HIGHER[column.kind] and "err" not in column.name
        for row in marked:
            # A row wholly in bold may be the authors' own.
            whole = all(f.marked for f in row.figures.values()) and len(row.figures) > 1
            own = row.figures[column.index]
            better = [r for r in rows if _betters(r.figures[column.index], own, higher)]
            if better:
                other = (max if higher else min)(better, key=lambda r: r.figures[column.index].value)
                value = other.figures[column.index].value
                text = f"{row.who}: {column.header} is in bold, {other.who}'s is better"
                text += "; the whole row is in bold, which may mark something else" if whole else ""
                computed = f"{value:g} against {own.value:g}"
                sure = UNKNOWN if whole else SUSPICIOUS
                yield finding("best", sure, text, computed, table, (row, column), (other, column))


def _betters(other: Figure, own: Figure, higher: bool) -> bool:
    return other.low >= own.high if higher else other.high <= own.low


def _repeats(tables: Sequence[Table]) -> Iterator[Finding]:
    seen: dict[tuple[Any, ...], tuple[Table, Row, Column]] = {}
    labels = Counter(tuple(sorted(filter(None, row.label))) for table in tables for row in table.rows)
    whole: dict[tuple[Any, ...], tuple[Table, Row, Column]] = {}
    for table in tables:
        has_model = any(True for _ in table.of("model"))
        sames = [column.same_figure for column in table.columns]
        for row in table.rows if has_model else ():
            label = tuple(sorted(filter(None, row.label)))
            if labels[label] == 1:
                continue
            for index, figure in row.figures.items():
                column = table.columns[index]
                if column.kind == "change":
                    continue
                # Other tables may be of other data: a metric is looked for within its own.
                within = column.kind == "metric" or _BACKBONE.fullmatch(row.model)
                own = (table.source, table.number) if within else ()
                if column.kind == "params" and not own and row.who != row.model:
                    yield from _other_data(whole, table, row, column)
                key = (label, sames[index], table.shared(row, column), own)
                before = seen.setdefault(key, (table, row, column))
                if before[1] is row:
                    continue
                other = before[1].figures[before[2].index]
                if _apart(other, figure):
                    if before[0] is table and _of_something_else(before[1], row):
                        continue
                    text = f"{row.who}: {column.header} is printed twice, differently"
                    computed = f"{other.value:g} and {figure.value:g}"
                    places = (place(before[0], before[1], before[2]), place(table, row, column))
                    where = (table.source, table.number)
                    sized = table.context(row, column, "size") is not None
                    same = column.kind == "params" or (column.kind == "cost" and sized)
                    sure = CONTRADICTION if same else SUSPICIOUS
                    yield Finding("repeat", LEVEL, sure, text, computed, places, where)


def _apart(one: Figure, other: Figure) -> bool:
    return other.high < one.low or one.high < other.low


def _of_something_else(one: Row, other: Row) -> bool:
    """Whether rows of one name differ in so many figures that they are of settings that have no column."""
    shared = [(one.figures[index], figure) for index, figure in other.figures.items() if index in one.figures]
    differing = sum(_apart(a, b) for a, b in shared)
    return differing > 1 and differing > len(shared) / 2


def _other_data(
    seen: dict[tuple[Any, ...], tuple[Table, Row, Column]], table: Table, row: Row, column: Column
) -> Iterator[Finding]:
    """Parameters of one model on one backbone, printed for two data sets."""
    figure = row.figures[column.index]
    first, before, of = seen.setdefault((row.who.lower(), column.part), (table, row, column))
    other = before.figures[of.index]
    if before is row or min(figure.low, other.low) <= 0:
        return
    ratio = max(other.low / figure.high, figure.low / other.high)
    data = [t.context(r, c, "dataset") for t, r, c in ((first, before, of), (table, row, column))]
    if ratio > OTHER_HEAD and data[0] != data[1]:
        text = f"{row.who}: {column.header} of {data[0]} and {data[1]} differ by more than a head's classes"
        places = (place(first, before, of), place(table, row, column))
        computed = f"{other.value:g} and {figure.value:g}"
        yield Finding("repeat", LEVEL, SUSPICIOUS, text, computed, places, (table.source, table.number))
