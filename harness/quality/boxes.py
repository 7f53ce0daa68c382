"""What models of things alone give, boxes or masks, as COCO results: no panoptic map and no semantic one."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from segmeter.encoders.parts.boxes import DetectionOutput, DetectionPostProcess
from segmeter.encoders.segmenter.postprocess import SegmentationOutput, instances
from segmeter.harness.quality.datasets import Category, Entry
from segmeter.harness.quality.instance_ap import encode_mask

# A box's category in the data set, None for a number that it has no thing for.
ClassIds = tuple[int | None, ...]


def thing_ids(categories: Sequence[Category], num_classes: int, model: nn.Module) -> ClassIds | None:
    """The category id of each class of a model of things or boxes alone; None for one that segments all.

    Such a model has a class for each thing, in the order of their ids, or (as DINO) its classes are the ids.

    Raises:
        ValueError: another number of classes.
    """
    if num_classes == len(categories):
        finds_boxes = any(isinstance(module, DetectionPostProcess) for module in model.modules())
        return tuple(category.id for category in categories) if finds_boxes else None
    things = [category.id for category in categories if category.isthing]
    if num_classes == len(things):
        return tuple(things)
    if things and num_classes == max(things) + 1:
        return tuple(number if number in things else None for number in range(num_classes))
    raise ValueError(
        f"has {num_classes} classes, the data set {len(categories)}, {len(things)} of them "
        "things: weights of another data set?"
    )


def coco_boxes(
    output: DetectionOutput, index: int, size: tuple[int, int]
) -> list[tuple[list[float], int, float]]:
    """One image's boxes as left, top, width and height in pixels inside it, with class and score.

    Args:
        output: of a batch.
        index: the image's place in it.
        size: (H, W) of the image.
    """
    height, width = size
    found = []
    corners, labels, scores = output.boxes[index], output.labels[index], output.scores[index]
    for (left, top, right, bottom), label, score in zip(
        corners.tolist(), labels.tolist(), scores.tolist(), strict=True
    ):
        left, right = (min(max(x, 0.0), float(width)) for x in (left, right))
        top, bottom = (min(max(y, 0.0), float(height)) for y in (top, bottom))
        found.append(([left, top, right - left, bottom - top], label, score))
    return found


def instance_lines(
    output: SegmentationOutput | DetectionOutput, group: Sequence[Entry], ids: ClassIds, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """A line for each image of a batch, as :mod:`harness.quality.inference` keeps them, things alone.

    Args:
        output: of the model.
        group: the images, all of one size.
        ids: of :func:`thing_ids`; results of a class that is no category are left out.
        size: (H, W) of the images.
    """
    shapes: list[list[tuple[dict[str, Any], int, float]]]
    if isinstance(output, DetectionOutput):
        shapes = [
            [({"bbox": box}, label, score) for box, label, score in coco_boxes(output, index, size)]
            for index in range(len(group))
        ]
    else:
        shapes = [
            [
                ({"segmentation": encode_mask(mask)}, label, score)
                for mask, label, score in zip(
                    best.masks.cpu().numpy(), best.category_ids.tolist(), best.scores.tolist(), strict=True
                )
            ]
            for best in instances(output, thing_ids=range(len(ids)))
        ]
    return [
        {
            "image_id": entry.image_id,
            "file_name": None,
            "segments_info": None,
            "instances": [
                {"image_id": entry.image_id, "category_id": ids[label], "score": score, **shape}
                for shape, label, score in found
                if ids[label] is not None
            ],
        }
        for entry, found in zip(group, shapes, strict=True)
    ]
