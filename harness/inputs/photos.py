"""Photos to measure on: the user's files, or the two that scikit-learn ships."""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from segmeter.files import check_regular
from segmeter.harness.inputs.sizes import MAX_SIDE, Size

# Photos that are looked at before it is said that none can be read.
TRIED = 20
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Pillow knows others too, some of which start programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
# 402 MB of pixels. Every network here resizes a photo to a hundredth of that.
MAX_PIXELS = 1 << 27
PACKAGE_PHOTOS = ("china.jpg", "flower.jpg")


@dataclass(frozen=True)
class Photo:
    """A photo on disk: where it is, and its upright size (H, W) in pixels."""

    path: Path
    size: Size

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def find_photos(paths: Sequence[Path]) -> list[Photo]:
    """The photos of files and folders, in order of name; the package's two photos if none are given.

    Raises:
        ValueError: a path that is missing, a folder without photos, or a file that is no readable image.
    """
    if not paths:
        return package_photos()
    return [Photo(path, _upright_size(path)) for path in _files(paths)]


def choose_photos(paths: Sequence[Path], number: int, seed: int) -> tuple[list[Photo], list[str]]:
    """Draw at most ``number`` photos of files and folders; unreadable ones are passed over and named.

    Args:
        paths: files and folders; the package's two photos if empty.
        number: how many photos at most.
        seed: the same seed draws the same photos of the same files.

    Returns:
        The photos in order of path, and one line for each file that was drawn and could not be read.

    Raises:
        ValueError: ``number`` below 1, a missing path, a folder without photos, or no readable photo.
    """
    if number < 1:
        raise ValueError(f"the number of images must be at least 1, got {number}")
    if not paths:
        return package_photos()[:number], []
    files = sorted(set(_files(paths)))
    drawn = files if len(files) <= number else random.Random(seed).sample(files, len(files))
    photos: list[Photo] = []
    faults: list[str] = []
    for path in drawn:
        if len(photos) == number:
            break
        try:
            photos.append(Photo(path, _upright_size(path)))
        except ValueError as error:
            faults.append(str(error))
    if not photos:
        raise ValueError(f"none of {len(files)} images can be read: {faults[0]}")
    return sorted(photos, key=lambda photo: photo.path), faults


def check_some_photo(paths: Sequence[Path]) -> None:
    """See that one of the photos can be read, by its first bytes; it stops at the first that can.

    Raises:
        ValueError: a path or folder without photos, or none of the first photos can be read.
    """
    first: ValueError | None = None
    for path in islice(_files(paths), TRIED):
        try:
            _upright_size(path)
        except ValueError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def package_photos() -> list[Photo]:
    """Two real photos, 427x640, that scikit-learn ships (CC BY 2.0, see its datasets/images)."""
    from importlib.resources import files

    folder = Path(str(files("sklearn.datasets"))) / "images"
    return [Photo(folder / name, _upright_size(folder / name)) for name in PACKAGE_PHOTOS]


def read_photo(photo: Photo, size: Size) -> np.ndarray:
    """A photo's pixels, upright, RGB, resized bilinearly to ``size``: (H, W, 3) uint8.

    Raises:
        ValueError: the file cannot be decoded.
    """
    try:
        with open_photo(photo.path) as opened:
            upright = _to_rgb(ImageOps.exif_transpose(opened))
            return np.asarray(upright.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read photo {photo.path}: {error}") from None


@contextmanager
def open_photo(path: Path) -> Iterator[Image.Image]:
    """A photo's file, opened and not yet decoded.

    Raises:
        ValueError: missing, no regular file, no photo, or one of more than :data:`MAX_PIXELS` pixels.
        OSError: the file cannot be read.
    """
    check_regular(path)
    with warnings.catch_warnings():
        # Pillow warns of large pictures, at two thirds of the bound here, and of damaged notes beside pixels.
        warnings.simplefilter("ignore")
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from None
        with opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{height}x{width} pixels, beyond {MAX_PIXELS:,}: make it smaller first")
            yield opened


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"no photos in folder {path}; looked for {', '.join(SUFFIXES)}")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise ValueError(f"no such photo or folder: {path}")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; 16-bit greys are scaled, where Pillow would cut them off at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257 + 0.5).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _upright_size(path: Path) -> Size:
    try:
        with open_photo(path) as opened:
            opened.load()
            width, height = ImageOps.exif_transpose(opened).size
    except UnidentifiedImageError:
        raise ValueError(f"not an image: {path}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read photo {path}: {error}") from None
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"photo {path} is {height}x{width}, beyond {MAX_SIDE} pixels a side")
    return height, width
