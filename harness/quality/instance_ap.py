"""Average precision of instance masks, by pycocotools' own evaluation."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmeter.files import plain_id
from segmeter.harness.inputs import MAX_SIDE
from segmeter.harness.quality.fields import MOST, check_box, check_mask, flag, member, rows, whole
from segmeter.plain import shown

# pycocotools' summary order, for masks.
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True)
class InstanceAP:
    """As fractions; NaN where the ground truth has no such instance.

    Attributes:
        summary: AP over IoU 0.50 to 0.95, at 0.50, at 0.75, and by area, keyed as :data:`NAMES`.
        per_class: category id -> AP.
        kind: "segm" for masks, "bbox" for boxes.
    """

    summary: dict[str, float]
    per_class: dict[int, float]
    kind: str = "segm"


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed run lengths, with text counts."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def instance_ap(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], image_ids: Sequence[Any] | None = None
) -> InstanceAP:
    """Score instances.

    Args:
        truth: COCO instance ground truth: ``images``, ``categories``, ``annotations``.
        predictions: COCO results: ``image_id``, ``category_id``, ``score``, and ``segmentation`` or, for AP
            of boxes, ``bbox``; the first says which.
        image_ids: the images to score; None for all of the ground truth's.

    Raises:
        ValueError: a prediction for an unknown image, with an unknown category or without a usable mask.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kind = "bbox" if predictions and "segmentation" not in predictions[0] else "segm"
    _check(truth, predictions, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = dict(truth)
        ground.createIndex()
        # loadRes refuses an empty list.
        found = ground.loadRes([dict(p) for p in predictions]) if predictions else COCO()
        if not predictions:
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        scorer = COCOeval(ground, found, kind)
        if image_ids is not None:
            scorer.params.imgIds = sorted(image_ids)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    summary = {name: _fraction(value) for name, value in zip(NAMES, scorer.stats[: len(NAMES)], strict=True)}
    # (IoU thresholds, recalls, categories, area ranges, detections): all areas, most detections.
    precision = scorer.eval["precision"][:, :, :, 0, -1]
    per_class = {}
    for index, category in enumerate(scorer.params.catIds):
        values = precision[:, :, index]
        per_class[category] = float(values[values > -1].mean()) if (values > -1).any() else float("nan")
    return InstanceAP(summary, per_class, kind)


def _fraction(value: float) -> float:
    """pycocotools writes -1 where there is nothing to score."""
    return float("nan") if value < 0 else float(value)


def read_truth(content: object, source: Path) -> dict[str, Any]:
    """COCO instance ground truth out of a file, every field that scoring reads checked.

    Raises:
        ValueError: a field that is missing or not what it must be; file, annotation and field are named.
    """
    sizes: dict[Any, tuple[int, int]] = {}
    for index, image in enumerate(rows(content, "images", str(source))):
        what = f"{source}: image {index}"
        image_id = plain_id(member(image, "id", what))
        if image_id in sizes:
            raise ValueError(f"{what} has the id {image_id}, which an earlier one has")
        height, width = (
            whole(member(image, side, what), f"{what}: its {side}", 1, MAX_SIDE)
            for side in ("height", "width")
        )
        sizes[image_id] = height, width
    categories = set()
    for index, category in enumerate(rows(content, "categories", str(source))):
        what = f"{source}: category {index}"
        categories.add(whole(member(category, "id", what), f"{what}: its id"))
    annotations = [
        _true_instance(annotation, f"{source}: annotation {index}", sizes, categories)
        for index, annotation in enumerate(rows(content, "annotations", str(source)))
    ]
    if len({annotation["id"] for annotation in annotations}) != len(annotations):
        raise ValueError(f"{source}: the ids of annotations must differ")
    return {
        "images": [{"id": i, "height": height, "width": width} for i, (height, width) in sizes.items()],
        "categories": [{"id": category} for category in sorted(categories)],
        "annotations": annotations,
    }


def _true_instance(
    annotation: Any, what: str, sizes: Mapping[Any, tuple[int, int]], categories: set[int]
) -> dict[str, Any]:
    image_id = plain_id(member(annotation, "image_id", what))
    if image_id not in sizes:
        raise ValueError(f"{what} is of the image {image_id}, which the file does not list")
    category = whole(member(annotation, "category_id", what), f"{what}: its category")
    if category not in categories:
        raise ValueError(f"{what} has the unknown category {category}")
    area = member(annotation, "area", what)
    if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area <= MOST:
        raise ValueError(f"{what}: its area is {shown(area)}, expected a number from 0")
    mask = member(annotation, "segmentation", what)
    check_mask(mask, sizes[image_id], what, polygons=True)
    box = {"bbox": check_box(annotation["bbox"], f"{what}: its box")} if "bbox" in annotation else {}
    return {
        **box,
        # pycocotools takes an id of 0 for "no match".
        "id": whole(member(annotation, "id", what), f"{what}: its id", 1),
        "image_id": image_id,
        "category_id": category,
        "area": area,
        "iscrowd": int(flag(annotation.get("iscrowd", 0), f"{what}: iscrowd")),
        "segmentation": mask,
    }


def _check(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], kind: str) -> None:
    without = [a["id"] for a in truth["annotations"] if "bbox" not in a] if kind == "bbox" else []
    if without:
        raise ValueError(f"the annotation {without[0]} lacks 'bbox', which AP of boxes is scored against")
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for index, prediction in enumerate(predictions):
        what = f"instance prediction {index}"
        image_id = plain_id(member(prediction, "image_id", what))
        if image_id not in sizes:
            raise ValueError(f"{what} is for the unknown image {image_id!r}")
        what = f"{what} (image {image_id})"
        category = whole(member(prediction, "category_id", what), f"{what}: its category")
        if category not in categories:
            raise ValueError(f"{what} has the unknown category {category!r}")
        if kind == "bbox":
            check_box(member(prediction, "bbox", what), f"{what}: its box")
        else:
            check_mask(member(prediction, "segmentation", what), sizes[image_id], what)
        score = prediction.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{what} has the score {shown(score)}, expected a number from 0 to 1")
