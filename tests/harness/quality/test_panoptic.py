"""PQ, SQ and RQ against the definition done by brute force, pixel set by pixel set."""

import os
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.harness.quality.panoptic import (
    GroundSegment,
    PanopticPair,
    PanopticScore,
    overlaps,
    score_maps,
    score_pairs,
)
from segmeter.harness.quality.png_ids import segment_png

CATEGORIES = {1: True, 2: True, 7: False, 9: False}


def brute_force(truth, predicted, true_segments, predicted_segments) -> dict[int, list[Fraction]]:
    """The COCO panoptic API's rules over sets of pixels, in exact fractions: IoU sum, TP, FP, FN."""
    stats = {category: [Fraction(0)] * 4 for category in CATEGORIES}
    pixels = lambda array, value: set(np.flatnonzero(array.ravel() == value).tolist())  # noqa: E731
    void = pixels(truth, 0)
    matched_true, matched_predicted = set(), set()
    for true in true_segments:
        for predicted_id, category in predicted_segments.items():
            ours, theirs = pixels(predicted, predicted_id), pixels(truth, true.id)
            if true.iscrowd or category != true.category_id or not ours & theirs:
                continue
            union = Fraction(len(ours) + true.area - len(ours & theirs) - len(ours & void))
            if Fraction(len(ours & theirs)) / union > Fraction(1, 2):
                stats[category][0] += len(ours & theirs) / union
                stats[category][1] += 1
                matched_true.add(true.id)
                matched_predicted.add(predicted_id)
    crowd = {s.category_id: s.id for s in true_segments if s.iscrowd}
    for true in true_segments:
        if not true.iscrowd and true.id not in matched_true:
            stats[true.category_id][3] += 1
    for predicted_id, category in predicted_segments.items():
        ours = pixels(predicted, predicted_id)
        if predicted_id in matched_predicted:
            continue
        ignored = len(ours & void)
        if category in crowd:
            ignored += len(ours & pixels(truth, crowd[category]))
        if not Fraction(ignored, len(ours)) > Fraction(1, 2):
            stats[category][2] += 1
    return stats


def segments_of(truth: np.ndarray, categories: dict[int, int], crowds=()) -> list[GroundSegment]:
    return [
        GroundSegment(i, category, int((truth == i).sum()), i in crowds) for i, category in categories.items()
    ]


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    ids = st.integers(0, 5)
    cells = st.lists(ids, min_size=height * width, max_size=height * width)
    truth = np.array(draw(cells), np.uint32).reshape(height, width)
    # Mostly the truth itself, so that there are matches too.
    noise = np.array(draw(cells), np.uint32).reshape(height, width)
    mixed = draw(st.sampled_from((0.0, 0.2, 0.6, 1.0)))
    chosen = np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width)) < mixed
    predicted = np.where(chosen, noise, truth) * 1000
    category = st.sampled_from(sorted(CATEGORIES))
    listed = draw(st.sets(st.integers(1, 7), max_size=7))  # ids 6 and 7 are never in the map
    true_segments = segments_of(
        truth, {i: draw(category) for i in sorted(listed)}, draw(st.sets(st.integers(1, 5), max_size=2))
    )
    present = [int(i) for i in np.unique(predicted) if i]
    # Often the true category, so that segments match.
    of_truth = {s.id * 1000: s.category_id for s in true_segments}
    predicted_segments = {
        i: of_truth.get(i) if draw(st.booleans()) and i in of_truth else draw(category) for i in present
    }
    return truth, predicted.astype(np.uint32), true_segments, predicted_segments


@settings(max_examples=400, deadline=None)
@given(cases())
def test_random_images_score_as_by_the_definition(case):
    score = score_maps(*case, CATEGORIES)
    for category, row in zip(CATEGORIES, score.table, strict=True):
        assert row.tolist() == pytest.approx([float(x) for x in brute_force(*case)[category]], abs=1e-12)


def line(*runs: tuple[int, int]) -> np.ndarray:
    """A map of one row from (id, pixels) runs."""
    return np.concatenate([np.full(count, i, np.uint32) for i, count in runs])[None]


def table_of(truth, predicted, true_segments, predicted_segments) -> dict[int, list[float]]:
    score = score_maps(truth, predicted, true_segments, predicted_segments, CATEGORIES)
    return {c: row for c, row in zip(CATEGORIES, score.table.tolist(), strict=True) if any(row)}


