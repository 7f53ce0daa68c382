"""What a panoptic map says of pixels and things, on a map of 4 x 7 pixels that can be read by eye."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from segmeter.harness.quality.datasets import Entry
from segmeter.harness.quality.panoptic import GroundSegment
from segmeter.harness.quality.truth import instance_truth, semantic_truth

ROAD, CAR, PERSON = 7, 26, 24
IDS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 0],
        [1, 2, 2, 2, 2, 1, 0],
        [1, 2, 1, 1, 2, 1, 3],
        [1, 2, 1, 1, 1, 1, 3],
    ]
)
ENTRY = Entry(
    5,
    Path("image.png"),
    Path("truth.png"),
    (
        GroundSegment(1, ROAD, 17),
        GroundSegment(9, CAR, 0),  # it has no pixel
        GroundSegment(2, CAR, 7),
        GroundSegment(3, PERSON, 2, iscrowd=True),
    ),
)


def test_each_pixel_has_the_class_of_its_segment_and_none_outside() -> None:
    classes = semantic_truth(IDS, ENTRY, {ROAD: 0, PERSON: 1, CAR: 2})
    assert classes.dtype == np.uint8
    assert classes.tolist() == [
        [0, 0, 0, 0, 0, 0, 255],
        [0, 2, 2, 2, 2, 0, 255],
        [0, 2, 0, 0, 2, 0, 1],
        [0, 2, 0, 0, 0, 0, 1],
    ]


def test_255_classes_leave_one_value_for_the_void() -> None:
    known = {ROAD: 0, PERSON: 1, CAR: 254}
    filled = {**{1000 + number: number for number in range(252)}, **known}
    assert semantic_truth(IDS, ENTRY, filled)[1].tolist() == [0, 254, 254, 254, 254, 0, 255]
    with pytest.raises(ValueError, match="at most 255 classes, not 256"):
        semantic_truth(IDS, ENTRY, {**filled, 999: 3})


def test_things_alone_have_boxes_areas_and_masks() -> None:
    found = instance_truth(IDS, ENTRY, {ROAD: False, CAR: True, PERSON: True})
    car, crowd = found
    # x, y, width, height: columns 1 to 4 of rows 1 to 3, seven pixels of them.
    assert (car["image_id"], car["category_id"], car["iscrowd"]) == (5, CAR, 0)
    assert (car["bbox"], car["area"]) == ([1, 1, 4, 3], 7)
    assert (crowd["category_id"], crowd["iscrowd"], crowd["bbox"], crowd["area"]) == (
        PERSON,
        1,
        [6, 2, 1, 2],
        2,
    )
    for annotation, number in ((car, 2), (crowd, 3)):
        assert (coco_masks.decode(annotation["segmentation"]) == (number == IDS)).all()
