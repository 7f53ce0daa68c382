"""Mean IoU as facts: what one pixel does to the figures, and what is left out."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segmeter.harness.quality.miou import MAX_CLASSES, VOID_CLASS, confusion, mean_iou


def maps(true: str, predicted: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of classes by digit; a dot is void, or no class."""
    return tuple(  # type: ignore[return-value]
        np.array([[VOID_CLASS if c == "." else int(c) for c in row] for row in text.split()], np.uint8)
        for text in (true, predicted)
    )


def scored(true: str, predicted: str, classes: int = 3):
    return mean_iou(confusion(*maps(true, predicted), classes))


def test_the_matrix_has_a_row_for_each_true_class_and_a_column_for_none() -> None:
    matrix = confusion(*maps("00.1 2211", "01.. 2110"), 3)
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]]
    assert matrix.dtype == np.int64


def test_iou_is_what_both_have_over_what_either_has() -> None:
    score = scored("0000 1111", "0001 1100")
    # Class 0: 3 in both, 4 true and 5 predicted; class 1: 2 in both, 4 true and 3 predicted.
    assert score.per_class[:2].tolist() == [3 / 6, 2 / 5]
    assert score.miou == pytest.approx((3 / 6 + 2 / 5) / 2)
    assert score.accuracy == 5 / 8


def test_the_mean_is_over_the_classes_that_the_truth_has() -> None:
    # Class 2 is predicted and never true: it lowers class 0, and is no class of the mean.
    score = scored("0011", "0211")
    assert score.classes == 2
    assert np.isnan(score.per_class[2])
    assert score.miou == (1 / 2 + 1) / 2


def test_void_pixels_count_for_nothing() -> None:
    # What is predicted on void lowers no class.
    assert scored("00..", "0011").miou == 1.0
    assert scored("....", "0123", 4) is None


def test_a_pixel_of_no_class_is_missed_and_is_no_false_positive() -> None:
    score = scored("0011", "0.11")
    assert score.per_class[:2].tolist() == [1 / 2, 1.0]
    assert score.accuracy == 3 / 4


def test_images_are_pooled_not_averaged() -> None:
    whole = confusion(*maps("0001", "0001"), 2) + confusion(*maps("1", "0"), 2)
    score = mean_iou(whole)
    assert score is not None
    assert score.per_class.tolist() == [3 / 4, 1 / 2]


@pytest.mark.parametrize(("true", "predicted"), [("3", "0"), ("0", "3")])
def test_a_class_beyond_the_last_is_told(true: str, predicted: str) -> None:
    with pytest.raises(ValueError, match="has class 3; classes are 0 to 2, 255 is void"):
        scored(true, predicted)
    scored("2", "2")


def test_maps_of_two_sizes_are_told() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\), the ground truth \(2, 1\)"):
        scored("0 0", "00")


@given(arrays.arrays(np.uint8, (4, 5), elements=st.integers(0, 3)))
def test_the_truth_itself_is_perfect(truth: np.ndarray) -> None:
    score = mean_iou(confusion(truth, truth, 4))
    assert score is not None
    assert (score.miou, score.accuracy, score.classes) == (1.0, 1.0, len(np.unique(truth)))


@given(*(arrays.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 2, VOID_CLASS])) for _ in range(2)))
def test_every_counted_pixel_is_in_the_matrix_once(truth: np.ndarray, predicted: np.ndarray) -> None:
    matrix = confusion(truth, predicted, 3)
    assert matrix.sum() == (truth != VOID_CLASS).sum()
    assert np.diagonal(matrix).sum() == ((truth == predicted) & (truth != VOID_CLASS)).sum()


def test_255_is_void_and_all_below_may_be_classes() -> None:
    # Eight bits: 255 classes and the void.
    truth = np.array([[0, MAX_CLASSES - 1, VOID_CLASS]], np.uint8)
    matrix = confusion(truth, truth, 255)
    assert matrix.shape == (255, 256)
    assert matrix.sum() == matrix[0, 0] + matrix[254, 254] == 2


def test_the_first_class_beyond_the_last_is_told() -> None:
    with pytest.raises(ValueError, match="the prediction has class 4;"):
        scored("000", "045")


def test_a_score_does_not_change_once_it_is_made() -> None:
    with pytest.raises(FrozenInstanceError):
        scored("0", "0").miou = 1.0