def test_an_iou_of_exactly_one_half_is_no_match():
    truth, predicted = line((1, 3), (9, 9)), line((0, 1), (5, 3), (0, 8))
    segments = segments_of(truth, {1: 1})
    # Segment 5 covers pixels 1 to 3: 2 shared, 3 + 3 - 2 = 4 in the union (9 is neither void nor listed).
    assert table_of(truth, predicted, segments, {5: 1}) == {1: [0, 0, 1, 1]}
    # One pixel less in the prediction: 2 / 3.
    predicted = line((0, 1), (5, 2), (0, 9))
    assert table_of(truth, predicted, segments, {5: 1}) == {1: [pytest.approx(2 / 3), 1, 0, 0]}


def test_void_is_left_out_of_the_union():
    # 4 shared, 10 of the prediction on void: IoU 4 / 4, not 4 / 14.
    truth, predicted = line((1, 4), (0, 10)), line((5, 14))
    assert table_of(truth, predicted, segments_of(truth, {1: 7}), {5: 7}) == {7: [1, 1, 0, 0]}


@pytest.mark.parametrize(("on_void", "false_positives"), [(5, 1), (6, 0)])
def test_a_prediction_mostly_on_void_is_no_false_positive(on_void, false_positives):
    # 10 pixels; exactly half on void still counts.
    truth = line((0, on_void), (1, 10 - on_void), (1, 30))
    predicted = line((5, 10), (0, 30))
    rows = table_of(truth, predicted, segments_of(truth, {1: 1}), {5: 2})
    assert rows.get(2, [0, 0, 0, 0]) == [0, 0, false_positives, 0]
    assert rows[1] == [0, 0, 0, 1]


def test_a_crowd_region_is_neither_matched_nor_missed():
    truth, predicted = line((1, 10), (2, 10)), line((5, 10), (6, 10))
    segments = segments_of(truth, {1: 1, 2: 2}, crowds={1})
    # 5 lies on the crowd of its own category: ignored. Of another category, it is a false positive.
    assert table_of(truth, predicted, segments, {5: 1, 6: 2}) == {2: [1, 1, 0, 0]}
    assert table_of(truth, predicted, segments, {5: 2, 6: 2}) == {2: [1, 1, 1, 0]}


def test_one_pixel_segments_and_three_byte_ids():
    truth = line((1, 1), (70000, 1), (256**3 - 1, 1))
    segments = segments_of(truth, {1: 1, 70000: 2, 256**3 - 1: 7})
    expected = {1: [1, 1, 0, 0], 2: [1, 1, 0, 0], 7: [1, 1, 0, 0]}
    assert table_of(truth, truth, segments, {1: 1, 70000: 2, 256**3 - 1: 7}) == expected


def test_an_image_without_segments():
    empty = np.zeros((3, 4), np.uint32)
    assert table_of(empty, empty, [], {}) == {}
    # All predicted is on void, so it is ignored; all that is true is missed.
    assert table_of(empty, empty + 1, [], {1: 1}) == {}
    assert table_of(empty + 1, empty, segments_of(empty + 1, {1: 1}), {}) == {1: [0, 0, 0, 1]}


def test_ids_that_the_ground_truth_contradicts_itself_on_are_noted():
    truth = line((1, 4), (3, 4))
    segments = [GroundSegment(1, 1, 5), GroundSegment(2, 2, 6)]  # 3 is not listed, 2 not in the map
    score = score_maps(truth, line((1, 4), (0, 4)), segments, {1: 1}, CATEGORIES)
    # The area of segment 1 is the JSON's 5: IoU 4 / (4 + 5 - 4).
    assert score.table[0].tolist() == pytest.approx([4 / 5, 1, 0, 0])
    assert score.table[1].tolist() == [0, 0, 0, 1]
    assert score.notes == {
        "true segment ids in the PNG and not in the JSON": 1,
        "true segment ids in the JSON and not in the PNG": 1,
        "true segments whose area in the JSON is not the PNG's": 1,
    }


@pytest.mark.parametrize(
    ("predicted", "segments", "message"),
    [
        (line((1, 4)), {}, "ids 1 are in the PNG and not in the JSON"),
        (line((1, 4)), {1: 1, 2: 1}, "ids 2 are in the JSON and not in the PNG"),
        (line((1, 4)), {1: 3}, "segment 1 has the unknown category 3"),
        (
            line((1, 4)),
            {1: 1} | dict.fromkeys(range(2, 10), 1),
            "ids 2, 3, 4, 5, 6 and 3 more are in the JSON",
        ),
        (line((1, 5)), {1: 1}, "the prediction is 1x5, the ground truth 1x4"),
    ],
)
def test_predictions_that_contradict_themselves_are_refused(predicted, segments, message):
    with pytest.raises(ValueError, match=message):
        score_maps(line((0, 4)), predicted, [], segments, CATEGORIES)


