"""Data sets on disk: COCO panoptic, Cityscapes and ADE20K in the folders that Mask2Former's code expects.

Nothing is ever downloaded. A data set's classes are numbered as Mask2Former numbers them: by rising
category id, from 0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmeter.files import inside, plain_id, read_bytes
from segmeter.harness.inputs import CITYSCAPES_RULE, COCO_RULE, ResizeRule
from segmeter.harness.quality.miou import VOID_CLASS
from segmeter.harness.quality.panoptic import GroundSegment
from segmeter.words import nearest


@dataclass(frozen=True)
class Piece:
    """One file or folder of a data set; ``{split}`` in its places stands for the split.

    Attributes:
        what: what it is.
        places: where it may lie, relative to the data set's folder; the first is the usual one.
        hint: how to come by it.
        needed: whether nothing can be scored without it.
    """

    what: str
    places: tuple[str, ...]
    hint: str
    needed: bool = True

    def find(self, root: Path, split: str) -> Path | None:
        """Where it is; None if nowhere."""
        for place in self.places:
            path = root / place.format(split=split)
            if path.exists():
                return path
        return None


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, and how its images are resized for the network."""

    title: str
    site: str
    rule: ResizeRule
    images: Piece
    panoptic_json: Piece
    panoptic_pngs: Piece
    instances: Piece | None = None

    @property
    def pieces(self) -> list[Piece]:
        """All of them, in the order to be listed."""
        pieces = [self.images, self.panoptic_json, self.panoptic_pngs]
        return [*pieces, self.instances] if self.instances else pieces


_COCO_SITE = "https://cocodataset.org/#download"
_CITYSCAPES_SITE = "https://www.cityscapes-dataset.com/downloads/"
_ADE_SITE = "http://sceneparsing.csail.mit.edu/"
LAYOUTS: dict[str, Layout] = {
    "coco": Layout(
        title="COCO panoptic",
        site=_COCO_SITE,
        rule=COCO_RULE,
        images=Piece("images", ("{split}2017",), f"'2017 Val images' of {_COCO_SITE}"),
        panoptic_json=Piece(
            "panoptic annotations",
            ("annotations/panoptic_{split}2017.json", "panoptic_{split}2017.json"),
            f"'2017 Panoptic Train/Val annotations' of {_COCO_SITE}",
        ),
        panoptic_pngs=Piece(
            "panoptic pictures",
            ("panoptic_{split}2017", "annotations/panoptic_{split}2017"),
            "panoptic_val2017.zip inside the panoptic annotations; unzip it here",
        ),
        instances=Piece(
            "instance annotations",
            ("annotations/instances_{split}2017.json",),
            f"'2017 Train/Val annotations' of {_COCO_SITE}; without it AP is against panoptic things",
            needed=False,
        ),
    ),
    "cityscapes": Layout(
        title="Cityscapes",
        site=_CITYSCAPES_SITE,
        rule=CITYSCAPES_RULE,
        images=Piece(
            "images", ("leftImg8bit/{split}",), f"leftImg8bit_trainvaltest.zip of {_CITYSCAPES_SITE}"
        ),
        panoptic_json=Piece(
            "panoptic annotations",
            ("gtFine/cityscapes_panoptic_{split}.json",),
            "made by cityscapesscripts' createPanopticImgs.py from gtFine_trainvaltest.zip",
        ),
        panoptic_pngs=Piece(
            "panoptic pictures",
            ("gtFine/cityscapes_panoptic_{split}",),
            "made by cityscapesscripts' createPanopticImgs.py from gtFine_trainvaltest.zip",
        ),
    ),
    "ade20k": Layout(
        title="ADE20K",
        site=_ADE_SITE,
        # Mask2Former's ADE20K configs: short side 640, long side at most 2560.
        rule=ResizeRule(short=640, long=2560),
        images=Piece(
            "images",
            ("images/{split}idation", "images/{split}", "ADEChallengeData2016/images/{split}idation"),
            f"ADEChallengeData2016.zip of {_ADE_SITE}",
        ),
        panoptic_json=Piece(
            "panoptic annotations",
            ("ade20k_panoptic_{split}.json", "ADEChallengeData2016/ade20k_panoptic_{split}.json"),
            "made by Mask2Former's datasets/prepare_ade20k_pan_seg.py",
        ),
        panoptic_pngs=Piece(
            "panoptic pictures",
            ("ade20k_panoptic_{split}", "ADEChallengeData2016/ade20k_panoptic_{split}"),
            "made by Mask2Former's datasets/prepare_ade20k_pan_seg.py",
        ),
    ),
}


