"""Mean IoU of a semantic model on photos, with windows that slide over the image as the papers' do.

Source: rstrudel/segmenter, ``segm/model/utils.py``, and mmseg's slide mode: the last window of a row or
column is moved back to the border, logits of windows that overlap are averaged and resized to the photo.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Pixels, next_multiple
from segmeter.encoders.images import normalise
from segmeter.harness.inputs import Photo, open_photo, read_photo
from segmeter.harness.quality.miou import MAX_CLASSES, VOID_CLASS, confusion, mean_iou

WINDOWS_AT_ONCE = 4
CLASSES_AT_ONCE = 16


@dataclass(frozen=True)
class Windows:
    """How a photo is cut.

    Attributes:
        crop: side of a window.
        stride: from one window to the next.
        short_side: that the photo is resized to; enlarged to the crop where it is smaller.
        batch: windows that run at once; what ALGM merges depends on it.
        whole: one window, the resized photo itself, its sides enlarged to the model's multiple (mmseg's whole
            mode with aligned sides, as SegFormer's ADE20K figures are taken).
        flip: also the mirrored window, and the mean of both.
    """

    crop: int
    stride: int
    short_side: int
    batch: int = WINDOWS_AT_ONCE
    whole: bool = False
    flip: bool = False

    def check(self, divisor: int) -> None:
        """Raise ValueError unless windows fit the model and overlap or touch."""
        if self.crop < 1 or next_multiple((self.crop, self.crop), divisor)[0] != self.crop:
            raise ValueError(f"--crop must be a multiple of {divisor}, got {self.crop}")
        if not 1 <= self.stride <= self.crop:
            raise ValueError(f"--stride must be from 1 to the crop of {self.crop}, got {self.stride}")
        if self.short_side < 1 or self.batch < 1:
            raise ValueError("--short-side and --window-batch must be at least 1")

    def resized(self, size: tuple[int, int], divisor: int) -> tuple[int, int]:
        """The size (H, W) that a photo of a size is resized to."""
        if self.whole:
            factor = self.short_side / min(size)
            return next_multiple((round(size[0] * factor), round(size[1] * factor)), divisor)
        factor = max(self.short_side, self.crop) / min(size)
        return max(self.crop, round(size[0] * factor)), max(self.crop, round(size[1] * factor))


def places(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along a side; the last ends at its end.

    >>> places(1024, 768, 512), places(768, 768, 512)
    ([0, 256], [0])
    """
    return [*(place for place in range(0, length, stride) if place < length - crop), length - crop]


@torch.inference_mode()
def class_logits(model: nn.Module, image: Tensor, windows: Windows) -> tuple[Tensor, int]:
    """Mean logits of the windows.

    Args:
        model: images (B, 3, h, w) -> class logits (B, K, h, w).
        image: (3, H, W), no side below the crop.
        windows: their size and stride.

    Returns:
        (K, H, W), and the number of windows.
    """
    _, height, width = image.shape
    if windows.whole:
        return _seen(model, image[None], windows.flip)[0], 1
    corners = [
        (top, left)
        for top in places(height, windows.crop, windows.stride)
        for left in places(width, windows.crop, windows.stride)
    ]
    total: Tensor | None = None
    seen = image.new_zeros((height, width))
    for start in range(0, len(corners), windows.batch):
        group = corners[start : start + windows.batch]
        cut = [image[:, top : top + windows.crop, left : left + windows.crop] for top, left in group]
        logits = _seen(model, torch.stack(cut), windows.flip)
        if total is None:
            total = logits.new_zeros((logits.shape[1], height, width))
        for (top, left), each in zip(group, logits, strict=True):
            total[:, top : top + windows.crop, left : left + windows.crop] += each
            seen[top : top + windows.crop, left : left + windows.crop] += 1
    assert total is not None
    return total / seen, len(corners)


def _seen(model: nn.Module, images: Tensor, flip: bool) -> Tensor:
    """Logits (B, K, h, w), or the mean of theirs and of the mirrored images', mirrored back."""
    logits: Tensor = model(images)
    return (logits + model(images.flip(-1)).flip(-1)) / 2 if flip else logits


def score_photos(
    model: nn.Module,
    photos: Sequence[Photo],
    label_of: Callable[[Photo], Path],
    windows: Windows,
    pixels: Pixels,
    num_classes: int,
    *,
    divisor: int = 1,
    zero_is_void: bool = False,
    classes_of: Callable[[Path], np.ndarray | None] = lambda path: None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Mean IoU over photos and their labels.

    Args:
        model: a whole model that gives class logits.
        photos: one at least.
        label_of: a photo -> its PNG of class ids; 255 is void.
        windows: how photos are cut.
        pixels: how images are normalised.
        num_classes: classes of the model.
        divisor: what the sides of a whole photo must be multiples of.
        zero_is_void: whether labels count from 1 and 0 is void, as ADE20K's files do.
        classes_of: a label's file -> the class of each of its 256 ids; None where ids are classes.
        step: called after each photo.

    Returns:
        {"miou", "accuracy", "classes", "images", "windows": of all photos, "per_class"}, in percent.

    Raises:
        ValueError: a label is missing or has a class that the model does not, or no pixel has a class.
    """
    if num_classes > MAX_CLASSES:
        raise ValueError(f"mIoU takes up to {MAX_CLASSES} classes, the model has {num_classes}")
    matrix = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    number = 0
    for photo in photos:
        path = label_of(photo)
        truth, classes = _label(path, photo, zero_is_void), classes_of(path)
        truth = truth if classes is None else classes[truth]
        size = windows.resized(photo.size, divisor)
        image = normalise(read_photo(photo, size), pixels.mean, pixels.std)
        logits, cut = class_logits(model, image, windows)
        matrix += confusion(truth, best_classes(logits, truth.shape), num_classes)
        number += cut
        step()
    found = mean_iou(matrix)
    if found is None:
        raise ValueError("no pixel of the labels has a class")
    return {
        "miou": 100 * found.miou,
        "accuracy": 100 * found.accuracy,
        "classes": found.classes,
        "images": len(photos),
        "windows": number,
        "per_class": [None if np.isnan(value) else 100 * float(value) for value in found.per_class],
    }


def best_classes(logits: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """The class of the highest logit at each pixel of an image of another size.

    A few classes are enlarged at a time: all 150 of a photo of 12 million pixels would take 7 GB.

    Args:
        logits: (K, h, w).
        size: (H, W).

    Returns:
        (H, W), uint8.
    """
    best = logits.new_full(size, -torch.inf)
    classes = torch.zeros(size, dtype=torch.uint8)
    for start in range(0, len(logits), CLASSES_AT_ONCE):
        part = logits[None, start : start + CLASSES_AT_ONCE]
        value, place = F.interpolate(part, size=size, mode="bilinear", align_corners=False)[0].max(0)
        higher = value > best
        best = torch.where(higher, value, best)
        classes = torch.where(higher, (place + start).to(torch.uint8), classes)
    return classes.numpy()


def _label(path: Path, photo: Photo, zero_is_void: bool) -> np.ndarray:
    try:
        with open_photo(path) as opened:
            if opened.mode not in ("L", "P"):
                raise ValueError(f"mode {opened.mode}, expected one byte for each pixel")
            ids = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read label {path}: {error}") from None
    if ids.shape != photo.size:
        raise ValueError(
            f"label {path} is {ids.shape[0]}x{ids.shape[1]}, its photo {photo.size[0]}x{photo.size[1]}"
        )
    return np.where(ids == 0, VOID_CLASS, ids - 1).astype(np.uint8) if zero_is_void else ids
