"""Costs of a model whose work depends on what the image shows: whole numbers of named photos.

A photo is named by the digest of its file, so that whoever has the same files counts the same figures. A
cost is that of all photos together, which stays whole; the mean over them is a share of it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from segmeter.files import read_bytes
from segmeter.harness.counting import CONVENTIONS, count_images, images_record
from segmeter.harness.inputs import ImageSize, Photo, find_photos
from segmeter.harness.models import ModelSpec, real_model
from segmeter.harness.records import MOST_PHOTOS, NotCounted, PhotoCosts

# Of a photo's file, or a checkpoint's.
MAX_BYTES = 1 << 34


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(read_bytes(path, MAX_BYTES)).hexdigest()


def named_photos(entry: PhotoCosts, paths: Sequence[Path]) -> list[Photo]:
    """The photos that a card names, found by their digests among files and folders.

    Args:
        entry: of the card.
        paths: files and folders; the package's two photos if empty.

    Raises:
        ValueError: one of them is not there.
    """
    by_digest: dict[str, Photo] = {}
    for photo in find_photos(paths):
        by_digest.setdefault(digest(photo.path), photo)
    missing = [one["name"] for one in entry["images"] if one["sha256"] not in by_digest]
    if missing:
        number = len(entry["images"])
        raise ValueError(
            f"the card's costs are of {number} photos, and {len(missing)} of them are not here, "
            f"{missing[0]} first; give --images FILE or FOLDER with the same files"
        )
    return [by_digest[one["sha256"]] for one in entry["images"]]


def count_photos(
    spec: ModelSpec,
    size: ImageSize,
    photos: Sequence[Photo],
    reason: str,
    model: nn.Module | None = None,
    weights: Path | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[PhotoCosts, dict[str, dict[str, Any]], tuple[int, int]]:
    """Count a model on photos in every convention.

    Args:
        spec: the model.
        size: of its input.
        photos: one at least.
        reason: why its work depends on the image.
        model: with its weights, if they are not random.
        weights: the checkpoint that they are from.
        step: called after each photo in each convention.

    Returns:
        What the card says of the photos; convention -> total, components and what is left out, of all photos
        together; parameters of the model and of its encoder.

    Raises:
        ValueError: too many photos, or one that cannot be read.
    """
    if len(photos) > MOST_PHOTOS:
        raise ValueError(f"a card names {MOST_PHOTOS:,} photos at most, got {len(photos):,}")
    model = model or real_model(spec)
    images: list[dict[str, Any]] = [
        {"name": photo.name, "sha256": digest(photo.path), "totals": {}} for photo in photos
    ]
    together: dict[str, dict[str, Any]] = {}
    params = (0, 0)
    for convention in CONVENTIONS:
        counted = count_images(spec, size, photos, convention, model=model, progress=step)
        if counted.skipped:
            raise ValueError(counted.skipped[0])
        components: Counter[str] = Counter()
        omitted: dict[str, int | None] = {}
        for one, each in zip(images, counted.alone, strict=True):
            one["totals"][convention] = whole(each.figures.total)
            components.update({name: whole(units) for name, units in each.figures.by_component.items()})
            for name, units in each.figures.not_counted.items():
                before = omitted.get(name, 0)
                omitted[name] = None if units is None or before is None else before + whole(units)
        reasons = images_record(counted)["not_counted_reasons"]
        left_out: dict[str, NotCounted] = {
            name: {"amount": units, "reason": reasons[name]} for name, units in omitted.items()
        }
        total = sum(one["totals"][convention] for one in images)
        together[convention] = {"total": total, "components": dict(components), "not_counted": left_out}
        params = counted.params, counted.encoder_params
    entry: PhotoCosts = {
        "reason": reason,
        "weights": "random, from one seed" if weights is None else f"checkpoint {weights.name}",
        "weights_sha256": None if weights is None else digest(weights),
        "images": images,
        "source": "each photo resized to the input and run up to the last choice that its contents make",
    }
    return entry, together, params


def whole(units: float) -> int:
    """A count, which is whole."""
    if units != int(units):
        raise AssertionError(f"a count of {units} is not whole")
    return int(units)
