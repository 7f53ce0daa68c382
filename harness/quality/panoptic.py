"""Panoptic quality: PQ, SQ and RQ, exactly as the COCO panoptic API defines them, without that package.

Source: Kirillov et al., "Panoptic Segmentation" (arXiv 1801.00868); the conventions for void and crowd are
those of cocodataset/panopticapi's ``evaluation.py``. An image is scored through the runs of its pixels: a few
thousand of them in place of hundreds of thousands of pixels to sort.
"""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segmeter.harness.quality.png_ids import WrongSizeError, build_decoder, read_segment_png, use_decoder

VOID = 0
CHUNK = 16
# Seconds that a process takes before it scores: the interpreter, numpy, Pillow.
START_S = 1.0
# Columns of a score table, one row a category.
IOU, TP, FP, FN = range(4)


class WorkerKilledError(RuntimeError):
    """One of the processes that share the work is gone."""


@dataclass(frozen=True)
class GroundSegment:
    """A segment of the ground truth, as its JSON has it."""

    id: int
    category_id: int
    area: int
    iscrowd: bool = False


@dataclass(frozen=True)
class PanopticPair:
    """One image's two PNG files and what their JSON files say of them.

    Attributes:
        image_id: of the data set.
        truth_png: ground truth, segment ids as R + 256 G + 65536 B.
        predicted_png: prediction, likewise.
        truth: the ground truth's segments.
        predicted: predicted segment id -> category id.
        size: (H, W) of the image as the annotations have it; None where they do not tell.
    """

    image_id: int | str
    truth_png: Path
    predicted_png: Path
    truth: tuple[GroundSegment, ...]
    predicted: Mapping[int, int]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quality:
    """Mean over the classes that occur, as fractions; ``classes`` is their number."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass
class PanopticScore:
    """Sums over images: a (categories, 4) table of IoU sum, true positives, false positives, misses.

    Attributes:
        categories: category id -> whether it is a thing.
        table: float64, rows in the order of ``categories``.
        images: number of images scored.
        faults: what kept an image from being scored, one line each; such an image adds nothing.
        notes: how often a ground truth contradicts itself, by kind; scored as the reference tool does.
    """

    categories: Mapping[int, bool]
    table: np.ndarray = field(init=False)
    images: int = 0
    faults: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = np.zeros((len(self.categories), 4))

    def add(self, other: "PanopticScore") -> None:
        """Add another's sums."""
        self.table += other.table
        self.images += other.images
        self.faults += other.faults
        for note, count in other.notes.items():
            self.notes[note] = self.notes.get(note, 0) + count

    def per_class(self) -> dict[int, Quality]:
        """Quality of each category that occurs in the ground truth or as a false positive."""
        result = {}
        for category, (iou, tp, fp, fn) in zip(self.categories, self.table.tolist(), strict=True):
            weight = tp + fp / 2 + fn / 2
            if weight:
                result[category] = Quality(iou / weight, iou / tp if tp else 0.0, tp / weight, 1)
        return result

    def mean(self, things: bool | None = None) -> Quality | None:
        """Mean over all classes (None), things or stuff; None if no such class occurs."""
        chosen = [
            quality
            for category, quality in self.per_class().items()
            if things is None or self.categories[category] == things
        ]
        if not chosen:
            return None
        count = len(chosen)
        return Quality(
            sum(q.pq for q in chosen) / count,
            sum(q.sq for q in chosen) / count,
            sum(q.rq for q in chosen) / count,
            count,
        )


