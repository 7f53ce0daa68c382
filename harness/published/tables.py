"""The papers' tables as data: one typed row for each printed figure, checked when it is read.

``results/published/proscale.csv`` holds tables 1 to 16 of the PRO-SCALE paper, ``others.csv`` the published
rows of other systems, ``segformer.csv`` SegFormer's GFLOPs, ``claims.csv`` what the PRO-SCALE paper's text
and captions say about its tables.
``docs/published.md`` tells where each table was read.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from segmeter.words import nearest

PRO_SCALE = "pro-scale"
# The start of a table's title in others.csv -> whose figures these are.
PAPERS = {
    "tue-mps+algm-segmenter": "algm",
    "002_7d6cc50ea1f40e73.txt": "algm",
    "KieDani+SegformerPlusPlus": "segformer++",
    "004_21c886843ca04dce.txt": "segformer++",
    "SegFormer (arXiv 2105.15203)": "segformer",
    "hujiecpp+YOSO": "yoso",
    "IDEA-Research+MaskDINO": "maskdino",
    "facebookresearch+Mask2Former": "m2f",
    "NiccoloCavagnero+PEM": "pem",
    "003_f0e52bc68294e19c.txt": "step",
    "scitepress.org": "step",
}
COLUMNS = (
    "table",
    "row_in_table",
    "block",
    "model",
    "variant",
    "modifier",
    "backbone",
    "dataset",
    "image_size",
    "metric",
    "printed",
    "value",
    "pct_decrement",
    "note",
)
METRICS = {
    "pq": "panoptic quality",
    "pq_th": "panoptic quality, things",
    "pq_st": "panoptic quality, stuff",
    "miou": "mean intersection over union, %",
    "ap": "average precision of masks in panoptic output",
    "mask_ap": "average precision of masks",
    "box_ap": "average precision of boxes",
    "gflops_total": "GFLOPs of the whole model as printed (multiply-accumulates)",
    "gflops_encoder": "GFLOPs of the encoder as printed (multiply-accumulates)",
    "fps": "images a second",
    "im_per_sec_bs32": "images a second at batch 32",
    "params_m": "parameters, millions",
    "speedup": "times as fast",
    "train_memory_gb": "memory in training, GB",
    "pck_0.1": "percentage of correct keypoints at 0.1",
    "pck_0.05": "percentage of correct keypoints at 0.05",
    "token_reduction_x": "times fewer tokens",
    "gflops_reduction_x": "times fewer GFLOPs",
    "throughput_gain_x": "times the throughput",
    "max_accuracy_drop_pct": "largest loss of accuracy, %",
    "tokens_halted_pct": "share of tokens that stop early, %",
    "throughput_gain_pct": "gain of throughput, %",
    "miou_gain_points": "gain of mIoU, points",
    "speedup_pct": "gain of speed, %",
}
DATASETS = ("coco", "cityscapes", "ade20k", "pascal_context", "mapillary", "jbd", "coco_pose", "")
FILES = ("proscale.csv", "others.csv", "segformer.csv")


@dataclass(frozen=True)
class PublishedRow:
    """One printed figure.

    Attributes:
        paper: whose table it is, e.g. "pro-scale" or "pem".
        table: the paper's own number; for repositories and abstracts, counted from 1 as they are listed.
        title: where it stands, in words.
        row: counted from 1 without the header.
        model, variant, modifier: as printed, e.g. "pro-scale", "3,3,3", "+lpe"; "" where there is none.
        backbone, dataset: e.g. "swin-t", "coco"; "" where not printed.
        image_size: what the paper states, e.g. "1024x2048"; for COCO a resize rule, not a tensor's size.
        metric: a key of :data:`METRICS`.
        printed, value: the figure as printed ("055.14") and as a number.
        percent: the printed change against the table's reference, with its sign; None where none is printed.
        note: what a reader must know about this figure.
    """

    paper: str
    table: int
    title: str
    row: int
    block: str
    model: str
    variant: str
    modifier: str
    backbone: str
    dataset: str
    image_size: str
    metric: str
    printed: str
    value: float
    percent: float | None
    note: str

    @property
    def label(self) -> str:
        """The row's model in a few words, e.g. "pro-scale (3,3,3) +lpe"."""
        stages = f" ({self.variant})" if self.variant else ""
        return f"{self.model}{stages} {self.modifier}".strip()

    @property
    def place(self) -> str:
        """Where it stands, e.g. "Table 2, row 4"."""
        return f"Table {self.table}, row {self.row}"


