"""Average precision of instance masks, by pycocotools' own evaluation."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# pycocotools' summary order, for masks.
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True)
class InstanceAP:
    """As fractions; NaN where the ground truth has no such instance.

    Attributes:
        summary: AP over IoU 0.50 to 0.95, at 0.50, at 0.75, and by area, keyed as :data:`NAMES`.
        per_class: category id -> AP.
    """

    summary: dict[str, float]
    per_class: dict[int, float]


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
        predictions: COCO results: ``image_id``, ``category_id``, ``segmentation``, ``score``.
        image_ids: the images to score; None for all of the ground truth's.

    Raises:
        ValueError: a prediction for an unknown image, with an unknown category or without a usable mask.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    _check(truth, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = dict(truth)
        ground.createIndex()
        # loadRes refuses an empty list.
        found = ground.loadRes([dict(p) for p in predictions]) if predictions else COCO()
        if not predictions:
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        scorer = COCOeval(ground, found, "segm")
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
    return InstanceAP(summary, per_class)


def _fraction(value: float) -> float:
    """pycocotools writes -1 where there is nothing to score."""
    return float("nan") if value < 0 else float(value)


def _check(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> None:
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for index, prediction in enumerate(predictions):
        image_id, category = prediction.get("image_id"), prediction.get("category_id")
        if image_id not in sizes:
            raise ValueError(f"instance prediction {index} is for the unknown image {image_id!r}")
        if category not in categories:
            raise ValueError(
                f"instance prediction {index} (image {image_id}) has the unknown category {category!r}"
            )
        mask = prediction.get("segmentation")
        if not isinstance(mask, Mapping) or list(mask.get("size", [])) != sizes[image_id]:
            raise ValueError(
                f"instance prediction {index} (image {image_id}) needs a mask of size {sizes[image_id]}"
            )
        score = prediction.get("score")
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"instance prediction {index} (image {image_id}) has the score {score!r}")
