"""What a panoptic map says of the classes of pixels and of the instances in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segmeter.harness.quality.datasets import Entry
from segmeter.harness.quality.instance_ap import encode_mask
from segmeter.harness.quality.miou import MAX_CLASSES, VOID_CLASS


def semantic_truth(ids: np.ndarray, entry: Entry, class_of: Mapping[int, int]) -> np.ndarray:
    """The class of each pixel, from a panoptic map: (H, W) uint8; 255 is void. Crowds have their class.

    Raises:
        ValueError: more classes than :data:`harness.quality.miou.MAX_CLASSES`.
    """
    if len(class_of) > MAX_CLASSES:
        raise ValueError(f"a semantic picture has at most {MAX_CLASSES} classes, not {len(class_of)}")
    values, where = np.unique(ids, return_inverse=True)
    classes = {segment.id: class_of[segment.category_id] for segment in entry.segments}
    table = np.array([classes.get(int(value), VOID_CLASS) for value in values], dtype=np.uint8)
    return table[where.reshape(ids.shape)]


def instance_truth(ids: np.ndarray, entry: Entry, things: Mapping[int, bool]) -> list[dict[str, Any]]:
    """COCO instance annotations, without ids, of the things in a panoptic map."""
    annotations = []
    for segment in entry.segments:
        if not things[segment.category_id]:
            continue
        mask = ids == segment.id
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "image_id": entry.image_id,
                "category_id": segment.category_id,
                "iscrowd": int(segment.iscrowd),
                "area": int(mask.sum()),
                "bbox": [int(side) for side in box],
                "segmentation": encode_mask(mask),
            }
        )
    return annotations
