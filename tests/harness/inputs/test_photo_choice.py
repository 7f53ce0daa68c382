"""Which photos are drawn, and what becomes of unusual and damaged ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmeter.harness.inputs.photos import Photo, choose_photos, read_photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"p{number:02}.png")
    return tmp_path


def test_the_same_seed_draws_the_same_photos(folder: Path) -> None:
    first, _ = choose_photos([folder], 5, seed=3)
    again, _ = choose_photos([folder], 5, seed=3)
    other, _ = choose_photos([folder], 5, seed=4)
    assert first == again != other
    assert len(first) == 5
    assert [p.path for p in first] == sorted(p.path for p in first)
    assert len(choose_photos([folder], 100, seed=0)[0]) == 12


def test_a_photo_that_is_given_twice_counts_once(folder: Path) -> None:
    assert len(choose_photos([folder, folder / "p00.png"], 100, seed=0)[0]) == 12


def test_damaged_files_are_passed_over_and_named(folder: Path) -> None:
    whole = (folder / "p00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    photos, faults = choose_photos([folder], 100, seed=0)
    assert len(photos) == 12
    assert len(faults) == 2
    assert any("cut.png" in fault for fault in faults) and any("empty.jpg" in fault for fault in faults)


def test_no_readable_photo_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match=r"none of 1 images can be read: .*empty\.jpg"):
        choose_photos([tmp_path], 5, seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        choose_photos([tmp_path], 0, seed=0)
    with pytest.raises(ValueError, match="no photos in folder"):
        choose_photos([tmp_path / "sub"], 5, 0)


def saved(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    (photo,), faults = choose_photos([path], 1, seed=0)
    assert not faults
    return read_photo(photo, photo.size)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    grey = saved(Image.new("L", (4, 3), 100), tmp_path / "grey.png")
    # 25,700 of 65,535 is 100 of 255: both are 0.392 of full white.
    deep = saved(Image.fromarray(np.full((3, 4), 25_700, np.uint16)), tmp_path / "deep.png")
    alpha = saved(Image.new("RGBA", (4, 3), (100, 100, 100, 0)), tmp_path / "alpha.png")
    palette = saved(Image.new("RGB", (4, 3), (100, 100, 100)).convert("P"), tmp_path / "palette.png")
    for pixels in (grey, deep, alpha, palette):
        assert pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(grey, 100)
    np.testing.assert_array_equal(deep, 100)
    np.testing.assert_array_equal(alpha, 100)
    cmyk = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "ink.jpg", quality=95)
    # No cyan and all magenta and yellow is red; JPEG moves a level or two.
    assert cmyk[..., 0].min() > 245 and cmyk[..., 1:].max() < 10


def test_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to see it upright
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    (photo,), _ = choose_photos([path], 1, seed=0)
    assert photo == Photo(path, (8, 6))
