"""What else was counted where another system's published total is not met; no option is chosen by its fit."""

from segmeter.encoders.parts.text_tower import CONTEXT, TextTower
from segmeter.harness.audit.means import FIRST_IMAGES, mean_total
from segmeter.harness.counting import CONVENTION, cost_model, count_model, run_and_count
from segmeter.harness.inputs import ImageSize, Size, dataset_sizes
from segmeter.harness.models import parse_model
from segmeter.harness.published import CITYSCAPES_SIZE, CLASSES, PublishedCell
from segmeter.harness.records import GIGA

TEMPLATES = 14
CITYSCAPES_NAMES = 60
TEXT_IMAGES = 100


def what_was_tried(cell: PublishedCell, measured: float) -> str:
    """Variants of a row's model that were counted, in words; "" where there is nothing to say.

    Args:
        cell: a figure that is not met.
        measured: GMACs of its model.
    """
    if (cell.model, cell.dataset) == ("pem", "coco"):
        return (
            "PEM publishes no COCO configuration: with Mask2Former's 9 decoder layers in the place of its 6 "
            f"these images give {_mean('pem@r50:decoder_layers=9'):.2f}, with 256 channels in the place of "
            f"128 {_mean('pem@r50:width=256'):.2f}"
        )
    if (cell.model, cell.dataset) == ("remax", "cityscapes"):
        return (
            f"with one axial block at stride 16 in the place of five it costs "
            f"{_at('kmax:blocks=1,1,1,1', CITYSCAPES_SIZE):.2f}; at 1025x2049, the authors' size, "
            f"{_at('kmax', (1025, 2049)):.2f}"
        )
    if cell.model == "rap-sam":
        return (
            f"with the deformable convolutions counted it is {_mean('rap-sam@r50', 'macs'):.2f}, with two "
            f"stages in the place of three {_mean('rap-sam@r50:stages=2'):.2f}"
        )
    if cell.model == "maskclip":
        sizes = dataset_sizes(FIRST_IMAGES).images
        originals = sum(s.original[0] * s.original[1] * n for s, n in sizes.items()) / sum(sizes.values())
        # The semantic map drops the last name.
        semantic = (CLASSES["coco"] - 1) * 100 * originals / GIGA
        return f"without the semantic map it is {measured - semantic:.2f}"
    if cell.model == "fc-clip" and cell.what == "total":
        return _of_fc_clip(cell, measured)
    return ""


def _of_fc_clip(cell: PublishedCell, measured: float) -> str:
    text = _prompt() * TEMPLATES * CITYSCAPES_NAMES
    # Nine of ten predictions pool under masks and reach no output.
    pooling = 9 * 250 * 256 * CITYSCAPES_SIZE[0] * CITYSCAPES_SIZE[1] / 16 / GIGA
    coco = _at("fc-clip", CITYSCAPES_SIZE, CLASSES["coco"])
    return (
        f"{cell.value - measured:.1f} GMACs are missing, the same in both rows; the text tower's "
        f"{TEMPLATES * CITYSCAPES_NAMES} prompts cost {text:.0f}, over {TEXT_IMAGES} images "
        f"{text / TEXT_IMAGES:.1f} each; the mask pooling that reaches no output {pooling:.1f}; "
        "COCO's classes and names would add "
        f"{coco - _at('fc-clip', CITYSCAPES_SIZE, CLASSES['cityscapes']):.1f}; neither these nor their sums "
        "give it"
    )


def _mean(model: str, convention: str = CONVENTION) -> float:
    """GMACs of a whole model, mean over the first 100 images of val2017."""
    sizes = dataset_sizes(FIRST_IMAGES)
    spec = parse_model(model)
    if convention == CONVENTION:
        return mean_total(cost_model(spec), sizes)
    totals = (
        count_model(spec, size, convention).figures.total * n / GIGA for size, n in sizes.images.items()
    )
    return sum(totals) / sizes.total


def _at(model: str, size: Size, num_classes: int = CLASSES["cityscapes"]) -> float:
    spec = parse_model(model, num_classes=num_classes)
    return count_model(spec, ImageSize(size, size), CONVENTION).figures.total / GIGA


def _prompt() -> float:
    """GMACs of the text tower for one prompt; its attention's products are not seen by the papers' tool."""
    import torch

    with torch.device("meta"):
        tower = TextTower().eval()
        ids = torch.zeros((1, CONTEXT), dtype=torch.int64)
    work = run_and_count(tower, ids)[1].work
    return sum(w.macs for w in work if not w.operator.startswith("attention")) / GIGA
