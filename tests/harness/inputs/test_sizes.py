"""Image sizes: rules, data sets, annotation files, and bad input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmeter.harness.inputs.sizes import (
    COCO_RULE,
    MAX_SIDE,
    ImageSize,
    SizeSet,
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


@pytest.mark.parametrize(
    ("sizes", "classes"),
    [([(1024, 2048)], 19), ([(1024, 2048), (800, 1088)], 133), ([(800, 1088)], 133), ([(2048, 1024)], 133)],
)
def test_classes_are_cityscapes_only_where_every_image_is(sizes: list[tuple[int, int]], classes: int) -> None:
    images = {ImageSize(size, size): 1 for size in sizes}
    assert default_classes(SizeSet("", images, "")) == classes


def test_the_largest_and_the_smallest_side_are_sizes_and_no_side_beyond_is() -> None:
    assert parse_size("32768x1") == (MAX_SIDE, 1) == (32768, 1)
    assert parse_size("1x32768") == (1, 32768)
    assert parse_padded_size("32768x32") == (32768, 32)
    for text in ("32769x1", "1x32769", "0x1", "1x0"):
        with pytest.raises(ValueError, match=r"at most 32768|positive"):
            parse_size(text)
    for text in ("33x32", "32x33"):
        with pytest.raises(ValueError, match="multiples of 32"):
            parse_padded_size(text)


@pytest.mark.parametrize(
    ("side", "taken"), [(1, True), (32768, True), (32769, False), (0, False), (True, False)]
)
def test_annotations_have_the_same_bounds_on_either_side(tmp_path: Path, side: int, taken: bool) -> None:
    for image in ({"height": side, "width": 64}, {"height": 64, "width": side}):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({"images": [{"height": 64, "width": 64}, image]}))
        if taken:
            assert annotation_sizes(path).total == 2
        else:
            with pytest.raises(ValueError, match=r"images\[1\]"):
                annotation_sizes(path)


@pytest.mark.parametrize(
    ("original", "resized"),
    [
        # 800 x 1333 exactly: the long side is at its bound and stays; then the first that passes it.
        ((600, 999), (800, 1332)),
        ((800, 1333), (800, 1333)),
        ((800, 1334), (799, 1333)),
        # Half a pixel is rounded up, as by int(x + 0.5): 800 / 64 * 65 = 812.5.
        ((64, 65), (800, 813)),
        # A strip of one pixel keeps one.
        ((1, 4000), (1, 1333)),
        ((4000, 1), (1333, 1)),
    ],
)
def test_the_resize_rule_at_its_bounds(original: tuple[int, int], resized: tuple[int, int]) -> None:
    assert COCO_RULE.apply(original) == resized


def test_padding_adds_less_than_a_stride_and_nothing_to_a_multiple() -> None:
    assert [pad((side, 32))[0] for side in (1, 31, 32, 33, 64)] == [32, 32, 32, 64, 64]
    assert pad((32, 33)) == (32, 64)


def test_no_original_size_beside_a_data_set() -> None:
    for source in ({"dataset": "cityscapes"}, {"annotations": Path("x.json")}):
        with pytest.raises(ValueError, match="--original-size goes with one size"):
            choose_sizes(original_size="480x640", **source)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown resize rule"):
        choose_sizes(image_size="480x640", resize_rule="voc")
    (default,) = choose_sizes().images
    assert default == ImageSize((1024, 2048), (1024, 2048))
    (ruled,) = choose_sizes(image_size="1000x2000", resize_rule="cityscapes").images
    assert ruled == ImageSize((1024, 2048), (1000, 2000))
