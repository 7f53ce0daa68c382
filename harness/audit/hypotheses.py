"""Ways in which a printed figure may have come about: unit, path, boundary, size, classes and queries.

Each is a hypothesis with a plausibility, the product of how usual its parts are.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from segmeter.harness.audit.means import ALL_IMAGES, FIRST_IMAGES, mean_total
from segmeter.harness.counting import (
    Work,
    cost_model,
    find_components,
    published_place,
    real_padded_sizes,
    units_of,
    work_of,
)
from segmeter.harness.inputs import COCO_RULE, ImageSize, Size, dataset_sizes, format_size, pad
from segmeter.harness.models import ModelSpec, model_spec
from segmeter.harness.records import GIGA

CITYSCAPES: Size = (1024, 2048)
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
# Data sets and tasks: what each is called, its classes, how usual it is at the sizes of its kind.
CITYSCAPES_SIZES = (CITYSCAPES, (512, 1024))
SQUARES = ((512, 512), (640, 640), (800, 800), (1024, 1024))
_COCO = (("COCO panoptic", 133, 1.0), ("COCO instances", 80, 0.3))
_SQUARE = (("COCO panoptic", 133, 1.0), ("ADE20K", 150, 1.0))
QUERIES, OTHER_QUERIES = (100, 200), 0.2
# Sizes as usual as that are tried with other classes and queries too.
FREQUENT = 0.2


@dataclass(frozen=True)
class Subject:
    """What is reconciled: an encoder on a backbone, its options; classes and queries where they are given."""

    encoder: str
    backbone: str
    options: tuple[tuple[str, Any], ...] = ()
    num_classes: int | None = None
    num_queries: int | None = None

    @classmethod
    def of(cls, spec: ModelSpec, written: str = "") -> "Subject":
        """A model; classes and queries count as given where ``written``, what the user typed, names them."""
        return cls(
            spec.encoder,
            spec.backbone,
            tuple(dict(spec.options).items()),
            spec.num_classes if "num_classes=" in written else None,
            spec.num_queries if "num_queries=" in written else None,
        )

    def spec(self, num_classes: int, num_queries: int | None = None) -> ModelSpec:
        """Its model set up for these; ``num_queries`` None is the model's usual number."""
        return model_spec(
            self.encoder,
            self.backbone,
            num_classes=num_classes,
            num_queries=num_queries,
            own=True,
            **dict(self.options),
        )

    @property
    def usual(self) -> ModelSpec:
        """Its model for COCO panoptic, or as it is given."""
        return self.spec(self.num_classes or 133, self.num_queries)

    def setups(self, size: Size, what: str, usual: float) -> Iterator[tuple[ModelSpec, str, float]]:
        """The model as a paper may have set it up at a size, in words, and how usual that is."""
        if size in CITYSCAPES_SIZES:
            tasks: tuple[tuple[str, int, float], ...] = (("Cityscapes", 19, 1.0),)
        else:
            tasks = _SQUARE if size in SQUARES else _COCO
        if self.num_classes is not None:
            tasks = (("as given", self.num_classes, 1.0),)
        if what == "encoder":
            # No class and no query is an encoder's.
            yield self.spec(tasks[0][1], self.num_queries), "", 1.0
            return
        if usual < FREQUENT:
            tasks = tasks[:1]
        for task, classes, share in tasks:
            spec = self.spec(classes, self.num_queries)
            queries = {spec.num_queries: 1.0}
            if self.num_queries is None and usual >= FREQUENT:
                queries |= {q: OTHER_QUERIES for q in QUERIES if q != spec.num_queries}
            for number, rarer in queries.items():
                text = f"{task}: {classes} classes, {number} queries"
                yield self.spec(classes, number), text, share * rarer


@dataclass(frozen=True)
class Hypothesis:
    """One way in which the figure may have come about.

    Attributes:
        path: a key of :data:`PATHS`.
        boundary: a key of :data:`BOUNDARIES`.
        size: a padded size, or images whose mean it is.
        setup: the data set and task, with its classes and queries; "" where these change nothing.
        giga: the figure it gives, in GMACs or GFLOPs as the path's unit says.
        plausibility: how usual it is, in (0, 1].
    """

    path: str
    boundary: str
    size: str
    setup: str
    giga: float
    plausibility: float


def hypothesis_steps() -> int:
    """How often the hypotheses of one model call ``step``."""
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


def hypotheses_of(subject: Subject, what: str, step: Callable[[str], None]) -> list[Hypothesis]:
    """All that is tried for one model.

    Args:
        subject: the model.
        what: "encoder" or "total".
        step: called with what is tried next, :func:`hypothesis_steps` times.
    """
    found: list[Hypothesis] = []
    for size, usual in _sizes().items():
        step(format_size(size))
        for spec, setup, share in subject.setups(size, what, usual):
            sums = path_sums(spec, _usual_image(size))
            found += _at_size(sums, what, format_size(size), setup, usual * share)
    for name, usual in MEANS.items():
        step(f"mean over {name}")
        sizes = dataset_sizes(name)
        text = f"mean over {sizes.total} images of val2017"
        for spec, setup, share in subject.setups(pad((COCO_RULE.short, COCO_RULE.long)), what, usual):
            model = cost_model(spec)
            if model.encoder_cost is None:
                continue
            encoder = sum(model.encoder(s.padded) * n for s, n in sizes.images.items()) / sizes.total
            for boundary, giga in ((WHOLE, encoder), ("whole model", mean_total(model, sizes))):
                fit = BOUNDARIES[boundary].usual(what)
                found.append(Hypothesis("published", boundary, text, setup, giga, usual * share * fit))
    return found


def _at_size(
    sums: Mapping[tuple[str, str], int], what: str, size: str, setup: str, usual: float
) -> Iterator[Hypothesis]:
    for (path, boundary), units in sums.items():
        plausibility = PATHS[path].plausibility * BOUNDARIES[boundary].usual(what) * usual
        # A part that the encoder does not have, or all that it has, makes no boundary of its own.
        same = boundary != WHOLE and units == sums.get((path, WHOLE))
        if units and plausibility and not same:
            yield Hypothesis(path, boundary, size, setup, units / GIGA, plausibility)


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
            for title in _holders(place):
                sums[name, title] = sums.get((name, title), 0) + units
    return sums


@lru_cache(maxsize=4096)
def _holders(component: str) -> tuple[str, ...]:
    """The boundaries that a component's own work belongs to."""
    return tuple(title for title, boundary in BOUNDARIES.items() if boundary.holds(component))


def _within(component: str, parts: Collection[str]) -> bool:
    return any(component == part or component.startswith(f"{part}.") for part in parts)
