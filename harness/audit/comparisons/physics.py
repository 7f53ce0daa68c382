"""Level 2: what no machine and no model can do."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from segmeter.harness.audit.comparisons.comparability import written
from segmeter.harness.audit.comparisons.devices import DEVICES, peak
from segmeter.harness.audit.comparisons.table import (
    CONTRADICTION,
    SUSPICIOUS,
    Column,
    Finding,
    Row,
    Table,
    place,
)

LEVEL = "physics"
RULES = {
    "peak": "operations a second above the device's peak at that precision",
    "memory": "memory below that of the parameters, or above that of any machine",
    "pixels": "cost that does not grow with the pixels: about as much at least, as their square at most",
    "part": "a part that saves more than the whole does",
}
# Winograd's F(4x4, 3x3) does a 3x3 convolution with a quarter of the products (Lavin and Gray, CVPR 2016): no
# machine computes more than four times its peak of counted work.
FEWEST_PRODUCTS = 4
BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
# Work of fixed size (queries, classes) does not grow; all else grows at least with the pixels.
LEAST_GROWTH = 0.7
# MB: eight devices of 288 GB, the most that one has (NVIDIA, Blackwell Ultra data sheet), and room to spare.
MOST_MEMORY = 2_500_000
_BY_NAME = {device.name: device for device in DEVICES}


def physics(tables: Sequence[Table]) -> Iterator[Finding]:
    """All findings of this level."""
    for table in tables:
        for row in table.rows:
            yield from _peak(table, row)
            yield from _memory(table, row)
        for column in table.of("memory"):
            yield from _too_much_memory(table, column)
        for column in table.of("cost"):
            yield from _pixels(table, column)
        yield from _part(table)


def _finding(
    rule: str, sure: str, text: str, arithmetic: str, table: Table, *cells: tuple[Row, Column]
) -> Finding:
    places = tuple(place(table, row, column) for row, column in cells)
    return Finding(rule, LEVEL, sure, text, arithmetic, places, (table.source, table.number))


def _peak(table: Table, row: Row) -> Iterator[Finding]:
    for cost in table.of("cost"):
        work = row.figures.get(cost.index)
        if work is None or cost.part not in ("", "total") or work.low <= 0:
            continue
        for speed in table.of("fps", "latency"):
            figure = row.figures.get(speed.index)
            if figure is None or figure.low <= 0 or speed.part not in ("", "total"):
                continue
            a, b = table.context(row, cost, "size"), table.context(row, speed, "size")
            device = _BY_NAME.get(table.context(row, speed, "device") or "")
            if device is None or (a and b and a != b):
                continue
            batch = table.context(row, speed, "batch")
            if speed.kind == "latency" and not isinstance(batch, int):
                batch = 1
            rate = figure.low if speed.kind == "fps" else 1000 * (batch or 1) / figure.high
            # A header that says FLOPs may mean MACs: the lower reading.
            each = 2 if table.context(row, cost, "unit") == "MACs" else 1
            dtype = table.context(row, speed, "dtype")
            most, at = peak(device, dtype)
            reached = each * work.low * rate / 1000
            if not most or reached <= most:
                continue
            sure = CONTRADICTION if reached > FEWEST_PRODUCTS * most else SUSPICIOUS
            computed = (
                f"{each} x {work.low:g} G x {rate:.4g} /s = {reached:.4g} TFLOP/s, the peak is {most:g} "
                f"({at}; {device.source})"
            )
            text = f"{row.who}: cost and speed come to {reached / most:.3g} times the peak of {device.name}"
            yield _finding("peak", sure, text, computed, table, (row, cost), (row, speed))


def _too_much_memory(table: Table, column: Column) -> Iterator[Finding]:
    """Figures that no machine has: the header's unit is not theirs."""
    rows = [r for r in table.rows if column.index in r.figures and r.figures[column.index].low > MOST_MEMORY]
    if rows:
        value = rows[0].figures[column.index].value
        text = (
            f"{len(rows)} figures of {column.header!r} are more than any server's devices have, "
            f"{rows[0].who} first"
        )
        computed = f"{value / 1e3:g} GB by the header; a thousandth of it is {value / 1e6:g} GB"
        yield _finding("memory", SUSPICIOUS, text, computed, table, *((row, column) for row in rows[:20]))


