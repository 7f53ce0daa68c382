"""The user's own trade-off points, from a CSV file.

Columns: ``label`` (needed), ``encoder``, ``backbone``, ``dataset``, ``gflops_encoder``, ``gflops_total``,
``fps``, ``latency_ms``, ``pq``, ``miou``, ``ap``, ``size``, ``convention``, ``note``; and for an error bar
``FIGURE_low`` and ``FIGURE_high``, both or neither, with any text in ``spread`` to say what they are. An
empty cell is a missing figure.
"""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmeter.files import read_bytes
from segmeter.harness.published import DATASETS
from segmeter.harness.tradeoff.point import FIGURES, OWN, QUALITIES, Interval, Point
from segmeter.words import nearest

# A million points: no figure shows them.
MAX_BYTES = 1 << 27
TEXTS = ("label", "encoder", "backbone", "dataset", "size", "convention", "note", "spread")
BOUNDS = tuple(f"{figure}_{end}" for figure in FIGURES for end in ("low", "high"))
COLUMNS = (*TEXTS, *FIGURES, *BOUNDS)


def own_points(path: Path) -> list[Point]:
    """Read the user's own points.

    Raises:
        ValueError: a file that cannot be read or is not CSV, an unknown column, a bad cell; file, line and
            column named.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise ValueError(f"{path} is empty; expected a line of column names, then a row for each point")
        _check_header(header, path)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise ValueError(f"{where}: expected {len(header)} columns, got {len(cells)}")
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            found.append(_point(row, where, path))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from None
    if not found:
        raise ValueError(f"{path} holds no points, only a header; expected a row for each")
    return found


def _check_header(header: list[str], path: Path) -> None:
    for name in header:
        if name not in COLUMNS:
            raise ValueError(f"{path}, line 1: unknown column {name!r}{nearest(name, COLUMNS)}")
        if header.count(name) > 1:
            raise ValueError(f"{path}, line 1: column {name!r} stands twice")
    if "label" not in header:
        raise ValueError(f"{path}, line 1: column 'label' is missing")
    if not set(header) & set(FIGURES):
        raise ValueError(f"{path}, line 1: no figure; expected at least one of {', '.join(FIGURES)}")


def _point(row: Mapping[str, str], where: str, path: Path) -> Point:
    if not row["label"]:
        raise ValueError(f"{where}, column 'label': is empty")
    dataset = row.get("dataset", "")
    if dataset not in DATASETS:
        raise ValueError(f"{where}, column 'dataset': {dataset!r} is unknown{nearest(dataset, DATASETS)}")
    figures: dict[str, Any] = {name: _number(row.get(name, ""), name, where) for name in FIGURES}
    spread: dict[str, Interval] = {}
    for name in FIGURES:
        ends = [_number(row.get(f"{name}_{end}", ""), f"{name}_{end}", where) for end in ("low", "high")]
        if ends == [None, None]:
            continue
        low, high = ends
        value = figures[name]
        if low is None or high is None or value is None or not low <= value <= high:
            raise ValueError(
                f"{where}, column '{name}_low': an error bar needs {name}_low <= {name} <= {name}_high"
            )
        spread[name] = {"low": low, "high": high, "kind": row.get("spread", "") or "as given"}
    size = row.get("size", "")
    return Point(
        label=row["label"],
        encoder=row.get("encoder", "") or row["label"],
        backbone=row.get("backbone", ""),
        dataset=dataset,
        source="own",
        reference=where,
        command=f"segmeter plot pareto --add {path}",
        size=size,
        encoder_basis=size or OWN,
        total_basis=size or OWN,
        speed_basis=OWN,
        convention=row.get("convention", ""),
        note=row.get("note", ""),
        spread=spread or None,
        **figures,
    )


def _number(text: str, column: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    most = 100.0 if column.split("_")[0] in QUALITIES else math.inf
    if not math.isfinite(value) or not 0 <= value <= most:
        kind = "a percentage from 0 to 100" if most == 100 else "a number from 0"
        raise ValueError(f"{where}, column {column!r}: expected {kind}, got {text!r}")
    return value