@dataclass(frozen=True)
class Claim:
    """One sentence of the PRO-SCALE paper that its tables must bear out.

    Attributes:
        place: where it stands, e.g. "text on Table 3".
        quote: what it says, in short.
        kind: a key of :data:`CLAIM_KINDS`: how the figure follows from the tables.
        claimed: the figure it gives; for ``at_least`` and ``not_below`` a bound.
        cells: the cells it speaks of, each (table, row, dataset, metric).
        note: how sure the wording is; "" where it was read in the paper.
    """

    place: str
    quote: str
    kind: str
    claimed: float
    cells: tuple[tuple[int, int, str, str], ...]
    note: str = ""

    @property
    def told(self) -> str:
        """The quote in quotes; without them, and said so, where its wording is not the paper's."""
        return f"{self.quote} ({self.note})" if self.note else f'"{self.quote}"'


CLAIM_KINDS = {
    "value": "the first cell's figure",
    "percent": "change from the second cell to the first, in percent",
    "points": "the first cell less the second",
    "share": "the first cell's share of the second, in percent; counted on one input",
    "not_below": "the first cell less the second must not be below the figure",
    "lowest": "the first cell is the lowest of them",
    "reduction_at_least": "the reduction from the second cell to the first, in percent, must reach it",
}
CLAIM_COLUMNS = ("place", "quote", "kind", "claimed", "cells", "note")


def published_rows(folder: Path | None = None) -> list[PublishedRow]:
    """Every printed figure of the files, in their order.

    Args:
        folder: where the files are; the ones that ship with segmeter by default.

    Raises:
        ValueError: a damaged file; one line names the file, line and column.
        OSError: a file is missing.
    """
    return list(_shipped_rows() if folder is None else _read(folder))


def papers(rows: list[PublishedRow]) -> list[str]:
    """Whose tables these are, each once, in order."""
    return list(dict.fromkeys(row.paper for row in rows))


def find_paper(name: str) -> str:
    """A paper's name as the data write it.

    Raises:
        ValueError: no such paper; the nearest one is named.
    """
    known = papers(published_rows())
    if name.lower() not in known:
        raise ValueError(f"unknown paper {name!r}{nearest(name.lower(), known)}")
    return name.lower()


@lru_cache(maxsize=1)
def _shipped_rows() -> tuple[PublishedRow, ...]:
    return tuple(_read(None))


def _read(folder: Path | None) -> list[PublishedRow]:
    found: list[PublishedRow] = []
    numbers: dict[str, dict[str, int]] = {}
    for name in FILES:
        seen: dict[tuple[str, ...], int] = {}
        for where, row in _lines(name, COLUMNS, folder):
            key = tuple(row[c] for c in ("table", "row_in_table", "dataset", "metric"))
            if key in seen:
                raise where.error("metric", f"the same cell stands in line {seen[key]} already")
            seen[key] = where.line
            found.append(_row(where, row, numbers))
    return found


@dataclass(frozen=True)
class _Where:
    """A line of a data file, for error messages."""

    file: str
    line: int

    def error(self, column: str, what: str) -> ValueError:
        return ValueError(f"{self.file}, line {self.line}, column {column!r}: {what}")


def _lines(
    name: str, columns: tuple[str, ...], folder: Path | None
) -> Iterator[tuple[_Where, Mapping[str, str]]]:
    """Each data line of a file with its place, columns checked."""
    content = folder.joinpath(name) if folder else files("segmeter.results.published").joinpath(name)
    shown = str(content) if folder else f"results/published/{name}"
    try:
        text = content.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{shown}, line {line}: not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    if tuple(header) != columns:
        odd = next((c for c in header if c not in columns), None)
        missing = next((c for c in columns if c not in header), None)
        problem = f"column {missing!r} is missing" if missing else f"column {odd!r} is not expected here"
        if not missing and not odd:
            problem = "columns are not in the expected order"
        raise ValueError(f"{shown}, line 1: {problem}; expected {', '.join(columns)}")
    try:
        for fields in reader:
            where = _Where(shown, reader.line_num)
            if len(fields) != len(columns):
                column = columns[min(len(fields), len(columns) - 1)]
                raise where.error(column, f"expected {len(columns)} columns, got {len(fields)}")
            yield where, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{shown}, line {reader.line_num}: not CSV: {error}") from None


