"""Every trade-off point there is: what the papers print, what is measured, what records and the user add."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize, Size, format_size
from segmeter.harness.models import ModelSpec, spec_of
from segmeter.harness.published import (
    COCO_ENCODER_SIZES,
    MODIFIERS,
    PRO_SCALE,
    TITLES,
    PublishedRow,
    published_rows,
)
from segmeter.harness.tradeoff.counted import counted_point
from segmeter.harness.tradeoff.own import own_points
from segmeter.harness.tradeoff.point import COSTS, FIGURES, QUALITIES, UNIT, Point
from segmeter.harness.tradeoff.records import read_records, record_points

# Table 8 repeats rows of Table 1 under the names of the detectors.
REPEATING_TABLES = {(PRO_SCALE, 8)}
# Open-vocabulary systems: Table 10 does not say for which input, and its figures contradict its caption.
UNKNOWN_INPUTS = {(PRO_SCALE, 10)}
BASES = ("encoder_basis", "total_basis", "speed_basis")
_AXES = {"gflops_encoder": "gflops-encoder", "gflops_total": "gflops-total", "fps": "fps"}
# How the data mark a cell that contradicts another one.
_CONTRADICTION = re.compile(r"README O\d+: ")


def all_points(records_dir: Path | None = None, add: Path | None = None) -> list[Point]:
    """Every point there is: published rows, measured counts, records on disk, the user's own.

    Args:
        records_dir: folder of timing and quality records, searched with its subfolders; damaged files are
            passed over (:func:`harness.tradeoff.records.read_records` names them).
        add: a CSV file of the user's own points; see :func:`harness.tradeoff.own.own_points`.

    Raises:
        ValueError: damaged published or own data; file, line and column named.
        OSError: a file or folder that is not there.
    """
    # The user's file first: what is wrong with it is told at once.
    own = own_points(add) if add is not None else []
    published = published_points()
    found = [*published, *measured_points(published)]
    if records_dir is not None:
        found += record_points(read_records(records_dir), published)
    return [*found, *own]


def published_points() -> list[Point]:
    """Published rows as points.

    The PRO-SCALE paper prints a model in several tables: one that gives one more figure of a known point adds
    to it, one that gives another figure for the same thing makes a point of its own.
    """
    found: list[Point] = []
    for rows in _table_rows():
        new = _published(rows)
        # Only the PRO-SCALE paper prints one model in several tables; other sources train one for each.
        alike = [p for p in found if _same_system(p, new)] if new.paper == PRO_SCALE else []
        same = next((p for p in alike if _compatible(p, new)), None)
        if same is None:
            if alike:
                new = replace(new, note=_joined(f"differs from {alike[0].reference}", new.note))
            found.append(new)
            continue
        found[found.index(same)] = _merged(same, new)
    return found


def _merged(same: Point, new: Point) -> Point:
    """One point of two that agree: what the first lacks is the second's."""
    known: dict[str, Any] = {key: getattr(same, key) or getattr(new, key) for key in ("size", *BASES)}
    figures: dict[str, Any] = {
        key: getattr(new, key) if value is None else value for key, value in same.figures.items()
    }
    note = _joined(same.note, *(n for n in [new.note] if n not in same.note))
    reference = f"{same.reference}; {new.reference.partition(', ')[2]}"
    return replace(same, note=note, reference=reference, **known, **figures)


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def _table_rows() -> Iterator[list[PublishedRow]]:
    """The figures of one row of a table for one data set."""
    groups: dict[tuple[str, int, int, str, str], list[PublishedRow]] = {}
    for row in published_rows():
        if row.metric in FIGURES and row.dataset and (row.paper, row.table) not in REPEATING_TABLES:
            key = (row.paper, row.table, row.row, row.dataset, row.backbone)
            groups.setdefault(key, []).append(row)
    yield from groups.values()


