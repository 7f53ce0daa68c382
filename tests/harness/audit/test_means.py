"""Means over images, and the samples of real images that are solved for, on models of known cost."""

import json
import random
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path

import pytest

from segmeter.harness.audit.means import (
    ALL_IMAGES,
    FIRST_IMAGES,
    MOST_EXCHANGED,
    Target,
    images_by_id,
    mean_pixels,
    mean_total,
    size_set,
    solve_prefixes,
    solve_samples,
)
from segmeter.harness.counting import CostModel
from segmeter.harness.inputs import ImageSize, SizeSet, dataset_sizes, format_size
from segmeter.harness.models import model_spec

SPEC = model_spec("m2f", "r50")
FIRST = dataset_sizes(FIRST_IMAGES)
SIZES = list(dataset_sizes(ALL_IMAGES).images)
SMALL, LARGE = ImageSize((32, 64), (30, 60)), ImageSize((64, 64), (50, 60))
ALL = [*SIZES, SMALL, LARGE]


def costing(number: int) -> CostModel:
    """A model whose costs, in [0, 1), no other exchange can meet by chance."""
    chance = random.Random(number)
    return CostModel(SPEC, None, None, Fraction(number), {size: chance.random() for size in ALL})


MODELS = [costing(number) for number in range(3)]
EXACT = 1e-9


def exchanged(number: int, out: ImageSize, into: ImageSize) -> SizeSet:
    images = dict(FIRST.images)
    images[out] -= number
    images[into] += number
    return SizeSet("sample", images, "")


def targets_of(sample: SizeSet, models: list[CostModel], room: float = EXACT) -> list[Target]:
    means = [mean_total(model, sample) for model in models]
    return [Target(model, mean - room, mean + room) for model, mean in zip(models, means, strict=True)]


def test_means_weigh_each_size_by_its_images() -> None:
    sizes = size_set("few", [SMALL, LARGE, SMALL, SMALL], "here")
    assert sizes.images == {SMALL: 3, LARGE: 1} and (sizes.name, sizes.source) == ("few", "here")
    assert mean_pixels(sizes) == (3 * 32 * 64 + 64 * 64) / 4
    costs = [MODELS[0].total(size) for size in (SMALL, LARGE)]
    assert mean_total(MODELS[0], sizes) == pytest.approx((3 * costs[0] + costs[1]) / 4)


# The most frequent size, of which enough can be taken, and two of one image each.
FREQUENT = max(FIRST.images, key=lambda size: FIRST.images[size])
RARE = [size for size, images in FIRST.images.items() if images == 1]


@pytest.mark.parametrize("number", [1, 2, MOST_EXCHANGED])
def test_a_sample_is_the_exchange_that_gives_all_means(number: int) -> None:
    into = max((s for s in FIRST.images if s != FREQUENT), key=lambda s: dataset_sizes(ALL_IMAGES).images[s])
    wanted = exchanged(number, FREQUENT, into)
    (sample,) = solve_samples(targets_of(wanted, MODELS))
    assert sample.models == len(MODELS) and sample.sizes.total == 100
    assert [mean_total(m, sample.sizes) for m in MODELS] == pytest.approx(
        [mean_total(m, wanted) for m in MODELS], abs=EXACT
    )
    assert f"with {number} of {format_size(FREQUENT.original)} exchanged" in sample.text
    assert all(n > 0 for n in sample.sizes.images.values())
    # Every exchange of one to five images was tried.
    stock = dataset_sizes(ALL_IMAGES).images
    assert sample.tried == sum(
        max(0, min(MOST_EXCHANGED, FIRST.images[out], stock[to] - FIRST.images[to]))
        for out in FIRST.images
        for to in FIRST.images
        if out != to
    )


def test_all_images_of_a_size_may_go() -> None:
    (sample,) = solve_samples(targets_of(exchanged(1, RARE[0], FREQUENT), MODELS))
    assert RARE[0] not in sample.sizes.images and sample.sizes.images[FREQUENT] == FIRST.images[FREQUENT] + 1


