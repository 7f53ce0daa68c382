"""Data sets on disk: COCO panoptic, Cityscapes and ADE20K in the folders that Mask2Former's code expects.

Nothing is ever downloaded. A data set's classes are numbered as Mask2Former numbers them: by rising
category id, from 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmeter.files import inside, plain_id, read_json
from segmeter.harness.inputs import CITYSCAPES_RULE, COCO_RULE, MAX_SIDE, ResizeRule
from segmeter.harness.quality.fields import flag, member, rows, text, whole
from segmeter.harness.quality.panoptic import GroundSegment
from segmeter.harness.quality.png_ids import MAX_ID
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
        listed: ids of the images that it lists.
    """

    name: str
    split: str
    rule: ResizeRule
    categories: tuple[Category, ...]
    entries: tuple[Entry, ...]
    instances: Path | None
    faults: tuple[str, ...]
    source: Path
    listed: frozenset[int | str] = frozenset()

    @property
    def every(self) -> frozenset[int | str]:
        """Ids of all images that the file lists, those with faulty annotations too."""
        return self.listed | {entry.image_id for entry in self.entries}

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
    categories = read_categories(content, source)
    listed, faults = _listed(content["images"])
    entries, faulty = _entries(name, content["annotations"], listed, found, {c.id for c in categories})
    faults += faulty
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
        frozenset(listed),
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


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}{nearest(name, list(LAYOUTS))}")
    return LAYOUTS[name]


def read_categories(content: object, source: Path) -> tuple[Category, ...]:
    """The categories of an annotation file's content, by rising id.

    Raises:
        ValueError: none, two of one id, or one without id, name or isthing.
    """
    found: dict[int, Category] = {}
    for index, row in enumerate(rows(content, "categories", str(source))):
        what = f"{source}: category {index}"
        number = whole(member(row, "id", what), f"{what}: its id")
        name = text(member(row, "name", what), f"{what}: its name")
        if number in found:
            raise ValueError(f"{source}: category ids must differ, {number} stands twice")
        found[number] = Category(number, name, flag(member(row, "isthing", what), f"{what}: isthing"))
    if not found:
        raise ValueError(f"{source}: there must be a category")
    return tuple(found[number] for number in sorted(found))


def _entries(
    dataset: str,
    annotations: list[Any],
    listed: Mapping[int | str, Mapping[str, Any]],
    found: Mapping[str, Path],
    known: set[int],
) -> tuple[list[Entry], list[str]]:
    entries, seen, faults = [], set(), []
    for index, annotation in enumerate(annotations):
        what = f"annotation {index}"
        try:
            image_id = plain_id(member(annotation, "image_id", what))
            png = inside(found["panoptic pictures"], member(annotation, "file_name", what))
            if image_id not in listed:
                raise ValueError(f"{what} is of image {image_id!r}, which the file does not list")
            if image_id in seen:
                raise ValueError(f"{what} is a second one of image {image_id!r}")
            what = f"{what} (image {image_id!r})"
            segments = tuple(
                _segment(info, f"{what}, segment {place}", known)
                for place, info in enumerate(rows(annotation, "segments_info", what))
            )
            seen.add(image_id)
            image = _image_path(dataset, found["images"], image_id, listed[image_id].get("file_name"))
            entries.append(Entry(image_id, image, png, segments, _size(listed[image_id], what)))
        except ValueError as error:
            faults.append(str(error) if str(error).startswith(what) else f"{what}: {error}")
    return entries, faults


def _listed(images: list[Any]) -> tuple[dict[int | str, Mapping[str, Any]], list[str]]:
    """The images that the file lists, by id, and ids that stand twice; one without an id is none's image."""
    listed: dict[int | str, Mapping[str, Any]] = {}
    faults = []
    for image in images:
        try:
            image_id = plain_id(member(image, "id", "an image"))
        except ValueError:
            continue
        if image_id in listed:
            faults.append(f"image {image_id!r} is listed twice")
        listed.setdefault(image_id, image)
    return listed, faults


def _size(image: Mapping[str, Any], what: str) -> tuple[int, int] | None:
    sides = [image.get("height"), image.get("width")]
    if sides == [None, None]:
        return None
    height, width = (whole(side, f"{what}: a side of its image", 1, MAX_SIDE) for side in sides)
    return height, width


def _segment(info: Any, what: str, known: set[int]) -> GroundSegment:
    category = whole(member(info, "category_id", what), f"{what}: its category")
    if category not in known:
        raise ValueError(f"{what} has the unknown category {category}")
    return GroundSegment(
        whole(member(info, "id", what), f"{what}: its id", 0, MAX_ID),
        category,
        whole(member(info, "area", what), f"{what}: its area", 1),
        flag(info.get("iscrowd", 0), f"{what}: iscrowd"),
    )


def _image_path(dataset: str, folder: Path, image_id: int | str, file_name: object) -> Path:
    if dataset == "cityscapes":
        # The file's own name says "gtFine"; the image lies in its city's folder.
        return inside(folder, f"{str(image_id).partition('_')[0]}/{image_id}_leftImg8bit.png")
    return inside(folder, file_name)
