"""Where ADE20K and Cityscapes keep their photos and their maps of class ids.

Sources: ADEChallengeData2016 (labels 1 to 150, 0 is void) and Cityscapes' ``leftImg8bit`` and ``gtFine``
(train ids 0 to 18, 255 is void; made from the polygons by cityscapesScripts' ``createTrainIdLabelImgs``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmeter.harness.inputs import Photo
from segmeter.words import nearest


@dataclass(frozen=True)
class SemanticData:
    """Photos and where the map of class ids of each lies.

    Attributes:
        photos: files, in order of path.
        label_of: a photo -> its PNG.
        zero_is_void: whether labels count from 1.
    """

    photos: Sequence[Path]
    label_of: Callable[[Photo], Path]
    zero_is_void: bool


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
    return SemanticData(photos, _city_label(folder) if name == "cityscapes" else beside(folder), zero_is_void)


def beside(folder: Path) -> Callable[[Photo], Path]:
    """Labels in one folder, named as the photos."""
    return lambda photo: folder / f"{photo.path.stem}.png"


def _city_label(folder: Path) -> Callable[[Photo], Path]:
    def label(photo: Photo) -> Path:
        stem = photo.path.stem.removesuffix("_leftImg8bit")
        return folder / photo.path.parent.name / f"{stem}_gtFine_labelTrainIds.png"

    return label