def _published(rows: Sequence[PublishedRow]) -> Point:
    row = rows[0]
    figures: dict[str, Any] = {r.metric: r.value for r in rows}
    spec = spec_of(row)
    size = _printed_size(spec, row, figures.get("gflops_encoder"))
    where = TITLES.get(row.paper, row.paper)
    known = (row.paper, row.table) not in UNKNOWN_INPUTS
    # COCO's totals are means over images, whatever one input the encoder's figure is from.
    total = "mean over images" if row.dataset == "coco" else size
    return Point(
        label=_label(row, spec),
        model=spec.text if spec else "",
        encoder=row.model,
        backbone=row.backbone,
        dataset=row.dataset,
        source="published",
        paper=row.paper,
        reference=f"{where}, {row.place}",
        command=_printed_command(row, figures),
        size=size,
        encoder_basis=size if known and "gflops_encoder" in figures else "",
        total_basis=total if known and "gflops_total" in figures else "",
        speed_basis=f"published by {where}, {row.image_size}".rstrip(", ") if "fps" in figures else "",
        convention=UNIT,
        note="; ".join(
            dict.fromkeys(_CONTRADICTION.sub("", r.note) for r in rows if _CONTRADICTION.match(r.note))
        ),
        **figures,
    )


def _printed_command(row: PublishedRow, figures: Mapping[str, float | None]) -> str:
    """What shows a printed row: its table's audit, or a chart that it stands in; "" where neither does."""
    cost = next((_AXES[name] for name in COSTS if name in figures), None)
    quality = next((name for name in QUALITIES if name in figures), None)
    if row.paper == PRO_SCALE and cost:
        return f"segmeter audit --table {row.table}"
    if not cost or not quality:
        return ""
    return f"segmeter plot pareto --x {cost} --y {quality} --dataset {row.dataset} --paper {row.paper} --json"


def _label(row: PublishedRow, spec: ModelSpec | None) -> str:
    if spec is not None:
        weights = f" ({row.modifier})" if row.modifier.startswith("in21k") else ""
        return spec.encoder_title + weights
    title = TITLES.get(row.model, row.model)
    variant = f"({row.variant})" if row.variant else ""
    return " ".join(part for part in (title, MODIFIERS.get(row.modifier, row.modifier), variant) if part)


def _same_system(a: Point, b: Point) -> bool:
    return all(
        getattr(a, key) == getattr(b, key) for key in ("paper", "label", "model", "backbone", "dataset")
    )


def _compatible(a: Point, b: Point) -> bool:
    theirs = b.figures
    return all(None in (value, theirs[key]) or value == theirs[key] for key, value in a.figures.items())


def _printed_size(spec: ModelSpec | None, row: PublishedRow, encoder: float | None) -> str:
    """The padded size that a row's encoder figure belongs to; on COCO it is solved for, "" where unknown."""
    if row.dataset != "coco":
        return row.image_size
    if spec is None or encoder is None:
        return ""

    def off(size: Size) -> float:
        figures = count_model(spec, ImageSize(size, size), UNIT).figures
        return abs(figures.of("encoder") / 1e9 - encoder)

    return format_size(min(COCO_ENCODER_SIZES, key=off))


def measured_points(published: Sequence[Point]) -> list[Point]:
    """The published points that print a cost, with their GFLOPs measured at one size for each data set."""
    found: dict[tuple[str, ...], Point] = {}
    for p in published:
        if not p.model or all(p.figures[key] is None for key in COSTS):
            continue
        key = (p.paper, p.model, p.dataset, *(str(v) for v in p.qualities.values()))
        if key in found or any(_covers(f, p) for f in found.values()):
            continue
        found[key] = replace(
            counted_point(p.model, p.dataset),
            **p.qualities,
            label=p.label,
            paper=p.paper,
            reference=p.reference,
            note="GFLOPs measured, quality as printed",
        )
    return list(found.values())


def _covers(a: Point, b: Point) -> bool:
    """Whether ``a`` is the same model with the same qualities, and perhaps more of them."""
    same = all(getattr(a, key) == getattr(b, key) for key in ("paper", "model", "dataset"))
    return same and all(value in (None, a.qualities[key]) for key, value in b.qualities.items())
