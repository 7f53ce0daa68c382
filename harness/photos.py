"""Photos to measure on: the user's files, or the two that scikit-learn ships."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.sizes import MAX_SIDE, Size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
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
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"no photos in folder {path}; looked for {', '.join(SUFFIXES)}")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"no such photo or folder: {path}")
    return [Photo(path, _upright_size(path)) for path in files]


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
        with Image.open(photo.path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            return np.asarray(upright.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read photo {photo.path}: {error}") from None


def _upright_size(path: Path) -> Size:
    try:
        with Image.open(path) as opened:
            opened.load()
            width, height = ImageOps.exif_transpose(opened).size
    except UnidentifiedImageError:
        raise ValueError(f"not an image: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read photo {path}: {error}") from None
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"photo {path} is {height}x{width}, beyond {MAX_SIDE} pixels a side")
    return height, width
