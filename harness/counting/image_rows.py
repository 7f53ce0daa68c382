"""The record of a model counted image by image."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from segmeter.harness.counting.conventions import Figures
from segmeter.harness.counting.on_images import ImageCount, ImagesCount
from segmeter.harness.counting.record import bare_record
from segmeter.harness.inputs import format_size
from segmeter.harness.records import GIGA, FlopsRecord

BINS = 10
# Parts of components that reducing tokens costs: matching, averaging, networks that choose, early heads.
REDUCING = ("reduction", "merging", "matching", "gathering", "policy", "exit_heads")


def images_record(counted: ImagesCount) -> FlopsRecord:
    """Means over the images, the spread, each image, the tokens of each layer, and batches beside them."""
    record = bare_record(counted.spec, counted.figures, counted.params, counted.encoder_params)
    size = counted.size
    totals = [each.figures.total / GIGA for each in counted.alone]
    edges, images = _histogram(totals)
    record["size"] = format_size(size.padded)
    record["padded_size"] = list(size.padded)
    record["original_size"] = list(size.original)
    if counted.reason:
        record["input_dependent"] = counted.reason
    record["spread"] = {
        "total": {"mean": fmean(totals), "std": pstdev(totals), "min": min(totals), "max": max(totals)}
    }
    record["weights"] = counted.weights
    record["images"] = [_row(each) for each in counted.alone]
    record["token_layers"] = _layers(counted.alone)
    record["histogram"] = {"edges": edges, "images": images}
    record["reducing_gmacs"] = fmean(_reducing(each.figures) for each in counted.alone) / GIGA
    record["skipped"] = list(counted.skipped)
    if counted.together:
        record["batches"] = _batches(counted, fmean(totals))
    return record


def _row(count: ImageCount) -> dict[str, Any]:
    return {
        "name": count.name,
        "total_gmacs": count.figures.total / count.images / GIGA,
        "tokens": [layer.leaving for layer in count.layers],
        "tokens_entering": [layer.entering for layer in count.layers],
    }


def _layers(counts: Sequence[ImageCount]) -> list[dict[str, Any]]:
    return [
        {
            "layer": first.name,
            "entering": _range([each.layers[place].entering for each in counts]),
            "leaving": _range([each.layers[place].leaving for each in counts]),
        }
        for place, first in enumerate(counts[0].layers)
    ]


def _range(values: Sequence[int]) -> dict[str, float]:
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def _histogram(totals: Sequence[float]) -> tuple[list[float], list[int]]:
    images, edges = np.histogram(totals, bins=BINS if max(totals) > min(totals) else 1)
    return [float(edge) for edge in edges], [int(number) for number in images]


def _reducing(figures: Figures) -> float:
    return sum(
        units
        for component, units in figures.by_component.items()
        if any(part in REDUCING for part in component.split("."))
    )


def _batches(counted: ImagesCount, alone: float) -> dict[str, Any]:
    """What an image costs in batches, and what it costs by itself, over the same images."""
    images = sum(each.images for each in counted.together)
    mean = sum(each.figures.total for each in counted.together) / images / GIGA
    return {
        "batch": counted.batch,
        "mean_gmacs": mean,
        "alone_gmacs": alone,
        "ratio": mean / alone,
        "batches": [{**_row(each), "images": each.images} for each in counted.together],
        "token_layers": _layers(counted.together),
    }
