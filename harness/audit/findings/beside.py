"""Findings on rows beside each other: what is cheaper, what lost quality, what is of two models."""

from collections import defaultdict
from collections.abc import Sequence

from segmeter.harness.audit.findings.sentences import (
    Finding,
    backbone,
    dataset,
    finding,
    listed,
    model,
    once,
    place,
    system,
)
from segmeter.harness.published import METRIC_NAMES, PublishedRow

QUALITIES = ("pq", "miou", "ap")
# Points of a metric that a row loses to its baseline before it is told.
LOST = 2.0
OWN = "pro-scale"
BASELINE = "m2f"


def beside_findings(rows: Sequence[PublishedRow]) -> list[Finding]:
    """All findings of rows side by side; ``rows`` are those of the paper itself."""
    return [*_cheaper_rows(rows), *_quality_lost(rows), *_two_backbones(rows)]


def _blocks(rows: Sequence[PublishedRow]) -> dict[tuple[int, str], dict[int, dict[str, PublishedRow]]]:
    """(table, block) -> row number -> metric -> printed figure."""
    blocks: defaultdict[tuple[int, str], dict[int, dict[str, PublishedRow]]] = defaultdict(dict)
    for row in rows:
        blocks[row.table, row.block].setdefault(row.row, {})[row.metric] = row
    return blocks


def _cheaper_rows(rows: Sequence[PublishedRow]) -> list[Finding]:
    """Other systems that are printed with fewer GFLOPs than the paper's own rows."""
    sentences, tables = [], []
    for (table, _), block in _blocks(rows).items():
        totals = [row["gflops_total"] for row in block.values() if "gflops_total" in row]
        own = sorted((t for t in totals if t.model == OWN and not t.modifier), key=lambda t: t.value)
        others = [t for t in totals if t.model not in (OWN, BASELINE)]
        if len(own) < 2:
            continue
        dearest, cheapest = own[-1], own[0]
        below = [t for t in others if t.value < dearest.value]
        if not below:
            continue
        lowest = [t for t in below if t.value < cheapest.value]
        names = listed([f"{system(t)} ({t.value:.2f})" for t in below])
        verb = "is" if len(below) == 1 else "are"
        also = f"; {listed([system(t) for t in lowest])} also below its cheapest, {cheapest.value:.2f}"
        sentences.append(
            f"Table {table}, {backbone(dearest)} on {dataset(dearest)}: {names} {verb} below "
            f"{system(dearest)}'s {dearest.value:.2f} GFLOPs{also if lowest else ''}."
        )
        tables.append(table)
    return finding(
        "cheaper-rows",
        "Systems that are compared with cost less than the paper's own rows",
        sentences,
        tables,
    )


def _quality_lost(rows: Sequence[PublishedRow]) -> list[Finding]:
    """Metrics of each block's largest configuration that are points below the baseline's."""
    sentences, tables = [], []
    for (table, _), block in _blocks(rows).items():
        base = next(
            (r for r in block.values() if _first(r).model == BASELINE and not _first(r).modifier), None
        )
        own = [r for r in block.values() if _first(r).model == OWN and not _first(r).modifier]
        if base is None or not own:
            continue
        last = own[-1]
        for metric in QUALITIES:
            if metric in base and metric in last:
                lost = base[metric].value - last[metric].value
                if lost >= LOST:
                    sentences.append(
                        f"{place(last[metric])}, {model(last[metric])} on {dataset(last[metric])}: "
                        f"{METRIC_NAMES[metric]} {last[metric].value:.2f}, {lost:.2f} points or "
                        f"{100 * lost / base[metric].value:.1f} % below {system(base[metric])}'s "
                        f"{base[metric].value:.2f}."
                    )
                    tables.append(table)
    return finding(
        "quality-lost",
        f"The largest configuration loses {LOST:g} points or more of a metric to its baseline",
        once(sentences),
        tables,
    )


def _first(row: dict[str, PublishedRow]) -> PublishedRow:
    return next(iter(row.values()))


def _two_backbones(rows: Sequence[PublishedRow]) -> list[Finding]:
    """One printed row with the figures of two backbones."""
    by_row: defaultdict[tuple[int, int], list[PublishedRow]] = defaultdict(list)
    for row in rows:
        by_row[row.table, row.row].append(row)
    sentences, tables = [], []
    for (table, number), group in by_row.items():
        names = once(backbone(r) for r in group if r.backbone)
        if len(names) < 2:
            continue
        parts = []
        for name in names:
            own = [r for r in group if backbone(r) == name]
            parts.append(f"{listed([f'{METRIC_NAMES[r.metric]} {r.value:g}' for r in own])} of {name}")
        sentences.append(f"Table {table}, row {number}, {system(group[0])}: {' beside '.join(parts)}.")
        tables.append(table)
    return finding("two-backbones", "One row prints the figures of two backbones", sentences, tables)
