"""Totals on COCO: means over images, and the images that give the means that are printed.

The papers' tool prints the mean over the images it was given. Where the first 100 images of val2017 do not
give the printed totals, a sample is solved for: those 100 with a few images of one size exchanged for as many
of another real size. One sample must give the totals of several models at once; a single figure could be met
by almost any exchange and proves nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, permutations
from pathlib import Path

from segmeter.files import read_json
from segmeter.harness.counting import CostModel
from segmeter.harness.inputs import (
    COCO_RULE,
    ImageSize,
    ResizeRule,
    SizeSet,
    annotation_sizes,
    dataset_sizes,
    format_size,
    from_image,
)

FIRST_IMAGES = "coco-val2017:100"
ALL_IMAGES = "coco-val2017"
MOST_EXCHANGED = 5
FEWEST_MODELS = 2


@dataclass(frozen=True)
class Target:
    """A total to be met: a model and the range of GMACs that would be printed as the paper's figure."""

    model: CostModel
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Real image sizes whose mean cost meets several printed totals.

    Attributes:
        sizes: the images.
        text: which images they are, in words.
        models: how many different models' totals they meet.
        tried: how many samples were tried to find this one.
    """

    sizes: SizeSet
    text: str
    models: int
    tried: int


def mean_total(model: CostModel, sizes: SizeSet) -> float:
    """GMACs of the whole model, mean over the images."""
    return sum(model.total(size) * n for size, n in sizes.images.items()) / sizes.total


def mean_pixels(sizes: SizeSet) -> float:
    """Padded pixels, mean over the images."""
    return sum(s.padded[0] * s.padded[1] * n for s, n in sizes.images.items()) / sizes.total


def solve_samples(targets: Sequence[Target]) -> list[Sample]:
    """Samples of real images that meet the targets, the one that meets the most models first.

    Each next sample is sought for the targets left over; one that only a single model meets is not kept.
    """
    return _in_turn(targets, _best_exchange)


def solve_prefixes(targets: Sequence[Target], images: Sequence[ImageSize]) -> list[Sample]:
    """As :func:`solve_samples`, among the first N of these images for every N."""
    return _in_turn(targets, lambda left: _best_prefix(left, images))


def images_by_id(path: Path, rule: ResizeRule = COCO_RULE) -> list[ImageSize]:
    """Sizes of an annotation file's images in the order of their ids, which is the papers' tool's order.

    Raises:
        ValueError: as :func:`harness.inputs.sizes.annotation_sizes`, or an image without an id.
    """
    annotation_sizes(path, rule)
    images = read_json(path)["images"]
    for index, image in enumerate(images):
        if not isinstance(image.get("id"), int) or isinstance(image["id"], bool):
            raise ValueError(f"annotations {path}: images[{index}] has no whole number 'id'")
    images.sort(key=lambda image: image["id"])
    return [from_image((image["height"], image["width"]), rule) for image in images]


def size_set(name: str, images: Sequence[ImageSize], source: str) -> SizeSet:
    """These images as a set of sizes."""
    return SizeSet(name, dict(Counter(images)), source)


def _in_turn(targets: Sequence[Target], best: Callable[[Sequence[Target]], Sample | None]) -> list[Sample]:
    left, found = list(targets), []
    while left:
        sample = best(left)
        if sample is None or sample.models < FEWEST_MODELS:
            break
        found.append(sample)
        left = [t for t in left if not t.low <= mean_total(t.model, sample.sizes) <= t.high]
    return found


def _windows(targets: Sequence[Target]) -> dict[CostModel, tuple[float, float]]:
    """For each model the range of GMACs that meets all its targets."""
    windows: dict[CostModel, tuple[float, float]] = {}
    for target in targets:
        low, high = windows.get(target.model, (target.low, target.high))
        windows[target.model] = max(low, target.low), min(high, target.high)
    return windows


def _best_exchange(targets: Sequence[Target]) -> Sample | None:
    """The exchange of up to five images that meets the most models; then the smallest, the nearest."""
    first = dataset_sizes(FIRST_IMAGES)
    stock = dataset_sizes(ALL_IMAGES).images
    sizes = list(first.images)
    windows = _windows(targets)
    costs = [[model.total(size) for size in sizes] for model in windows]
    # What the sum over the images must change by.
    changes = [
        tuple((edge - mean_total(model, first)) * first.total for edge in window)
        for model, window in windows.items()
    ]
    best: tuple[tuple[int, int, float], int, int] | None = None
    tried = 0
    for taken, given in permutations(range(len(sizes)), 2):
        out, into = sizes[taken], sizes[given]
        for number in range(1, min(MOST_EXCHANGED, first.images[out], stock[into] - first.images[into]) + 1):
            tried += 1
            met, off = 0, 0.0
            for row, (low, high) in zip(costs, changes, strict=True):
                change = number * (row[given] - row[taken])
                met += low <= change <= high
                off += abs(change - (low + high) / 2)
            rank = (-met, number, off)
            if met and (best is None or rank < best[0]):
                best = rank, taken, given
    if best is None:
        return None
    (met, number, _), taken, given = best
    images = Counter(first.images)
    images[sizes[taken]] -= number
    images[sizes[given]] += number
    sample = SizeSet("100 real images", {s: n for s, n in images.items() if n}, "solved for")
    text = (
        f"the first {first.total} images of val2017 with {number} of {format_size(sizes[taken].original)} "
        f"exchanged for {format_size(sizes[given].original)}"
    )
    return Sample(sample, text, -met, tried)


def _best_prefix(targets: Sequence[Target], images: Sequence[ImageSize]) -> Sample | None:
    """The first N images whose means meet the most models; the fewest images where several do."""
    windows = _windows(targets)
    met = [0] * len(images)
    for model, (low, high) in windows.items():
        costs = {size: model.total(size) for size in set(images)}
        for index, total in enumerate(accumulate(costs[size] for size in images)):
            met[index] += low <= total / (index + 1) <= high
    if not any(met):
        return None
    number = met.index(max(met)) + 1
    text = f"the first {number} images of the annotation file by id"
    return Sample(size_set(text, images[:number], "annotations"), text, max(met), len(images))