def overlaps(truth: np.ndarray, predicted: np.ndarray) -> dict[tuple[int, int], int]:
    """Pixels of each pair of (truth id, predicted id) that occurs.

    Raises:
        ValueError: the two maps differ in size.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the prediction is {_size(predicted)}, the ground truth {_size(truth)}")
    first, second = truth.ravel(), predicted.ravel()
    if not first.size:
        return {}
    changes = np.flatnonzero((first[1:] != first[:-1]) | (second[1:] != second[:-1])) + 1
    starts = np.concatenate(([0], changes))
    lengths = np.diff(starts, append=first.size)
    keys = (first[starts].astype(np.uint64) << np.uint64(32)) | second[starts].astype(np.uint64)
    pairs, where = np.unique(keys, return_inverse=True)
    counts = np.bincount(where.ravel(), weights=lengths)
    return {
        (key >> 32, key & 0xFFFFFFFF): int(count)
        for key, count in zip(pairs.tolist(), counts.tolist(), strict=True)
    }


def score_maps(
    truth: np.ndarray,
    predicted: np.ndarray,
    truth_segments: Sequence[GroundSegment],
    predicted_segments: Mapping[int, int],
    categories: Mapping[int, bool],
) -> PanopticScore:
    """Score one image.

    A predicted and a true segment of one category match if their IoU is above one half; predicted pixels
    on void are left out of the union. A predicted segment that is unmatched is not counted if more than half
    of it lies on void and on the crowd region of its category (the last one, as in the reference tool). A
    true segment's area is the JSON's.

    Args:
        truth: (H, W) segment ids, 0 is void.
        predicted: (H, W) segment ids, 0 is void.
        truth_segments: of the ground truth's JSON.
        predicted_segments: segment id -> category id.
        categories: category id -> whether it is a thing.

    Raises:
        ValueError: ids that the predicted map has and its JSON does not, or the reverse; an unknown category;
            maps of two sizes.
    """
    shared = overlaps(truth, predicted)
    areas: dict[int, int] = {}
    truth_areas: dict[int, int] = {}
    for (true_id, predicted_id), count in shared.items():
        areas[predicted_id] = areas.get(predicted_id, 0) + count
        truth_areas[true_id] = truth_areas.get(true_id, 0) + count
    _check_prediction(areas, predicted_segments, categories)
    score = PanopticScore(categories)
    row = {category: index for index, category in enumerate(categories)}
    by_id = {segment.id: segment for segment in truth_segments}
    for segment in by_id.values():
        if segment.category_id not in row:
            raise ValueError(f"true segment {segment.id} has the unknown category {segment.category_id}")
    _note_contradictions(score, by_id, truth_areas)
    matched_true, matched_predicted = set(), set()
    for (true_id, predicted_id), count in shared.items():
        true_segment = by_id.get(true_id)
        if true_segment is None or predicted_id not in predicted_segments or true_segment.iscrowd:
            continue
        if true_segment.category_id != predicted_segments[predicted_id]:
            continue
        union = areas[predicted_id] + true_segment.area - count - shared.get((VOID, predicted_id), 0)
        if union < count:
            raise ValueError(
                f"true segment {true_id} has the area {true_segment.area} in the JSON, "
                f"but {count} of its pixels are in the PNG"
            )
        # Above one half, with integers: exactly one half is no match.
        if 2 * count > union:
            score.table[row[true_segment.category_id], [IOU, TP]] += (count / union, 1)
            matched_true.add(true_id)
            matched_predicted.add(predicted_id)
    crowds: dict[int, int] = {}
    for segment in by_id.values():
        if segment.id in matched_true:
            continue
        if segment.iscrowd:
            crowds[segment.category_id] = segment.id
        else:
            score.table[row[segment.category_id], FN] += 1
    for predicted_id, category in predicted_segments.items():
        if predicted_id in matched_predicted:
            continue
        ignored = shared.get((VOID, predicted_id), 0)
        if category in crowds:
            ignored += shared.get((crowds[category], predicted_id), 0)
        if 2 * ignored <= areas[predicted_id]:
            score.table[row[category], FP] += 1
    score.images = 1
    return score


def score_pairs(
    pairs: Iterable[PanopticPair],
    categories: Mapping[int, bool],
    processes: int | None = None,
    on_image: Callable[[int], None] = lambda count: None,
) -> PanopticScore:
    """Score image after image, in several processes.

    The sums are made in the order of the images, whatever the number of processes. Images that cannot be
    scored are named in ``faults`` and add nothing.

    Args:
        pairs: the images.
        categories: category id -> whether it is a thing.
        processes: None for as many as the work is worth, see :func:`worthwhile`; 1 for this process alone.
        on_image: told of each number of images that are done.

    Raises:
        WorkerKilledError: a worker process was killed.
    """
    total = PanopticScore(categories)
    pairs = list(pairs)
    start = time.perf_counter()

    def book(score: PanopticScore) -> None:
        total.add(score)
        on_image(score.images + len(score.faults))

    # The first chunk is scored here in any case: it tells what the others will take.
    book(_score_chunk(pairs[:CHUNK], categories))
    left = pairs[CHUNK:]
    each = (time.perf_counter() - start) / CHUNK
    count = processes or worthwhile(each * len(left), _cores())
    chunks = _chunks(left)
    if count == 1 or not left:
        scores: Iterable[PanopticScore] = (_score_chunk(chunk, categories) for chunk in chunks)
    else:
        scores = _in_processes(chunks, categories, count)
    for score in scores:
        book(score)
    return total


def worthwhile(seconds: float, cores: int) -> int:
    """How many processes to start for work that would take one process so many seconds.

    Each takes :data:`START_S` to start and must have at least as much to do.

    >>> worthwhile(0.6, 8), worthwhile(10.0, 2), worthwhile(3.5, 8)
    (1, 2, 3)
    """
    count = min(cores, int(seconds / START_S))
    return count if count > 1 else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    chunks: Iterator[list[PanopticPair]], categories: Mapping[int, bool], count: int
) -> Iterator[PanopticScore]:
    """Chunk after chunk, in order; never more than a few chunks are under way, so memory stays flat."""
    context = multiprocessing.get_context("spawn")
    # Built here once, so that no worker has to.
    decoder = build_decoder()
    with ProcessPoolExecutor(count, mp_context=context, initializer=use_decoder, initargs=(decoder,)) as pool:
        waiting: deque[Future[PanopticScore]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_score_chunk, chunk, categories))
                if len(waiting) >= 4 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise WorkerKilledError(
                "a scoring process was killed (out of memory?); no score was made"
            ) from None


def _score_chunk(pairs: Sequence[PanopticPair], categories: Mapping[int, bool]) -> PanopticScore:
    total = PanopticScore(categories)
    for pair in pairs:
        try:
            truth = read_segment_png(pair.truth_png, pair.size)
            predicted = _read_prediction(pair.predicted_png, truth)
            total.add(score_maps(truth, predicted, pair.truth, pair.predicted, categories))
        except ValueError as error:
            total.faults.append(f"image {pair.image_id}: {error}")
    return total


def _read_prediction(path: Path, truth: np.ndarray) -> np.ndarray:
    try:
        return read_segment_png(path, (truth.shape[0], truth.shape[1]))
    except WrongSizeError as error:
        height, width = error.found
        raise ValueError(f"the prediction is {height}x{width}, the ground truth {_size(truth)}") from None


def _chunks(pairs: Iterable[PanopticPair]) -> Iterator[list[PanopticPair]]:
    source = iter(pairs)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _check_prediction(
    areas: Mapping[int, int], segments: Mapping[int, int], categories: Mapping[int, bool]
) -> None:
    unlisted = sorted(set(areas) - set(segments) - {VOID})
    if unlisted:
        raise ValueError(f"predicted segment ids {_some(unlisted)} are in the PNG and not in the JSON")
    absent = sorted(set(segments) - set(areas))
    if absent:
        raise ValueError(f"predicted segment ids {_some(absent)} are in the JSON and not in the PNG")
    for segment, category in segments.items():
        if category not in categories:
            raise ValueError(f"predicted segment {segment} has the unknown category {category}")


def _note_contradictions(
    score: PanopticScore, segments: Mapping[int, GroundSegment], areas: Mapping[int, int]
) -> None:
    unlisted = len(set(areas) - set(segments) - {VOID})
    absent = sum(segment.id not in areas for segment in segments.values())
    other = sum(areas.get(s.id, s.area) != s.area for s in segments.values())
    for note, count in (
        ("true segment ids in the PNG and not in the JSON", unlisted),
        ("true segment ids in the JSON and not in the PNG", absent),
        ("true segments whose area in the JSON is not the PNG's", other),
    ):
        if count:
            score.notes[note] = count


def _some(ids: Sequence[Any]) -> str:
    shown = ", ".join(map(str, ids[:5]))
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))
