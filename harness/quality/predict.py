"""One photo through one model: what the overlay pictures show."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segmeter.files import read_json
from segmeter.harness.quality.class_names import CLASS_NAMES
from segmeter.harness.quality.datasets import LAYOUTS, read_categories

if TYPE_CHECKING:
    from torch import nn

    from segmeter.harness.models import ModelSpec
    from segmeter.harness.quality.inference import Settings

# Instances below this score are not drawn, as in detectron2's demo.
INSTANCE_SCORE = 0.5
Classes = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class PhotoResult:
    """What one model says of one photo.

    Attributes:
        photo: the file's name.
        title: the model's.
        image: (H, W, 3) uint8.
        classes: name of each class, and whether it is a thing.
        panoptic: (H, W) segment ids, 0 is void.
        segments: segment id -> class.
        instances: masks (H, W) bool with class and score, best first.
        semantic: (H, W) class of each pixel.
        boxes: of a model that finds boxes alone: left, top, width and height in pixels with class and score,
            best first; its masks are then empty, and the maps void.
    """

    photo: str
    title: str
    image: np.ndarray
    classes: Classes
    panoptic: np.ndarray
    segments: dict[int, int]
    instances: list[tuple[np.ndarray, int, float]]
    semantic: np.ndarray
    boxes: list[tuple[list[float], int, float]] | None = None


def photo_class_names(spec: "ModelSpec", dataset: str | None = None, data: Path | None = None) -> Classes:
    """Names of a model's classes: of a panoptic annotation file, of a data set, or by their number.

    Raises:
        ValueError: the file or data set has another number of classes.
    """
    if data is not None:
        names = _names_in(data)
    elif dataset in CLASS_NAMES:
        names = CLASS_NAMES[dataset]
    else:
        # A detector has a data set's things alone.
        known = [*CLASS_NAMES.values(), *(tuple(n for n in names if n[1]) for names in CLASS_NAMES.values())]
        fitting = [names for names in known if len(names) == spec.num_classes]
        names = fitting[0] if fitting else tuple((f"class {k}", True) for k in range(spec.num_classes))
    if len(names) != spec.num_classes:
        raise ValueError(f"{spec.text} has {spec.num_classes} classes, {data or dataset} names {len(names)}")
    return names


def predict_photo(
    model: "nn.Module",
    spec: "ModelSpec",
    photo: Path,
    classes: Classes,
    dataset: str | None,
    settings: "Settings",
) -> PhotoResult:
    """Run a model on a photo, resized by the data set's rule (COCO's if none is named).

    Raises:
        ValueError: an unknown data set, or a photo that cannot be read.
    """
    from segmeter.encoders.parts.boxes import DetectionOutput
    from segmeter.encoders.segmenter.postprocess import instances, panoptic
    from segmeter.harness.quality.boxes import coco_boxes
    from segmeter.harness.quality.inference import read_image, segment
    from segmeter.words import nearest

    if dataset is not None and dataset not in LAYOUTS:
        raise ValueError(f"unknown data set {dataset!r}{nearest(dataset, list(LAYOUTS))}")
    rule = LAYOUTS[dataset or ("cityscapes" if classes == CLASS_NAMES["cityscapes"] else "coco")].rule
    image = read_image(photo)
    output = segment(model, [image], rule, settings)
    if isinstance(output, DetectionOutput):
        height, width = image.shape[:2]
        empty = np.zeros((height, width), dtype=np.int64)
        boxes = [one for one in coco_boxes(output, 0, (height, width)) if one[2] >= INSTANCE_SCORE]
        boxes.sort(key=lambda one: -one[2])
        return PhotoResult(photo.name, spec.title, image, classes, empty, {}, [], empty, boxes)
    things = [index for index, (_, isthing) in enumerate(classes) if isthing]
    (whole,) = panoptic(output, things)
    (found,) = instances(output, thing_ids=things)
    drawn = [
        (mask, category, score)
        for mask, category, score in zip(
            found.masks.cpu().numpy(), found.category_ids.tolist(), found.scores.tolist(), strict=True
        )
        if score >= INSTANCE_SCORE
    ]
    return PhotoResult(
        photo.name,
        spec.title,
        image,
        classes,
        whole.segmentation.cpu().numpy(),
        {s.id: s.category_id for s in whole.segments},
        sorted(drawn, key=lambda one: -one[2]),
        output.semantic_map()[0].argmax(dim=0).cpu().numpy(),
    )


def _names_in(data: Path) -> Classes:
    path = data
    if data.is_dir():
        sources = [layout.panoptic_json.find(data, "val") for layout in LAYOUTS.values()]
        found = [source for source in sources if source is not None]
        if not found:
            raise ValueError(
                f"{data} holds no panoptic annotations; `segmeter datasets check` says what is missing"
            )
        path = found[0]
    return tuple((category.name, category.isthing) for category in read_categories(read_json(path), path))
