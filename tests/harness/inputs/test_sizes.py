"""Image sizes: rules, data sets, annotation files, and bad input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmeter.harness.inputs.sizes import (
    COCO_RULE,
    ImageSize,
    annotation_sizes,
    choose_sizes,
    dataset_sizes,
    default_classes,
    from_image,
    pad,
    parse_padded_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("original", "resized", "padded"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((640, 480), (1067, 800), (1088, 800)),
        # The long side decides: 1333 of 640, 200 becomes 417.
        ((200, 640), (417, 1333), (448, 1344)),
    ],
)
def test_coco_resize_rule(
    original: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert COCO_RULE.apply(original) == resized
    assert from_image(original) == ImageSize(padded, original)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_resizing_keeps_within_the_rule_and_padding_only_adds(height: int, width: int) -> None:
    resized = COCO_RULE.apply((height, width))
    assert max(resized) <= 1333 and min(resized) <= 800
    padded = pad(resized)
    assert all(p % 32 == 0 and 0 <= p - r < 32 for p, r in zip(padded, resized, strict=True))


def test_coco_size_counts_give_the_known_means() -> None:
    everything, first = dataset_sizes("coco-val2017"), dataset_sizes("coco-val2017:100")
    assert (everything.total, first.total) == (5000, 100)
    # 55 distinct padded sizes among 603 distinct originals.
    assert len({s.padded for s in everything.images}) == 55 and len(everything.images) == 603

    def mean(sizes: object, which: str) -> float:
        images = sizes.images  # type: ignore[attr-defined]
        areas = [(getattr(s, which)[0] * getattr(s, which)[1], n) for s, n in images.items()]
        return sum(area * n for area, n in areas) / sum(n for _, n in areas)

    assert mean(first, "padded") == pytest.approx(903_803, abs=1)
    assert mean(first, "original") == pytest.approx(273_653, abs=1)
    assert mean(everything, "padded") == pytest.approx(907_771, abs=1)
    assert mean(everything, "original") == pytest.approx(273_731, abs=1)


def test_annotations_need_width_and_height_only(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    images = [{"id": i, "height": 480, "width": 640} for i in range(3)] + [{"height": 640, "width": 480}]
    path.write_text(json.dumps({"images": images, "annotations": "not read"}))
    sizes = annotation_sizes(path)
    assert sizes.total == 4
    assert sizes.images == {
        ImageSize((800, 1088), (480, 640)): 3,
        ImageSize((1088, 800), (640, 480)): 1,
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON"),
        (b'{"images": [{"height": 4', "truncated"),
        (b"\xff\xfe\x00", "not text"),
        (b"[]", "no list named 'images'"),
        (b'{"annotations": []}', "no list named 'images'"),
        (b'{"images": []}', "hold no images"),
        (b'{"images": [{"height": 4}]}', r"images\[0\]"),
        (b'{"images": [{"height": 4, "width": "5"}]}', r"images\[0\]"),
        (b'{"images": [{"height": 4, "width": -5}]}', r"images\[0\]"),
        (b'{"images": [7]}', r"images\[0\]"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_annotation_file_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told) as error:
        annotation_sizes(path)
    assert "\n" not in str(error.value) and "bad.json" in str(error.value)


def test_a_missing_annotation_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        annotation_sizes(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["800", "800x", "x800", "800x1088x3", "-1x5", "1.5x2", "0x32", "99999x32"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"HEIGHTxWIDTH|positive|at most"):
        parse_size(text)


def test_a_padded_size_off_the_grid_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="did you mean 800x1088"):
        parse_padded_size("800x1066")


def test_one_way_to_give_a_size_at_a_time() -> None:
    with pytest.raises(ValueError, match="--padded-size and --dataset"):
        choose_sizes(padded_size="32x32", dataset="cityscapes")
    with pytest.raises(ValueError, match="unknown data set"):
        choose_sizes(dataset="coco")


def test_the_original_size_is_the_image_before_resizing() -> None:
    (given,) = choose_sizes(image_size="480x640").images
    assert given == ImageSize((800, 1088), (480, 640))
    (padded,) = choose_sizes(padded_size="800x1088", original_size="800x1066").images
    assert padded == ImageSize((800, 1088), (800, 1066))


def test_classes_follow_the_data_set() -> None:
    assert default_classes(dataset_sizes("cityscapes")) == 19
    assert default_classes(dataset_sizes("coco-val2017")) == 133