def _memory(table: Table, row: Row) -> Iterator[Finding]:
    for column in table.of("memory"):
        for params in table.of("params"):
            memory, weights = row.figures.get(column.index), row.figures.get(params.index)
            if memory is None or weights is None or params.part not in ("", "total"):
                continue
            dtype = table.context(row, column, "dtype")
            each = BYTES.get(dtype or "", 1)
            least = weights.low * each
            # A header's MB may be MiB.
            if memory.high * 1.074 >= least or least <= 0:
                continue
            sure = CONTRADICTION if dtype in BYTES else SUSPICIOUS
            computed = (
                f"{weights.value:g} M x {each} bytes = {weights.value * each:g} MB, printed {memory.value:g}"
            )
            text = f"{row.who}: the parameters alone take more than the memory printed"
            yield _finding("memory", sure, text, computed, table, (row, column), (row, params))


def _pixels(table: Table, column: Column) -> Iterator[Finding]:
    groups: dict[Any, dict[tuple[int, int], Row]] = defaultdict(dict)
    size_columns = [c.index for c in table.of("size", "batch", "device", "dtype", "source")]
    for row in table.rows:
        size = table.context(row, column, "size")
        figure = row.figures.get(column.index)
        if not isinstance(size, tuple) or figure is None or figure.low <= 0:
            continue
        rest = tuple(
            text.lower()
            for c, text in zip(table.columns, row.texts, strict=True)
            if c.index not in size_columns
            and c.kind in ("model", "backbone", "form", "counter", "dataset", "other")
        )
        groups[rest].setdefault(size, row)
    for group in groups.values():
        sizes = sorted(group, key=lambda s: s[0] * s[1])
        for small, large in pairwise(sizes):
            pixels = large[0] * large[1] / (small[0] * small[1])
            a, b = group[small].figures[column.index], group[large].figures[column.index]
            least, most = b.low / a.high, b.high / a.low
            if pixels <= 1.0 or (most >= LEAST_GROWTH * pixels and least <= pixels**2):
                continue
            less = most < 1
            sure = CONTRADICTION if less or least > pixels**2 else SUSPICIOUS
            computed = f"{b.value:g} / {a.value:g} = {b.value / a.value:.3g}, pixels {pixels:.3g}"
            grown = f"from {written(small)} to {written(large)}"
            text = f"{group[large].who}: cost does not grow with the pixels {grown} as it must"
            yield _finding(
                "pixels", sure, text, computed, table, (group[small], column), (group[large], column)
            )


def _part(table: Table) -> Iterator[Finding]:
    """Against a baseline row: what a part saves, the whole saves, unless another part became dearer."""
    stated = next(table.of("baseline"), None)
    fixed = str(table.header.get("baseline", "")).lower()
    named = {row.model.lower(): row for row in reversed(table.rows)}
    for columns in table.additive("cost", "params"):
        totals = [c for c in columns if c.part == "total"] or [c for c in columns if not c.part]
        if len(totals) != 1:
            continue
        for row in table.rows:
            name = row.texts[stated.index].lower() if stated else fixed
            base = named.get(name)
            if base is None or base is row:
                continue
            whole, before = row.figures.get(totals[0].index), base.figures.get(totals[0].index)
            for part in columns:
                now, old = row.figures.get(part.index), base.figures.get(part.index)
                if part.part in ("", "total") or None in (whole, before, now, old):
                    continue
                assert whole and before and now and old
                saved, in_all = old.low - now.high, before.high - whole.low
                if saved <= in_all + 1e-9 or saved <= 0:
                    continue
                others = [
                    c for c in columns if c is not part and c is not totals[0] and c.index in row.figures
                ]
                dearer = any(
                    c.index in base.figures and row.figures[c.index].high > base.figures[c.index].low
                    for c in others
                )
                if dearer:
                    continue
                computed = (
                    f"{old.value:g} - {now.value:g} = {old.value - now.value:g}, in all "
                    f"{before.value:g} - {whole.value:g} = {before.value - whole.value:g}"
                )
                text = f"{row.who}: {part.header} saves more than {totals[0].header} against {base.who}"
                cells = [(r, c) for c in (part, totals[0]) for r in (row, base)]
                yield _finding("part", SUSPICIOUS, text, computed, table, *cells)