@dataclass(frozen=True)
class Category:
    """A class: its id in the files, its name, whether it is a thing."""

    id: int
    name: str
    isthing: bool


@dataclass(frozen=True)
class Entry:
    """One annotated image; ``size`` is (H, W), None where the annotations do not tell."""

    image_id: int | str
    image: Path
    truth_png: Path
    segments: tuple[GroundSegment, ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PanopticSet:
    """A data set's split.

    Attributes:
        name: a key of :data:`LAYOUTS`.
        split: such as ``val``.
        rule: how images are resized for the network.
        categories: by rising id; the index is the network's class.
        entries: the annotated images, by rising id.
        instances: COCO instance ground truth; None to score AP against the panoptic things.
        faults: annotations that cannot be used, one line each.
        source: the annotation file.
    """

    name: str
    split: str
    rule: ResizeRule
    categories: tuple[Category, ...]
    entries: tuple[Entry, ...]
    instances: Path | None
    faults: tuple[str, ...]
    source: Path

    @property
    def things(self) -> dict[int, bool]:
        """Category id -> whether it is a thing."""
        return {category.id: category.isthing for category in self.categories}

    @property
    def class_of(self) -> dict[int, int]:
        """Category id -> the network's class."""
        return {category.id: index for index, category in enumerate(self.categories)}


def open_dataset(name: str, root: Path, split: str = "val") -> PanopticSet:
    """Read a data set's annotations.

    Raises:
        ValueError: an unknown data set, or a piece that is missing or no panoptic annotation file; one
            line says where it should lie and where to get it.
    """
    layout = _layout(name)
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    found: dict[str, Path] = {}
    for piece in layout.pieces:
        path = piece.find(root, split)
        if path is not None:
            found[piece.what] = path
        elif piece.needed:
            place = piece.places[0].format(split=split)
            raise ValueError(
                f"{layout.title}'s {piece.what} are missing: expected {root / place} ({piece.hint})"
            )
    source = found["panoptic annotations"]
    content = read_json(source)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{source} is no panoptic annotation file: no list named {key!r}")
    categories = _categories(content["categories"], source)
    entries, faults = _entries(name, content, found, {c.id for c in categories})
    if not entries:
        some = f"; {len(faults)} faults, e.g. {faults[0]}" if faults else ""
        raise ValueError(f"{source} annotates no image{some}")
    if len({type(entry.image_id) for entry in entries}) > 1:
        raise ValueError(f"{source}: image ids must be all numbers or all texts")
    return PanopticSet(
        name,
        split,
        layout.rule,
        categories,
        tuple(sorted(entries, key=lambda entry: entry.image_id)),
        found.get("instance annotations"),
        tuple(faults),
        source,
    )


@dataclass(frozen=True)
class PieceStatus:
    """What ``datasets check`` says of one piece; ``path`` is where it is, or where it should be."""

    dataset: str
    what: str
    path: Path
    found: bool
    files: int
    hint: str


def check_folder(root: Path, split: str = "val") -> list[PieceStatus]:
    """What is there of each data set that the folder holds something of; of all if it holds none.

    Raises:
        ValueError: no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    statuses: dict[str, list[PieceStatus]] = {}
    for name, layout in LAYOUTS.items():
        for piece in layout.pieces:
            path = piece.find(root, split)
            files = 0
            if path is not None:
                files = sum(1 for p in path.rglob("*") if p.is_file()) if path.is_dir() else 1
            expected = path or root / piece.places[0].format(split=split)
            status = PieceStatus(name, piece.what, expected, path is not None, files, piece.hint)
            statuses.setdefault(name, []).append(status)
    present = [pieces for pieces in statuses.values() if any(piece.found for piece in pieces)]
    return [piece for pieces in present or statuses.values() for piece in pieces]


def semantic_truth(ids: np.ndarray, entry: Entry, class_of: Mapping[int, int]) -> np.ndarray:
    """The class of each pixel, from a panoptic map: (H, W) uint8; 255 is void. Crowds have their class."""
    values, where = np.unique(ids, return_inverse=True)
    classes = {segment.id: class_of[segment.category_id] for segment in entry.segments}
    table = np.array([classes.get(int(value), VOID_CLASS) for value in values], dtype=np.uint8)
    return table[where.reshape(ids.shape)]


def instance_truth(ids: np.ndarray, entry: Entry, things: Mapping[int, bool]) -> list[dict[str, Any]]:
    """COCO instance annotations, without ids, of the things in a panoptic map."""
    from segmeter.harness.quality.instance_ap import encode_mask

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


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        ValueError: missing, no regular file, beyond reason in size, truncated or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}{nearest(name, list(LAYOUTS))}")
    return LAYOUTS[name]


def _categories(listed: list[Any], source: Path) -> tuple[Category, ...]:
    try:
        categories = [Category(int(c["id"]), str(c["name"]), bool(c["isthing"])) for c in listed]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{source}: each category needs an id, a name and isthing") from None
    if len({category.id for category in categories}) != len(categories) or not categories:
        raise ValueError(f"{source}: category ids must differ, and there must be one")
    return tuple(sorted(categories, key=lambda category: category.id))


def _entries(
    dataset: str, content: Mapping[str, Any], found: Mapping[str, Path], known: set[int]
) -> tuple[list[Entry], list[str]]:
    listed = {
        image["id"]: image
        for image in content["images"]
        if isinstance(image, dict) and isinstance(image.get("id"), int | str)
    }
    entries, faults, seen = [], [], set()
    for index, annotation in enumerate(content["annotations"]):
        try:
            image_id = annotation["image_id"]
            name = annotation["file_name"]
            segments = tuple(_segment(info) for info in annotation["segments_info"])
        except (KeyError, TypeError, ValueError) as error:
            faults.append(f"annotation {index} lacks {error}")
            continue
        try:
            image_id, png = plain_id(image_id), inside(found["panoptic pictures"], name)
        except ValueError as error:
            faults.append(f"annotation {index}: {error}")
            continue
        wrong = sorted({s.category_id for s in segments} - known)
        if image_id not in listed:
            faults.append(f"annotation {index} is of image {image_id!r}, which the file does not list")
        elif image_id in seen:
            faults.append(f"annotation {index} is a second one of image {image_id!r}")
        elif wrong:
            faults.append(f"annotation {index} (image {image_id!r}) has the unknown category {wrong[0]}")
        else:
            seen.add(image_id)
            try:
                image = _image_path(dataset, found["images"], image_id, listed[image_id].get("file_name"))
            except ValueError as error:
                faults.append(f"image {image_id!r}: {error}")
                continue
            entries.append(Entry(image_id, image, png, segments, _size(listed[image_id])))
    return entries, faults


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _segment(info: Mapping[str, Any]) -> GroundSegment:
    return GroundSegment(
        int(info["id"]), int(info["category_id"]), int(info["area"]), bool(info.get("iscrowd", 0))
    )


def _image_path(dataset: str, folder: Path, image_id: int | str, file_name: object) -> Path:
    if dataset == "cityscapes":
        # The file's own name says "gtFine"; the image lies in its city's folder.
        return inside(folder, f"{str(image_id).partition('_')[0]}/{image_id}_leftImg8bit.png")
    return inside(folder, file_name)
