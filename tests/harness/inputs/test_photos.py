"""Photos: the package's own, folders, and bad files."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmeter.harness.inputs.photos import find_photos, read_photo


def test_the_package_ships_two_real_photos() -> None:
    photos = find_photos([])
    assert [p.name for p in photos] == ["china.jpg", "flower.jpg"]
    assert {p.size for p in photos} == {(427, 640)}
    # Real photos are neither flat nor noise: neighbours resemble each other.
    pixels = read_photo(photos[0], (427, 640)).astype(float)
    assert pixels.std() > 30
    assert np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1] > 0.9


def test_orientation_is_honoured(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to be upright
    lying.save(tmp_path / "phone.jpg", exif=exif)
    (photo,) = find_photos([tmp_path])
    assert photo.size == (40, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    Image.new(mode, (8, 6)).save(path)
    (photo,) = find_photos([path])
    assert read_photo(photo, (6, 8)).shape == (6, 8, 3)


def test_bad_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photos in folder"):
        find_photos([tmp_path])
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"not an image: .*text.jpg"):
        find_photos([tmp_path])
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cannot read photo .*cut.png"):
        find_photos([cut])
    with pytest.raises(ValueError, match="no such photo"):
        find_photos([tmp_path / "none.jpg"])


def test_what_pillow_thinks_of_a_damaged_file_is_not_printed_beside_our_line(tmp_path: Path) -> None:
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + b"\xff" * 1000)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"damaged\.tif"):
        warnings.simplefilter("error")
        find_photos([tmp_path / "damaged.tif"])
