"""Fields of annotation and result files, checked one by one: each error says what was found and expected.

A JSON file may hold anything: an area of 1e999, a list where an id should be, run lengths below zero, which
pycocotools would take for four billion. What passes here is what the scores' arithmetic is made for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segmeter.plain import shown

MOST = 2**53
# Six characters of 5 bits hold the sides of any picture here; more are a number beyond it.
MAX_CHARACTERS = 6


def whole(value: object, what: str, least: int = 0, most: int = MOST) -> int:
    """A whole number; 3.0 is one.

    Raises:
        ValueError: anything else, or out of range.

    >>> whole(3.0, "area")
    3
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f" to {most}" if most != MOST else ""
        raise ValueError(f"{what} is {shown(value)}, expected a whole number from {least}{limit}")
    return value


def flag(value: object, what: str) -> bool:
    """A yes or no, written as true, false, 1 or 0.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{what} is {shown(value)}, expected 0 or 1")


def member(row: object, key: str, what: str) -> Any:
    """What an object holds under a key.

    Raises:
        ValueError: no object, or it lacks the key.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{what} is {shown(row)}, expected an object")
    if key not in row:
        raise ValueError(f"{what} lacks {key!r}")
    return row[key]


def rows(content: object, key: str, what: str) -> list[Any]:
    """The list that an object holds under a key.

    Raises:
        ValueError: no object, without the key, or no list there.
    """
    found = member(content, key, what)
    if not isinstance(found, list):
        raise ValueError(f"{what} has {shown(found)} for {key!r}, expected a list")
    return found


def text(value: object, what: str) -> str:
    """A text that is not empty.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {shown(value)}, expected text")
    return value


def run_lengths(counts: str) -> np.ndarray:
    """COCO's compressed run lengths as numbers: (R,) int64, of pixels outside and inside the mask in turn.

    Source: ``rleFrString`` of cocodataset/cocoapi: 5 bits a character, and differences to the run before the
    last from the fourth on.

    Raises:
        ValueError: characters that it does not have, a number cut off or beyond any picture, or below 0.
    """
    try:
        letters = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        letters = np.array([-1])
    if ((letters < 0) | (letters > 63)).any():
        raise ValueError("its run lengths hold characters that such texts do not have")
    if not letters.size:
        return letters
    is_last = (letters & 32) == 0
    if not is_last[-1]:
        raise ValueError("its run lengths are cut off")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise ValueError("its run lengths are beyond any picture")
    places = np.arange(letters.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((letters & 31) << (5 * places), starts)
    numbers = numbers - np.where(letters[ends] & 16, np.int64(1) << (5 * lengths), 0)
    # Each is a difference to the last but one, but for the first three.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if (numbers < 0).any():
        raise ValueError("its run lengths go below 0")
    return numbers


def check_mask(segmentation: object, size: tuple[int, int], what: str, polygons: bool = False) -> None:
    """See that a mask is run lengths that fill a picture, or, in a ground truth, polygons upon it.

    Args:
        segmentation: as COCO writes it.
        size: (H, W) of the image.
        what: whose mask it is.
        polygons: whether it may be a list of polygons, or run lengths as a list of numbers.

    Raises:
        ValueError: anything else.
    """
    if polygons and isinstance(segmentation, list):
        _check_polygons(segmentation, size, what)
        return
    height, width = size
    given = member(segmentation, "size", what) if isinstance(segmentation, Mapping) else None
    if not isinstance(given, list | tuple) or list(given) != [height, width]:
        raise ValueError(f"{what} needs a mask of size {height}x{width}, got {shown(segmentation)}")
    counts = member(segmentation, "counts", f"the mask of {what}")
    if polygons and isinstance(counts, list):
        total = sum(whole(count, f"a run length of {what}") for count in counts)
    elif isinstance(counts, str):
        try:
            total = int(run_lengths(counts).sum())
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    else:
        raise ValueError(f"{what} has the run lengths {shown(counts)}, expected COCO's compressed text")
    if total != height * width:
        raise ValueError(f"{what}: its run lengths cover {total:,} pixels, the image has {height}x{width}")


def check_box(box: object, what: str) -> list[float]:
    """See that a box is left, top, width and height in pixels, as COCO writes it.

    Raises:
        ValueError: anything else.
    """
    numbers = box if isinstance(box, list) and len(box) == 4 else []
    is_box = bool(numbers) and all(
        isinstance(n, int | float) and not isinstance(n, bool) and -MOST <= n <= MOST for n in numbers
    )
    if not is_box or min(numbers[2:]) < 0:
        raise ValueError(f"{what} is {shown(box)}, expected left, top, width and height in pixels")
    return [float(n) for n in numbers]


def _check_polygons(polygons: list[Any], size: tuple[int, int], what: str) -> None:
    most = 2 * max(size) + 2
    if not polygons:
        raise ValueError(f"{what} has no polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{what} has the polygon {shown(polygon)}, expected x and y of 3 points or more")
        for number in polygon:
            # Between far points pycocotools draws every pixel.
            if isinstance(number, bool) or not isinstance(number, int | float) or not -most <= number <= most:
                raise ValueError(f"{what} has the coordinate {shown(number)}, far from the image")
