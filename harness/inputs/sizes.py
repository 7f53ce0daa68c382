"""Image sizes: resize rules, padding, and the real sizes of data sets.

Sizes are (height, width) in pixels everywhere. Three sizes belong to one input: the *original* image, the
*resized* one, and the *padded* tensor (a multiple of 32) that the network sees.
"""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from segmeter.files import read_bytes

Size = tuple[int, int]

STRIDE = 32
MAX_SIDE = 32768


@dataclass(frozen=True)
class ResizeRule:
    """Resize so that the short side is ``short`` pixels, but the long side at most ``long``."""

    short: int
    long: int

    def apply(self, size: Size) -> Size:
        """Resized (H, W), as detectron2's ResizeShortestEdge rounds it (half up).

        >>> COCO_RULE.apply((480, 640))
        (800, 1067)
        """
        scale = self.short / min(size)
        height, width = size[0] * scale, size[1] * scale
        if max(height, width) > self.long:
            shrink = self.long / max(height, width)
            height, width = height * shrink, width * shrink
        return max(1, int(height + 0.5)), max(1, int(width + 0.5))


COCO_RULE = ResizeRule(short=800, long=1333)
CITYSCAPES_RULE = ResizeRule(short=1024, long=2048)
RESIZE_RULES = {"coco": COCO_RULE, "cityscapes": CITYSCAPES_RULE}


@dataclass(frozen=True)
class ImageSize:
    """One input's sizes: the tensor the network sees, and the size results are resized to."""

    padded: Size
    original: Size


@dataclass(frozen=True)
class SizeSet:
    """A data set's image sizes and how often each occurs.

    Attributes:
        name: what the figures are reported for.
        images: image size -> number of images.
        source: where the sizes were read.
    """

    name: str
    images: dict[ImageSize, int]
    source: str

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(self.images.values())


def parse_size(text: str, what: str = "size") -> Size:
    """Read "HxW".

    Raises:
        ValueError: not two positive whole numbers joined by an x, or beyond 32768.

    >>> parse_size("1024x2048")
    (1024, 2048)
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX]\s*(\d{1,9})\s*", text)
    if not match:
        raise ValueError(f"{what} must be HEIGHTxWIDTH, such as 800x1088; got {text!r}")
    height, width = int(match[1]), int(match[2])
    if not height or not width:
        raise ValueError(f"{what} must be positive in both sides, got {text!r}")
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"{what} must be at most {MAX_SIDE} pixels a side, got {text!r}")
    return height, width


def parse_padded_size(text: str) -> Size:
    """Read "HxW" with both sides multiples of 32.

    Raises:
        ValueError: as :func:`parse_size`, or not multiples of 32; the nearest valid size is given.
    """
    size = parse_size(text, "padded size")
    if any(side % STRIDE for side in size):
        height, width = pad(size)
        raise ValueError(
            f"padded size must be multiples of {STRIDE}, got {text!r}; "
            f"did you mean {height}x{width}, or --image-size {text}?"
        )
    return size


def pad(size: Size) -> Size:
    """Round both sides up to multiples of 32.

    >>> pad((800, 1067))
    (800, 1088)
    """
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def from_image(original: Size, rule: ResizeRule = COCO_RULE) -> ImageSize:
    """Sizes of a real image under a data set's resize rule."""
    return ImageSize(padded=pad(rule.apply(original)), original=original)


def format_size(size: Size) -> str:
    """(H, W) -> "HxW"."""
    return f"{size[0]}x{size[1]}"


DATASETS = {
    "cityscapes": "one size: 1024x2048 (every image of the validation set)",
    "coco-val2017": "all 5,000 images of val2017, short side 800, long side at most 1333, padded to 32",
    "coco-val2017:100": "the first 100 images of val2017 by id, which the papers' tool averages over",
}


