"""A model's own cost as a trade-off point, counted at one size for each data set."""

from typing import Any

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.encoders.table import ENCODERS
from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import ModelSpec, parse_model
from segmeter.harness.published import CITYSCAPES_SIZE, CLASSES, COCO_ENCODER_SIZES
from segmeter.harness.tradeoff.point import UNIT, Point
from segmeter.model_text import ModelText

# One input for all: a 640x480 photo, the most frequent size of COCO, and Cityscapes' only size.
COMMON_SIZES = {
    "coco": ImageSize(padded=COCO_ENCODER_SIZES[0], original=(480, 640)),
    "cityscapes": ImageSize(padded=CITYSCAPES_SIZE, original=CITYSCAPES_SIZE),
}


def counted_point(model: str, dataset: str, source: str = "measured", backbone: str | None = None) -> Point:
    """One model's GFLOPs at the data set's common size; no quality.

    Raises:
        ValueError: a model that cannot be read or counted, or a data set without a common size.
    """
    if dataset not in COMMON_SIZES:
        raise ValueError(f"measured GFLOPs are for {' and '.join(COMMON_SIZES)}, got {dataset!r}")
    # Only a model that the user named may be the user's own; others come from tables and records.
    taken = figure_backbone(model, backbone)
    spec = parse_model(model, backbone=taken, num_classes=CLASSES[dataset], own=source == "own")
    size = COMMON_SIZES[dataset]
    padded, original = format_size(size.padded), format_size(size.original)
    return Point(
        label=spec.encoder_title,
        model=spec.text,
        encoder=spec.encoder,
        backbone=spec.backbone,
        dataset=dataset,
        source=source,
        command=f"segmeter flops {spec.text} --padded-size {padded} --original-size {original} "
        f"--num-classes {CLASSES[dataset]}",
        size=padded,
        encoder_basis=padded,
        total_basis=padded,
        convention=UNIT,
        **_measure(spec, size),
    )


def figure_backbone(model: str, backbone: str | None) -> str | None:
    """The backbone of a figure for its encoders; None for other systems, which have one of their own."""
    name = ModelText.named(model).name
    return None if name in SYSTEMS and name not in ENCODERS else backbone


def _measure(spec: ModelSpec, size: ImageSize) -> dict[str, Any]:
    figures = count_model(spec, size, UNIT).figures
    # A whole model of the user's own has no encoder to tell apart.
    encoder = figures.of("encoder") / 1e9 if spec.backbone else None
    return {"gflops_encoder": encoder, "gflops_total": figures.total / 1e9}
