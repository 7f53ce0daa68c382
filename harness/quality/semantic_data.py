"""Where ADE20K and Cityscapes keep their photos and their maps of class ids.

Sources: ADEChallengeData2016 (labels 1 to 150, 0 is void) and Cityscapes' ``leftImg8bit`` and ``gtFine``:
``labelIds`` as they are downloaded, or the ``labelTrainIds`` that cityscapesScripts makes of them (0 to 18,
255 is void).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmeter.harness.inputs import Photo
from segmeter.harness.quality.miou import VOID_CLASS
from segmeter.words import nearest


@dataclass(frozen=True)
class SemanticData:
    """Photos and where the map of class ids of each lies.

    Attributes:
        photos: files, in order of path.
        label_of: a photo -> its PNG.
        zero_is_void: whether labels count from 1.
        classes_of: file -> the class of each of its 256 ids, 255 for void; None where ids are classes.
    """

    photos: Sequence[Path]
    label_of: Callable[[Photo], Path]
    zero_is_void: bool
    classes_of: Callable[[Path], np.ndarray | None] = lambda path: None


def _city_classes() -> np.ndarray:
    classes = np.full(256, VOID_CLASS, dtype=np.uint8)
    classes[list(CITY_IDS)] = np.arange(len(CITY_IDS))
    return classes


# Cityscapes' id of each of its 19 classes, road to bicycle: cityscapesScripts' ``labels.py``.
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITY_CLASSES = _city_classes()
TRAIN_IDS, LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"


LAYOUTS = {
    "ade20k": ("images/validation/*.jpg", "annotations/validation", True),
    "cityscapes": ("leftImg8bit/val/*/*_leftImg8bit.png", "gtFine/val", False),
}


def semantic_set(name: str, root: Path) -> SemanticData:
    """A data set's validation photos and labels, in its own folders.

    Raises:
        ValueError: an unknown data set, or its folders are not there.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}{nearest(name, LAYOUTS)}")
    pattern, labels, zero_is_void = LAYOUTS[name]
    photos = sorted(root.glob(pattern))
    if not photos:
        raise ValueError(f"no photos of {name} in {root}: expected {pattern} there")
    folder = root / labels
    if not folder.is_dir():
        raise ValueError(f"no labels of {name} in {root}: expected the folder {labels} there")
    if name == "cityscapes":
        return SemanticData(photos, _city_label(folder), zero_is_void, _city_ids)
    return SemanticData(photos, beside(folder), zero_is_void)


def beside(folder: Path) -> Callable[[Photo], Path]:
    """Labels in one folder, named as the photos."""
    return lambda photo: folder / f"{photo.path.stem}.png"


def _city_label(folder: Path) -> Callable[[Photo], Path]:
    def label(photo: Photo) -> Path:
        stem = folder / photo.path.parent.name / photo.path.stem.removesuffix("_leftImg8bit")
        downloaded = Path(f"{stem}{LABEL_IDS}")
        made = Path(f"{stem}{TRAIN_IDS}")
        return downloaded if downloaded.exists() and not made.exists() else made

    return label


def _city_ids(path: Path) -> np.ndarray | None:
    return CITY_CLASSES if path.name.endswith(LABEL_IDS) else None
