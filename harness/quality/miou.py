"""Mean IoU over classes from one confusion matrix.

Source: the definition of detectron2's ``SemSegEvaluator`` (and of Cityscapes): pixels are pooled over all
images, pixels whose truth is void are left out, and the mean is over the classes that the ground truth has.
"""

from dataclasses import dataclass

import numpy as np

VOID_CLASS = 255
# In 8 bits, beside the void.
MAX_CLASSES = 255


@dataclass(frozen=True)
class MeanIoU:
    """As fractions.

    Attributes:
        miou: mean IoU over the classes that occur in the ground truth.
        accuracy: share of the pixels that are right.
        per_class: (K,) IoU; NaN where the ground truth has no pixel of the class.
        classes: number of classes that the mean is over.
    """

    miou: float
    accuracy: float
    per_class: np.ndarray
    classes: int


def confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by true and predicted class of one image.

    Args:
        truth: (H, W) class from 0 to K - 1; 255 is void.
        predicted: likewise; 255 is a pixel given to no class, which counts as missed.
        num_classes: K, at most 255.

    Returns:
        (K, K + 1) int64; rows are true classes, the last column is "no class".

    Raises:
        ValueError: maps of two sizes, or a class that is neither below K nor 255.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the prediction is {predicted.shape}, the ground truth {truth.shape}")
    for what, array in (("ground truth", truth), ("prediction", predicted)):
        wrong = array[(array >= num_classes) & (array != VOID_CLASS)]
        if wrong.size:
            raise ValueError(
                f"the {what} has class {wrong[0]}; classes are 0 to {num_classes - 1}, 255 is void"
            )
    counted = truth != VOID_CLASS
    columns = np.where(predicted == VOID_CLASS, num_classes, predicted).astype(np.int64)
    flat = truth[counted].astype(np.int64) * (num_classes + 1) + columns[counted]
    width = num_classes * (num_classes + 1)
    return np.bincount(flat, minlength=width).reshape(num_classes, num_classes + 1)


def mean_iou(matrix: np.ndarray) -> MeanIoU | None:
    """The mean over a (K, K + 1) confusion matrix; None if no pixel has a true class."""
    right = np.diagonal(matrix).astype(np.float64)
    true_pixels = matrix.sum(axis=1)
    union = true_pixels + matrix[:, :-1].sum(axis=0) - right
    occurs = true_pixels > 0
    if not occurs.any():
        return None
    per_class = np.full(len(matrix), np.nan)
    per_class[occurs] = right[occurs] / union[occurs]
    return MeanIoU(
        float(per_class[occurs].mean()), float(right.sum() / matrix.sum()), per_class, int(occurs.sum())
    )
