"""Overlay pictures: colours, legend, and the same file for the same results."""

import io

import numpy as np
from PIL import Image

from segmeter.harness.quality.predict import PhotoResult
from segmeter.reports.plots.overlays import class_colour, overlay_figure, picture_bytes, shown_classes

CLASSES = (("cat", True), ("dog", True), ("sky", False))


def result(title: str = "M2F, R50") -> PhotoResult:
    """The left half sky, the right half two cats, of which one is a little less sure."""
    panoptic = np.zeros((20, 30), np.int32)
    panoptic[:, :15], panoptic[:10, 15:], panoptic[10:, 15:] = 1, 2, 3
    masks = [panoptic == 2, panoptic >= 2]
    semantic = np.where(panoptic == 1, 2, 0)
    found = [(masks[0], 0, 0.9), (masks[1], 0, 0.6)]
    image = np.full((20, 30, 3), 128, np.uint8)
    return PhotoResult("cats.jpg", title, image, CLASSES, panoptic, {1: 2, 2: 0, 3: 0}, found, semantic)


def boxes(title: str = "RT-DETR, R50vd") -> PhotoResult:
    """A cat on the right, and a dog in the corner."""
    empty = np.zeros((20, 30), np.int64)
    found = [([15.0, 0.0, 15.0, 20.0], 0, 0.9), ([0.0, 0.0, 4.0, 4.0], 1, 0.6)]
    image = np.full((20, 30, 3), 128, np.uint8)
    return PhotoResult("cats.jpg", title, image, CLASSES, empty, {}, [], empty, found)


def test_a_detectors_boxes_are_drawn_where_they_are_and_nothing_else_is_claimed():
    alone = overlay_figure([boxes()])
    assert [axes.get_ylabel() for axes in alone.axes if axes.get_ylabel()] == ["boxes"]
    frames = [patch for axes in alone.axes for patch in axes.patches]
    assert {tuple(frame.get_bbox().bounds) for frame in frames} == {(15, 0, 15, 20), (0, 0, 4, 4)}
    # The void maps of a detector are no sky and no cats.
    assert shown_classes([boxes()]) == [0, 1]
    both = overlay_figure([result(), boxes()])
    assert [text.get_text() for axes in both.axes for text in axes.texts].count("boxes alone") == 2


def test_the_legend_has_the_classes_shown_and_no_others():
    assert shown_classes([result()]) == [0, 2]  # cats cover more, counted over all three pictures


def test_classes_of_one_data_set_have_colours_of_their_own():
    colours = {tuple(round(part, 3) for part in class_colour(index)) for index in range(133)}
    assert len(colours) == 133


def test_models_stand_side_by_side_and_the_file_is_reproducible():
    results = [result("M2F, R50"), result("PRO-SCALE (3,3,3), R50")]
    figure = overlay_figure(results)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == ["cats.jpg", "M2F, R50", "PRO-SCALE (3,3,3), R50"]
    rows = [axes.get_ylabel() for axes in figure.axes]
    assert [row for row in rows if row] == ["panoptic", "instances", "semantic"]
    content = picture_bytes(figure)
    assert picture_bytes(overlay_figure(results)) == content
    assert Image.open(io.BytesIO(content)).size[0] > 1000
