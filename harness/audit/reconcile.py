"""Which unit, counting path, component boundary and image size gives a figure that somebody prints.

Every combination is a hypothesis with a plausibility, the product of how usual its parts are. Many hypotheses
meet a figure by chance, so each match comes with the number of matches to expect by chance among the
hypotheses that are at least as plausible.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from segmeter.harness.audit.means import ALL_IMAGES, FIRST_IMAGES, mean_total
from segmeter.harness.counting import (
    DataDependentError,
    Work,
    cost_model,
    find_components,
    published_place,
    real_padded_sizes,
    units_of,
    versions,
    work_of,
)
from segmeter.harness.inputs import COCO_RULE, ImageSize, Size, dataset_sizes, format_size, pad
from segmeter.harness.models import ModelSpec, blaming, model_spec
from segmeter.harness.records import GIGA

SCHEMA = "segmeter.reconcile/1"
WHATS = ("encoder", "total")
CITYSCAPES: Size = (1024, 2048)
CLASSES = {True: 19, False: 133}
NORMS = {"layer_norm", "group_norm", "batch_norm"}
RESIZING = {"upsample_bilinear", "upsample_nearest", "upsample_bicubic", "upsample_linear", "grid_sampler"}
DEFORMABLE = {"deform_sampling", "deform_weighting"}


@dataclass(frozen=True)
class Path:
    """One way to count: the unit, what it says, how usual it is, and the units of one piece of work."""

    unit: str
    text: str
    plausibility: float
    units: Callable[[Work, str], int]


def _published(work: Work, component: str) -> int:
    return units_of(work, component, "published")


def _with_sampling(work: Work, component: str) -> int:
    return work.macs if work.operator == "deform_sampling" else _published(work, component)


def _products(work: Work, component: str) -> int:
    return 0 if work.operator in NORMS | RESIZING | DEFORMABLE else work.macs


PATHS: dict[str, Path] = {
    "published": Path(
        "MACs", "fvcore on the authors' code: sampling and masked scores not seen", 1.0, _published
    ),
    "products": Path(
        "MACs", "convolutions and matrix products only: no norms, resizing, sampling", 0.3, _products
    ),
    "macs": Path("MACs", "every multiply-accumulate, sampling included", 0.3, lambda w, c: w.macs),
    "sampling": Path("MACs", "fvcore, the sampling traced through grid_sample", 0.2, _with_sampling),
    "products x 2": Path(
        "FLOPs", "torch's counter: 2 for each product, no norms", 0.2, lambda w, c: 2 * _products(w, c)
    ),
    "published x 2": Path("FLOPs", "fvcore's count doubled", 0.1, lambda w, c: 2 * _published(w, c)),
    "flops": Path("FLOPs", "2 x MACs plus norms, softmax and elementwise work", 0.1, lambda w, c: w.flops),
}


@dataclass(frozen=True)
class Boundary:
    """What is summed: how usual that is as an "encoder" and as a "total", and its components."""

    as_encoder: float
    as_total: float
    inside: tuple[str, ...]
    outside: tuple[str, ...] = ()

    def usual(self, what: str) -> float:
        """How usual it is as ``what``, "encoder" or "total"."""
        return self.as_encoder if what == "encoder" else self.as_total

    def holds(self, component: str) -> bool:
        """Whether a component's own work belongs to it."""
        return _within(component, self.inside) and not _within(component, self.outside)


# fvcore books the FPN step's resizing outside the encoder.
FVCORE_PATHS = ("published", "sampling", "published x 2")
LAYERS = (
    "encoder.deformable_attention",
    "encoder.ffn",
    "encoder.norms",
    "encoder.hybrid",
    "encoder.recalibration",
)
WHOLE = "whole encoder"
ALL_PARTS = ("backbone", "encoder", "decoder", "postprocess")
BOUNDARIES: dict[str, Boundary] = {
    WHOLE: Boundary(1.0, 0.1, ("encoder",)),
    "encoder without mask features": Boundary(
        0.2, 0.0, ("encoder",), ("encoder.pixel_embedding.mask_features",)
    ),
    "encoder without pixel embedding": Boundary(0.3, 0.0, ("encoder",), ("encoder.pixel_embedding",)),
    "encoder layers alone": Boundary(0.2, 0.0, LAYERS),
    "encoder and decoder": Boundary(0.15, 0.1, ("encoder", "decoder")),
    "encoder, decoder and post-processing": Boundary(0.1, 0.15, ALL_PARTS[1:]),
    "backbone and encoder": Boundary(0.1, 0.2, ("backbone", "encoder")),
    "whole model without post-processing": Boundary(0.05, 0.4, ALL_PARTS[:3]),
    "whole model": Boundary(0.1, 1.0, ALL_PARTS),
}
# Sizes that papers state; real COCO sizes come on top, each as usual as it is frequent.
STATED_SIZES: dict[Size, float] = {
    CITYSCAPES: 0.8,
    pad((COCO_RULE.short, COCO_RULE.long)): 0.6,
    (512, 512): 0.2,
    (640, 640): 0.2,
    (1024, 1024): 0.2,
    (512, 1024): 0.2,
    (800, 800): 0.2,
}
REAL_SIZE, RAREST_SIZE = 0.6, 0.05
MEANS = {FIRST_IMAGES: 0.6, ALL_IMAGES: 0.5}
# Rounding: to the digits given, to whole ones as fvcore prints from 100 G on, cut off.
ROUNDINGS = {"rounded": 1.0, "rounded to whole ones": 0.7, "zeros appended": 0.9, "cut off": 0.3}
NEIGHBOURHOOD = 0.2
# Below this a match explains nothing, and so does one that chance alone would bring one time in five.
LEAST_PLAUSIBLE, MOST_BY_CHANCE = 0.05, 0.2
SHOWN = 8


