"""Measure every published GFLOPs cell of the M2F family beside what the paper prints.

Cityscapes cells are one 1024x2048 input. A COCO encoder cell comes from one image: it is measured at the two
padded sizes that the paper's rows turn out to use, and the nearer one is kept and shown. A COCO total is the
mean over the first 100 images of val2017.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segmeter.harness.audit.subjects import cost_without_stride_4
from segmeter.harness.counting import DatasetCount, count_dataset, count_model
from segmeter.harness.inputs import ImageSize, dataset_sizes, format_size
from segmeter.harness.models import model_spec, spec_of
from segmeter.harness.published import CITYSCAPES_SIZE, COCO_ENCODER_SIZES, PublishedCell

CONVENTION = "published"
GIGA = 1e9
VERDICTS = {
    "exact": "rounds to the printed figure",
    "last digit": "within one unit of the last printed digit",
    "close": "within 0.2 %",
    "other images": "a mean over images; within 0.5 %, as much as the choice of images moves it",
    "differs": "none of these",
    "not modelled": "no encoder here has the structure that the row's label names",
}
CLOSE = 0.002
OTHER_IMAGES = 0.005


@dataclass(frozen=True)
class Reproduction:
    """One published cell with its measured figure.

    Attributes:
        cell: the published figure.
        measured: GMACs in the published convention; None where the row is not modelled.
        size: the padded size, or the data set whose images were averaged.
        verdict: a key of :data:`VERDICTS`.
        note: what explains a figure that is not reproduced, or "".
    """

    cell: PublishedCell
    measured: float | None
    size: str
    verdict: str
    note: str = ""

    @property
    def difference_percent(self) -> float | None:
        """Measured against published, in percent."""
        if self.measured is None:
            return None
        return 100 * (self.measured / self.cell.value - 1)


def reproduce_cells(
    cells: list[PublishedCell], progress: Callable[[int], None] = lambda done: None
) -> list[Reproduction]:
    """Measure each cell; ``progress`` is called with the number of cells done."""
    results = []
    for done, cell in enumerate(cells, start=1):
        results.append(_reproduce_cell(cell))
        progress(done)
    return results


def reproduction_row(result: Reproduction) -> dict[str, Any]:
    """One published cell and its measurement as plain data; GMACs in the published convention."""
    cell = result.cell
    return {
        "table": cell.table,
        "row": cell.row,
        "model": cell.label,
        "backbone": cell.backbone,
        "dataset": cell.dataset,
        "what": cell.what,
        "printed": cell.printed,
        "published_gmacs": cell.value,
        "measured_gmacs": result.measured,
        "difference_percent": result.difference_percent,
        "size": result.size,
        "verdict": result.verdict,
        "note": result.note,
    }


def verdict(cell: PublishedCell, measured: float) -> str:
    """How near a measured figure (GMACs) comes to a cell; a key of :data:`VERDICTS`."""
    # Half a step beyond float noise, so that a tie counts as rounding either way.
    off = abs(measured - cell.value)
    if off <= cell.step / 2 + 1e-9:
        return "exact"
    if off <= cell.step:
        return "last digit"
    if off <= CLOSE * cell.value:
        return "close"
    is_mean = cell.dataset == "coco" and cell.what == "total"
    return "other images" if is_mean and off <= OTHER_IMAGES * cell.value else "differs"


def _reproduce_cell(cell: PublishedCell) -> Reproduction:
    spec = spec_of(cell)
    if spec is None:
        return Reproduction(cell, None, "-", "not modelled", _without_stride_4(cell))
    if cell.dataset == "coco" and cell.what == "total":
        sizes = dataset_sizes("coco-val2017:100")
        counted = count_dataset(spec, sizes, CONVENTION)
        measured = counted.total.mean / GIGA
        found = verdict(cell, measured)
        note = _other_images(cell, counted) if found == "other images" else ""
        return Reproduction(cell, measured, f"mean of {sizes.name}", found, note)
    candidates = (CITYSCAPES_SIZE,) if cell.dataset == "cityscapes" else COCO_ENCODER_SIZES
    figures = {}
    for padded in candidates:
        figures_at = count_model(spec, ImageSize(padded, padded), CONVENTION).figures
        units = figures_at.total if cell.what == "total" else figures_at.of("encoder")
        figures[padded] = units / GIGA
    padded = min(figures, key=lambda size: abs(figures[size] - cell.value))
    measured = figures[padded]
    found = verdict(cell, measured)
    note = _unmatched_case(cell) if found == "differs" and cell.table == 3 else ""
    return Reproduction(cell, measured, format_size(padded), found, note)


def _other_images(cell: PublishedCell, counted: DatasetCount) -> str:
    """The mean padded size at which the printed total would be met."""
    images = counted.sizes.total
    pixels = sum(s.padded[0] * s.padded[1] * n for s, n in counted.sizes.images.items()) / images
    # All but the work at the original size grows with the padded pixels.
    growing = counted.total.mean - counted.parts["postprocess"].mean
    needed = pixels * (1 + (cell.value * GIGA - counted.total.mean) / growing)
    return (
        f"needs a mean of about {needed / 1e3:.0f} thousand padded pixels; "
        f"these {images} images have {pixels / 1e3:.0f}"
    )


def _without_stride_4(cell: PublishedCell) -> str:
    """Table 3's C_1: what M2F without the stride-4 path would cost, and what has the printed cost."""
    size = ImageSize(CITYSCAPES_SIZE, CITYSCAPES_SIZE)
    without = cost_without_stride_4(cell.backbone)
    spec = model_spec("pro-scale", cell.backbone, stages=(1, 1, 1), pixel_embedding="conv")
    conv = count_model(spec, size, CONVENTION).figures.of("encoder") / GIGA
    return (
        f"M2F without s1 would cost {without:.2f}; the printed figure is what PRO-SCALE (1,1,1) "
        f"with the 3x3 convolution costs ({conv:.2f})"
    )


def _unmatched_case(cell: PublishedCell) -> str:
    return (
        "no structure tried has the printed cost; the printed figure of the row above (case C_1) "
        "is within rounding of the one measured here"
    )
