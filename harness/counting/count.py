"""Count a model at an image size, or over a data set's sizes, through one convention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from segmeter.harness.counting.conventions import Figures, apply_convention, mean_figures
from segmeter.harness.counting.traps import own_resize, traps_of
from segmeter.harness.counting.work import see, why_photos, work_of
from segmeter.harness.inputs import ImageSize, Photo, SizeSet
from segmeter.harness.models import ModelSpec, find_components, model_of, parameters


@dataclass(frozen=True)
class ModelCount:
    """A model counted at one size through one convention."""

    spec: ModelSpec
    size: ImageSize
    figures: Figures
    params: int
    encoder_params: int
    # For a model whose work depends on its input: why, and the spread over the photos.
    reason: str = ""
    spread: "Spread | None" = None
    # What changes the count of a library's model, in one line each.
    traps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Mean, population standard deviation and range over a data set's images, in units of work."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class DatasetCount:
    """A model counted over a data set's real image sizes.

    Attributes:
        figures: mean over the images, in units of work (floats).
        total: spread of the whole model's work over the images.
        parts: the model's stages, such as backbone and encoder -> spread.
    """

    spec: ModelSpec
    sizes: SizeSet
    figures: Figures
    total: Spread
    parts: dict[str, Spread]
    params: int
    encoder_params: int

    @property
    def distinct_sizes(self) -> int:
        """Number of distinct (padded, original) sizes, each counted once."""
        return len(self.sizes.images)


def count_model(
    spec: ModelSpec, size: ImageSize, convention: str, photos: Sequence[Photo] = ()
) -> ModelCount:
    """Count one model at one size, batch 1.

    A model whose work depends on its input is counted on real inputs: on ``photos``, or on two that are at
    hand.
    """
    reason = why_photos(spec, size)
    if not reason:
        work = work_of(spec, size)
        figures = apply_convention(work, find_components(spec), convention)
        traps = tuple(traps_of(spec, size, work)) if model_of(spec) else ()
        return ModelCount(spec, size, figures, *parameters(spec), traps=traps)
    seen = see(spec, size, photos)
    each = seen.figures(convention)
    spread = _spread([(figures.total, 1) for figures in each])
    traps = tuple(own_resize(seen.model)) if model_of(spec) else ()
    return ModelCount(spec, size, seen.mean(convention), *parameters(spec), reason, spread, traps)


def count_dataset(
    spec: ModelSpec,
    sizes: SizeSet,
    convention: str,
    progress: Callable[[int], None] = lambda done: None,
) -> DatasetCount:
    """Count one model over a data set: each distinct size once, weighted by its images.

    Args:
        spec: the model.
        sizes: the data set's image sizes.
        convention: a key of :data:`harness.counting.conventions.CONVENTIONS`.
        progress: called with the number of distinct sizes done.
    """
    counts: list[tuple[ModelCount, int]] = []
    for done, (size, images) in enumerate(sizes.images.items(), start=1):
        counts.append((count_model(spec, size, convention), images))
        progress(done)
    first = counts[0][0]
    return DatasetCount(
        spec,
        sizes,
        mean_figures([(c.figures, n) for c, n in counts]),
        total=_spread([(c.figures.total, n) for c, n in counts]),
        parts={
            stage.name: _spread([(c.figures.of(stage.name), n) for c, n in counts])
            for stage in spec.stages
            if stage.name
        },
        params=first.params,
        encoder_params=first.encoder_params,
    )


def _spread(weighted: list[tuple[float, int]]) -> Spread:
    mean = fmean((units for units, _ in weighted), weights=[n for _, n in weighted])
    variance = fmean(((units - mean) ** 2 for units, _ in weighted), weights=[n for _, n in weighted])
    values = [units for units, _ in weighted]
    return Spread(mean, variance**0.5, min(values), max(values))