def test_of_exchanges_that_meet_as_many_the_smallest_and_nearest_is_taken() -> None:
    wanted = exchanged(2, FREQUENT, RARE[0])
    # So much room that more than one exchange meets both.
    found = solve_samples(targets_of(wanted, MODELS[:2], room=5e-3))[0]
    assert " with 1 of " in found.text
    means = [mean_total(model, wanted) for model in MODELS[:2]]

    def off(images: SizeSet) -> float:
        return sum(abs(mean_total(m, images) - mean) for m, mean in zip(MODELS, means, strict=False))

    stock = dataset_sizes(ALL_IMAGES).images
    others = [
        exchanged(1, out, to)
        for out in FIRST.images
        for to in FIRST.images
        if out != to and stock[to] > FIRST.images[to]
    ]
    meeting = [
        one
        for one in others
        if all(abs(mean_total(m, one) - mean) <= 5e-3 for m, mean in zip(MODELS, means, strict=False))
    ]
    assert len(meeting) > 1
    assert off(found.sizes) == pytest.approx(min(map(off, meeting)))


def test_one_model_alone_proves_nothing() -> None:
    wanted = targets_of(exchanged(1, FREQUENT, RARE[0]), MODELS[:1])
    assert solve_samples(wanted) == []
    # Nor do two figures of one model that exclude each other.
    (target,) = wanted
    assert solve_samples([target, Target(target.model, target.high + 1, target.high + 2)]) == []


def test_what_a_sample_leaves_is_sought_for_again() -> None:
    first = targets_of(exchanged(1, FREQUENT, RARE[0]), MODELS)
    far = targets_of(exchanged(MOST_EXCHANGED, FREQUENT, RARE[1]), MODELS)[:2]
    samples = solve_samples([*far, first[2]])
    assert [sample.models for sample in samples] == [2]
    met = samples[0].sizes
    assert all(t.low <= mean_total(t.model, met) <= t.high for t in far)
    assert solve_samples([]) == []


IMAGES = [SMALL, LARGE, SMALL, SMALL, LARGE]


def test_a_prefix_is_the_fewest_images_that_give_the_means() -> None:
    wanted = targets_of(size_set("", IMAGES[:3], ""), MODELS)
    (found,) = solve_prefixes(wanted, IMAGES)
    assert (found.sizes.images, found.models, found.tried) == ({SMALL: 2, LARGE: 1}, 3, 5)
    with pytest.raises(FrozenInstanceError):
        found.models = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        wanted[0].low = 0  # type: ignore[misc]
    assert found.text == found.sizes.name == "the first 3 images of the annotation file by id"
    assert found.sizes.source == "annotations"
    # Half small, half large: two images do, and so would none beyond them.
    (found,) = solve_prefixes(targets_of(size_set("", [SMALL, LARGE], ""), MODELS), IMAGES)
    assert found.text.startswith("the first 2 images")
    nowhere = [Target(model, 1e6, 2e6) for model in MODELS]
    assert solve_prefixes(nowhere, IMAGES) == []


def test_figures_of_one_model_must_hold_together() -> None:
    wanted = targets_of(size_set("", IMAGES[:3], ""), MODELS[:2])
    wide = [Target(t.model, t.low - 1, t.high + 1) for t in wanted]
    for figures in ([*wanted, *wide], [*wide, *wanted]):
        (found,) = solve_prefixes(figures, IMAGES)
        assert found.text.startswith("the first 3 images")


def test_images_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    images = [{"id": 9, "height": 427, "width": 640}, {"id": 2, "height": 640, "width": 480}]
    path.write_text(json.dumps({"images": images}))
    assert [size.original for size in images_by_id(path)] == [(640, 480), (427, 640)]


@pytest.mark.parametrize("wrong", [None, "1", True, 1.0])
def test_an_id_that_is_no_whole_number_is_named(wrong: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = {"id": 1, "height": 427, "width": 640}
    path.write_text(json.dumps({"images": [good, {**good, "id": wrong}]}))
    with pytest.raises(ValueError, match=r"images\[1\] has no whole number 'id'"):
        images_by_id(path)