@dataclass(frozen=True)
class Hypothesis:
    """One way in which the figure may have come about.

    Attributes:
        path: a key of :data:`PATHS`.
        boundary: a key of :data:`BOUNDARIES`.
        size: a padded size, or images whose mean it is.
        giga: the figure it gives, in GMACs or GFLOPs as the path's unit says.
        plausibility: how usual it is, in (0, 1].
    """

    path: str
    boundary: str
    size: str
    giga: float
    plausibility: float


def reconcile_figure(
    encoder: str,
    backbone: str,
    published: str,
    what: str = "encoder",
    *,
    options: Mapping[str, Any] | None = None,
    step: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Find what gives a printed figure.

    Args:
        encoder, backbone, options: the model.
        published: the figure as printed, e.g. "117.0"; its digits say how it was rounded.
        what: "encoder" or "total".
        step: called with what is tried next, :func:`reconcile_steps` times.

    Returns:
        The record: matches, the most credible first; the nearest misses; how many hypotheses were tried.

    Raises:
        ValueError: an unknown model, one whose work depends on its input, a figure that is no positive
            number, an unknown ``what``.
    """
    value, ranges = read_figure(published)
    if what not in WHATS:
        raise ValueError(f"what must be encoder or total, got {what!r}")
    specs = {
        cityscapes: model_spec(encoder, backbone, num_classes=classes, own=True, **(options or {}))
        for cityscapes, classes in CLASSES.items()
    }
    try:
        with blaming(f"{encoder} failed at {format_size(CITYSCAPES)}"):
            work_of(specs[True], ImageSize(CITYSCAPES, CITYSCAPES))
    except DataDependentError as error:
        raise ValueError(f"{encoder} cannot be reconciled, its work depends on its input: {error}") from None
    hypotheses = _hypotheses(specs, what, step)
    matches = []
    for h in hypotheses:
        for rounding, (low, high) in ranges.items():
            if low <= h.giga <= high:
                matches.append(_match(h, rounding, value, (low, high), hypotheses))
                break
    matches.sort(key=lambda m: (-m["plausibility"], abs(m["off_percent"])))
    nearest = sorted(hypotheses, key=lambda h: abs(h.giga - value) / h.plausibility**0.5)
    return {
        "schema": SCHEMA,
        "model": specs[True].text,
        "title": specs[True].title,
        "what": what,
        "published": published,
        "value": value,
        "ranges": {name: list(window) for name, window in ranges.items()},
        "tried": len(hypotheses),
        "verdict": _verdict(matches),
        "matches": matches[:SHOWN],
        "more_matches": max(0, len(matches) - SHOWN),
        "nearest": [_plain(h, value) for h in nearest[:SHOWN] if not any(_same(h, m) for m in matches)][:3],
        "versions": versions(),
    }


def read_figure(text: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """A printed figure and, for each way of rounding, the range that would be printed so.

    Raises:
        ValueError: not a positive number.

    >>> read_figure("117.0")[1]["rounded to whole ones"]
    (116.5, 117.5)
    """
    match = re.fullmatch(r"\s*(\d{1,9})(?:\.(\d{1,6}))?\s*[gG]?\s*", text)
    value = float(text.strip().rstrip("gG")) if match else 0.0
    if not match or not value:
        raise ValueError(f"the published figure must be a positive number such as 117.0, got {text!r}")
    digits = match[2] or ""
    unit = 10.0 ** -len(digits)
    ranges = {"rounded": (value - unit / 2, value + unit / 2)}
    significant = len(digits.rstrip("0"))
    if significant < len(digits) and (significant or value >= 100):
        # 234.50 may be 234.5; 117.00 is 117 where the tool prints whole ones, which is from 100 on.
        wider = 10.0**-significant
        name = "zeros appended" if significant else "rounded to whole ones"
        ranges[name] = (value - wider / 2, value + wider / 2)
    ranges["cut off"] = (value, value + unit)
    return value, ranges


def reconcile_steps() -> int:
    """How often :func:`reconcile` calls ``step``."""
    return len(_sizes()) + len(MEANS)


@lru_cache(maxsize=1)
def _sizes() -> dict[Size, float]:
    """Padded sizes to try -> how usual each is. A portrait costs what the landscape does, but for windows."""
    sizes = dict(STATED_SIZES)
    real = real_padded_sizes()
    most = max(real.values())
    for size, images in real.items():
        if size[0] <= size[1]:
            usual = max(RAREST_SIZE, REAL_SIZE * images / most)
            sizes[size] = max(usual, sizes.get(size, 0))
    return sizes


@lru_cache(maxsize=256)
def _usual_image(padded: Size) -> ImageSize:
    """The most frequent image of val2017 that pads to a size; for a stated size, an image of that size."""
    images = dataset_sizes(ALL_IMAGES).images
    fitting = [size for size in images if size.padded == padded]
    if padded in STATED_SIZES or not fitting:
        return ImageSize(padded, padded)
    return max(fitting, key=lambda size: (images[size], size.original))


def _hypotheses(specs: Mapping[bool, ModelSpec], what: str, step: Callable[[str], None]) -> list[Hypothesis]:
    found = []
    for size, usual in _sizes().items():
        step(format_size(size))
        spec = specs[size == CITYSCAPES]
        sums = path_sums(spec, _usual_image(size))
        for (path, boundary), units in sums.items():
            fit = BOUNDARIES[boundary].usual(what)
            plausibility = PATHS[path].plausibility * fit * usual
            # A part that the encoder does not have, or all that it has, makes no boundary of its own.
            same = boundary != WHOLE and units == sums.get((path, WHOLE))
            if units and plausibility and not same:
                found.append(Hypothesis(path, boundary, format_size(size), units / GIGA, plausibility))
    model = cost_model(specs[False])
    for name, usual in MEANS.items():
        step(f"mean over {name}")
        if model.encoder_cost is None:
            continue
        sizes = dataset_sizes(name)
        encoder = sum(model.encoder(s.padded) * n for s, n in sizes.images.items()) / sizes.total
        text = f"mean over {sizes.total} images of val2017"
        for boundary, giga in ((WHOLE, encoder), ("whole model", mean_total(model, sizes))):
            fit = BOUNDARIES[boundary].usual(what)
            found.append(Hypothesis("published", boundary, text, giga, usual * fit))
    return found


@lru_cache(maxsize=512)
def path_sums(spec: ModelSpec, size: ImageSize) -> dict[tuple[str, str], int]:
    """Units of work for each path and boundary."""
    find = find_components(spec)
    sums: dict[tuple[str, str], int] = {}
    for work in work_of(spec, size).work:
        component = find(work.module)
        for name, path in PATHS.items():
            place = component
            if name in FVCORE_PATHS:
                place = published_place(component, work.operator)
            units = path.units(work, component)
            for title, boundary in BOUNDARIES.items():
                if boundary.holds(place):
                    sums[name, title] = sums.get((name, title), 0) + units
    return sums


def _within(component: str, parts: Collection[str]) -> bool:
    return any(component == part or component.startswith(f"{part}.") for part in parts)


def _match(
    h: Hypothesis,
    rounding: str,
    value: float,
    window: tuple[float, float],
    hypotheses: Collection[Hypothesis],
) -> dict[str, Any]:
    plausibility = h.plausibility * ROUNDINGS[rounding]
    # Hypotheses around the figure that one would believe at least as readily: how many would hit the window?
    around = sum(
        o.plausibility >= h.plausibility and abs(o.giga / value - 1) <= NEIGHBOURHOOD
        for o in hypotheses
        if o is not h
    )
    # One more for the match itself, so that few neighbours do not pass for certainty.
    by_chance = (around + 1) * (window[1] - window[0]) / (2 * NEIGHBOURHOOD * value)
    return {
        **_plain(h, value),
        "plausibility": plausibility,
        "rounding": rounding,
        "by_chance": by_chance,
    }


def _plain(h: Hypothesis, value: float) -> dict[str, Any]:
    path = PATHS[h.path]
    return {
        "unit": path.unit,
        "path": h.path,
        "path_text": path.text,
        "boundary": h.boundary,
        "size": h.size,
        "giga": h.giga,
        "off_percent": 100 * (h.giga / value - 1),
        "plausibility": h.plausibility,
    }


def _same(h: Hypothesis, match: Mapping[str, Any]) -> bool:
    return (h.path, h.boundary, h.size) == (match["path"], match["boundary"], match["size"])


def _verdict(matches: list[dict[str, Any]]) -> str:
    if not matches:
        return "nothing does"
    credible = [
        m for m in matches if m["plausibility"] >= LEAST_PLAUSIBLE and m["by_chance"] <= MOST_BY_CHANCE
    ]
    return "explained" if credible else "by chance at best"