def _row(where: _Where, row: Mapping[str, str], numbers: dict[str, dict[str, int]]) -> PublishedRow:
    paper, table = _table(where, row["table"], numbers)
    if not row["model"]:
        raise where.error("model", "is empty")
    if row["metric"] not in METRICS:
        raise where.error("metric", f"{row['metric']!r} is unknown{nearest(row['metric'], list(METRICS))}")
    if row["dataset"] not in DATASETS:
        raise where.error("dataset", f"{row['dataset']!r} is unknown{nearest(row['dataset'], DATASETS)}")
    value = _number(where, "value", row["value"])
    digits = re.fullmatch(r"([-+]?[\d.]+)[GMx\xd7%\u2020\u2021]*", row["printed"].replace(" ", ""))
    if not digits or not math.isclose(_number(where, "printed", digits[1]), value, abs_tol=1e-9):
        raise where.error("printed", f"{row['printed']!r} is not the value {row['value']}")
    return PublishedRow(
        paper=paper,
        table=table,
        title=f"PRO-SCALE paper, Table {table}" if paper == PRO_SCALE else _title(row["table"]),
        row=int(_number(where, "row_in_table", row["row_in_table"], whole=True)),
        block=row["block"],
        model=row["model"],
        variant=row["variant"],
        modifier=row["modifier"],
        backbone=row["backbone"],
        dataset=row["dataset"],
        image_size=row["image_size"],
        metric=row["metric"],
        printed=row["printed"],
        value=value,
        percent=_number(where, "pct_decrement", row["pct_decrement"]) if row["pct_decrement"] else None,
        note=row["note"],
    )


def _table(where: _Where, text: str, numbers: dict[str, dict[str, int]]) -> tuple[str, int]:
    if text.isdecimal():
        return PRO_SCALE, int(_number(where, "table", text, whole=True))
    paper = next((paper for start, paper in PAPERS.items() if text.startswith(start)), None)
    if paper is None:
        raise where.error("table", f"{text!r} is neither a number nor a known source")
    known = numbers.setdefault(paper, {})
    return paper, known.setdefault(text, len(known) + 1)


def _title(text: str) -> str:
    """Where a table of another source stands, without the name of the file it was kept in."""
    return re.sub(r"^([\w-]+)\+([\w-]+/)", r"\1/\2", re.sub(r"^\d+_[0-9a-f]+\.txt: ", "", text))


def _number(where: _Where, column: str, text: str, whole: bool = False) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (whole and number < 1):
        kind = "a whole number from 1" if whole else "a number"
        raise where.error(column, f"expected {kind}, got {text!r}")
    return number


def claims(folder: Path | None = None) -> list[Claim]:
    """What the PRO-SCALE paper's text says about its tables.

    Raises:
        ValueError: a damaged file, or a claim on a cell that no table has; file, line, column named.
    """
    rows = published_rows(folder)
    cells = {(r.table, r.row, r.dataset, r.metric) for r in rows if r.paper == PRO_SCALE}
    found = []
    for where, row in _lines("claims.csv", CLAIM_COLUMNS, folder):
        if row["kind"] not in CLAIM_KINDS:
            raise where.error("kind", f"{row['kind']!r} is unknown{nearest(row['kind'], list(CLAIM_KINDS))}")
        named = []
        for text in row["cells"].split():
            match = re.fullmatch(r"(\d+)\.(\d+)/(\w+)/(\w+)", text)
            cell = (int(match[1]), int(match[2]), match[3], match[4]) if match else None
            if cell is None or cell not in cells:
                raise where.error("cells", f"{text!r} is not a cell TABLE.ROW/DATASET/METRIC of the tables")
            named.append(cell)
        needed = 1 if row["kind"] == "value" else 2
        if len(named) != needed and not (row["kind"] == "lowest" and len(named) > needed):
            raise where.error("cells", f"{row['kind']} needs {needed}, got {len(named)}")
        claimed = _number(where, "claimed", row["claimed"])
        found.append(Claim(row["place"], row["quote"], row["kind"], claimed, tuple(named), row["note"]))
    return found