def test_a_true_category_that_nobody_knows_is_refused():
    truth = line((1, 4))
    with pytest.raises(ValueError, match="true segment 1 has the unknown category 99"):
        score_maps(truth, line((0, 4)), segments_of(truth, {1: 99}), {}, CATEGORIES)


def test_means_are_over_the_classes_that_occur():
    score = PanopticScore(CATEGORIES)
    score.table[:] = [[1.6, 2, 1, 1], [0, 0, 0, 1], [0.9, 1, 0, 0], [0, 0, 0, 0]]
    # PQ 1.6 / 3, 0 and 0.9 / 1; SQ 0.8, 0, 0.9; RQ 2 / 3, 0, 1; class 9 does not occur.
    things, stuff, every = score.mean(True), score.mean(False), score.mean()
    assert (things.pq, things.sq, things.rq) == pytest.approx((1.6 / 6, 0.4, 1 / 3))
    assert (stuff.pq, stuff.classes, every.classes) == (pytest.approx(0.9), 1, 3)
    assert every.pq == pytest.approx((1.6 / 3 + 0.9) / 3)
    assert PanopticScore(CATEGORIES).mean() is None


def test_overlaps_count_every_pixel_once():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 4, (2, 50, 60)).astype(np.uint32)
    counts = overlaps(truth, predicted)
    assert sum(counts.values()) == 3000
    assert counts[2, 3] == ((truth == 2) & (predicted == 3)).sum()


def pairs_on_disk(folder: Path, count: int) -> list[PanopticPair]:
    generator, pairs = np.random.default_rng(1), []
    for index in range(count):
        truth = np.kron(generator.integers(0, 5, (4, 5)), np.ones((8, 8))).astype(np.uint32)
        predicted = np.where(generator.random((32, 40)) < 0.1, 0, truth)
        for name, ids in (("truth", truth), ("predicted", predicted)):
            segment_png(ids).save(folder / f"{name}{index}.png")
        categories = {int(i): sorted(CATEGORIES)[i - 1] for i in np.unique(truth) if i}
        pairs.append(
            PanopticPair(
                index,
                folder / f"truth{index}.png",
                folder / f"predicted{index}.png",
                tuple(segments_of(truth, categories)),
                {i: c for i, c in categories.items() if (predicted == i).any()},
            )
        )
    return pairs


def test_several_processes_give_the_very_same_sums(tmp_path):
    pairs, told = pairs_on_disk(tmp_path, 40), []
    alone = score_pairs(pairs, CATEGORIES, processes=1, on_image=told.append)
    together = score_pairs(pairs, CATEGORIES, processes=2)
    assert np.array_equal(alone.table, together.table)
    assert alone.images == together.images == sum(told) == 40
    assert alone.table[:, 1].min() > 0


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    pairs = pairs_on_disk(tmp_path, 8)

    def peak(count: int) -> int:
        """Most bytes held at once while so many images are scored."""
        tracemalloc.start()
        score = score_pairs((pairs[index % 8] for index in range(count)), CATEGORIES, processes=1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert score.images == count
        return most

    peak(32)
    # Ten times the images: the same two maps at a time, and a table of four numbers a category.
    assert peak(640) < 1.2 * peak(64)


def test_a_damaged_png_is_named_and_adds_nothing(tmp_path):
    pairs = pairs_on_disk(tmp_path, 4)
    pairs[1].truth_png.unlink()
    content = pairs[2].predicted_png.read_bytes()
    pairs[2].predicted_png.write_bytes(content[: len(content) // 2])
    score = score_pairs(pairs, CATEGORIES, processes=1)
    good = score_pairs([pairs[0], pairs[3]], CATEGORIES, processes=1)
    assert np.array_equal(score.table, good.table)
    assert score.images == 2
    assert [fault.split(":")[0] for fault in score.faults] == ["image 1", "image 2"]
    assert "truth1.png is missing" in score.faults[0]
    assert "predicted2.png cannot be read" in score.faults[1]


class Deadly(dict):
    """Categories that end whatever process reads them."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_worker_stops_the_scoring(tmp_path):
    with pytest.raises(RuntimeError, match="a scoring process was killed"):
        score_pairs(pairs_on_disk(tmp_path, 20), Deadly(CATEGORIES), processes=2)
