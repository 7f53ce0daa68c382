"""The published figures as data, and what each of them should be measured with."""

from collections.abc import Collection
from dataclasses import dataclass

from segmeter.harness.inputs import Size
from segmeter.harness.published.tables import PRO_SCALE, published_rows

FAMILY = ("m2f", "lite-m2f", "rt-m2f", "pro-scale")
TABLES = range(1, 8)
CLASSES = {"coco": 133, "cityscapes": 19}
# COCO totals that stand in the systems' own papers.
TAKEN_OVER = {("maskformer", "coco"), ("remax", "coco")}
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
        model, variant, modifier, backbone, dataset: the row's model as the paper labels it.
        what: "encoder" or "total".
        printed: the figure as printed, e.g. "055.14".
        value: the same as a number, GMACs (printed as "GFLOPs").
    """

    table: int
    row: int
    model: str
    variant: str
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
        What is taken over from another paper has that paper's digits.
        """
        if self.what == "total":
            return 1.0 if self.is_taken_over else 0.1
        return 1.0 if self.value >= 100 else 0.01

    @property
    def is_taken_over(self) -> bool:
        """Whether the system's own paper prints this total, in whole GFLOPs."""
        return (self.model, self.dataset) in TAKEN_OVER

    @property
    def label(self) -> str:
        """The row's model in a few words."""
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.model}{variant} {self.modifier}".strip()


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
            variant=row.variant,
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