def dataset_sizes(name: str) -> SizeSet:
    """Image sizes of a data set from the counts that ship with segmeter; nothing is downloaded.

    Raises:
        ValueError: no such data set.
    """
    if name == "cityscapes":
        size = ImageSize(padded=(1024, 2048), original=(1024, 2048))
        return SizeSet(name, {size: 1}, "every Cityscapes image is 1024x2048")
    columns = {"coco-val2017": "images_all_5000", "coco-val2017:100": "images_first_100_by_id"}
    if name not in columns:
        raise ValueError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    table = files("segmeter.results.sizes").joinpath("coco_val2017_sizes.csv")
    with table.open(encoding="utf-8") as lines:
        counts = {
            (int(row["height"]), int(row["width"])): int(row[columns[name]]) for row in csv.DictReader(lines)
        }
    return _size_set(name, {s: n for s, n in counts.items() if n}, COCO_RULE, "val2017's size counts")


def annotation_sizes(path: Path, rule: ResizeRule = COCO_RULE) -> SizeSet:
    """Image sizes from a COCO-format annotation file; only width and height are read.

    Raises:
        ValueError: the file is missing, not JSON, not COCO, or has no images; one line says which.
    """
    try:
        if not path.exists():
            raise ValueError(f"cannot read annotations {path}: No such file or directory")
        content: Any = json.loads(read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"annotations {path} are not text; expected a COCO JSON file") from None
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", "?")
        raise ValueError(f"annotations {path} are not valid JSON (line {line}): truncated?") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"annotations {path} are not in COCO format: no list named 'images'")
    if not images:
        raise ValueError(f"annotations {path} hold no images")
    counts: Counter[Size] = Counter()
    for index, image in enumerate(images):
        size = _read_size(image)
        if size is None:
            raise ValueError(
                f"annotations {path}: images[{index}] has no positive whole 'height' and 'width'"
            )
        counts[size] += 1
    return _size_set(path.name, dict(counts), rule, str(path))


def _read_size(image: Any) -> Size | None:
    if not isinstance(image, dict):
        return None
    sides = image.get("height"), image.get("width")
    for side in sides:
        if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= MAX_SIDE:
            return None
    return sides  # type: ignore[return-value]


def _size_set(name: str, counts: dict[Size, int], rule: ResizeRule, source: str) -> SizeSet:
    images: Counter[ImageSize] = Counter()
    for size, number in counts.items():
        images[from_image(size, rule)] += number
    return SizeSet(name, dict(images), source)


def choose_sizes(
    *,
    padded_size: str | None = None,
    image_size: str | None = None,
    resize_rule: str = "coco",
    dataset: str | None = None,
    annotations: Path | None = None,
    original_size: str | None = None,
) -> SizeSet:
    """The sizes to count at, from what a user gave; 1024x2048 (Cityscapes) if nothing.

    Raises:
        ValueError: more than one of the ways to give a size, or one that does not parse.
    """
    given = {
        "--padded-size": padded_size,
        "--image-size": image_size,
        "--dataset": dataset,
        "--annotations": annotations,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"give one of {', '.join(given)}; got {' and '.join(named)}")
    if resize_rule not in RESIZE_RULES:
        raise ValueError(f"unknown resize rule {resize_rule!r}; choose from {', '.join(RESIZE_RULES)}")
    rule = RESIZE_RULES[resize_rule]
    original = None if original_size is None else parse_size(original_size, "original size")
    if original and (dataset or annotations):
        raise ValueError("--original-size goes with one size; a data set's images have their own")
    if annotations is not None:
        return annotation_sizes(annotations, rule)
    if image_size is not None:
        size = from_image(parse_size(image_size, "image size"), rule)
    elif padded_size is not None:
        padded = parse_size(padded_size, "padded size")
        size = ImageSize(padded, padded)
    elif dataset is not None:
        return dataset_sizes(dataset)
    else:
        size = next(iter(dataset_sizes("cityscapes").images))
    size = ImageSize(size.padded, original or size.original)
    return SizeSet(format_size(size.padded), {size: 1}, "given")


CITYSCAPES_CLASSES, COCO_CLASSES = 19, 133


def default_classes(sizes: SizeSet) -> int:
    """19 where every input is Cityscapes' 1024x2048, otherwise COCO's 133."""
    at_cityscapes = all(size.padded == (1024, 2048) for size in sizes.images)
    return CITYSCAPES_CLASSES if at_cityscapes else COCO_CLASSES
