"""The published figures as data, and what each of them should be measured with."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from segmeter.harness.inputs.sizes import Size
from segmeter.harness.models.spec import ModelSpec, model_spec
from segmeter.harness.published.tables import PRO_SCALE, published_rows
from segmeter.words import nearest

FAMILY = ("m2f", "lite-m2f", "rt-m2f", "pro-scale")
TABLES = range(1, 8)
CLASSES = {"coco": 133, "cityscapes": 19}
METRICS = {"gflops_encoder": "encoder", "gflops_total": "total"}

# The paper's COCO encoder figures come from one image each, and not always the same one: these are what
# photos of 640x480 and of 640x427 pixels become.
COCO_ENCODER_SIZES: tuple[Size, ...] = ((800, 1088), (800, 1216))
CITYSCAPES_SIZE: Size = (1024, 2048)


@dataclass(frozen=True)
class PublishedCell:
    """One printed figure of the PRO-SCALE paper.

    Attributes:
        table, row: where it stands; rows count from 1 without the header.
        model, stages, modifier, backbone, dataset: the row's model as the paper labels it.
        what: "encoder" or "total".
        printed: the figure as printed, e.g. "055.14".
        value: the same as a number, GMACs (printed as "GFLOPs").
    """

    table: int
    row: int
    model: str
    stages: str
    modifier: str
    backbone: str
    dataset: str
    what: str
    printed: str
    value: float

    @property
    def step(self) -> float:
        """One unit of the last digit that carries information, GMACs.

        Totals are printed to 0.1 (with a trailing zero), encoder figures to 0.01, but from 100 on to 1.
        """
        if self.what == "total":
            return 0.1
        return 1.0 if self.value >= 100 else 0.01

    @property
    def label(self) -> str:
        """The row's model in a few words."""
        stages = f" ({self.stages})" if self.stages else ""
        return f"{self.model}{stages} {self.modifier}".strip()


def family_cells(table: int | None = None) -> list[PublishedCell]:
    """GFLOPs cells of tables 1 to 7 whose model is of the M2F family, in the paper's order.

    Raises:
        ValueError: a table that is not 1 to 7.
    """
    if table is not None and table not in TABLES:
        raise ValueError(f"table must be from {TABLES[0]} to {TABLES[-1]}, got {table}")
    tables = TABLES if table is None else (table,)
    return [cell for cell in gflops_cells(tables) if cell.model in FAMILY]


def gflops_cells(tables: Collection[int]) -> list[PublishedCell]:
    """GFLOPs cells of these tables of the PRO-SCALE paper, of every system, in the paper's order."""
    return [
        PublishedCell(
            table=row.table,
            row=row.row,
            model=row.model,
            stages=row.variant,
            modifier=row.modifier,
            backbone=row.backbone,
            dataset=row.dataset,
            what=METRICS[row.metric],
            printed=row.printed.replace(" ", ""),
            value=row.value,
        )
        for row in published_rows()
        if row.paper == PRO_SCALE and row.metric in METRICS and row.table in tables
    ]


def spec_of(cell: PublishedCell) -> ModelSpec | None:
    """The model a cell's label describes, or None where no encoder here has that structure.

    Only Table 3's case C_1 ("completely remove s_1") is none of the encoders' options.
    """
    options: dict[str, Any] = {}
    if cell.stages:
        options["stages"] = tuple(int(p) for p in cell.stages.split(","))
    if cell.modifier == "+lpe":
        options["pixel_embedding"] = "lpe"
    elif cell.modifier == "+s1":
        options["pixel_embedding"] = "conv"
    elif cell.modifier:
        return None
    return model_spec(cell.model, cell.backbone, num_classes=CLASSES[cell.dataset], **options)


@dataclass(frozen=True)
class Preset:
    """A row of the paper as a model one can name.

    Attributes:
        model: as :func:`harness.models.spec.parse_model` reads it.
        dataset: "coco" or "cityscapes".
        source: the table and row it stands in first.
    """

    model: str
    dataset: str
    source: str


def presets() -> dict[str, Preset]:
    """The paper's rows under short names, e.g. "table2.4"; each model once for each data set."""
    found: dict[str, Preset] = {}
    seen: set[tuple[str, str]] = set()
    for cell in family_cells():
        spec = spec_of(cell)
        if spec is None or (spec.text, cell.dataset) in seen:
            continue
        seen.add((spec.text, cell.dataset))
        where = f"PRO-SCALE, Table {cell.table}, row {cell.row}"
        found[f"table{cell.table}.{cell.row}"] = Preset(spec.text, cell.dataset, where)
    return found


def resolve_preset(text: str | None) -> str | None:
    """A preset's model for its name ("table2.4"); any other text as it is.

    Raises:
        ValueError: a name like a preset's that is none.
    """
    if text is None or not re.fullmatch(r"table\d+(\.\d+)?", text.strip()):
        return text
    found = presets()
    if text.strip() not in found:
        raise ValueError(f"unknown preset {text!r}{nearest(text, list(found))}")
    return found[text.strip()].model
