"""Look at a model at one size: its work on meta tensors where that can hold, else on real photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from segmeter.encoders.chain import Sizes, Stage, next_multiple
from segmeter.encoders.images import normalise
from segmeter.harness.counting.conventions import Figures, apply_convention, mean_figures
from segmeter.harness.counting.counter import Count, DataDependentError, count_call, run_and_count
from segmeter.harness.inputs import ImageSize, Photo, Size, find_photos, format_size, read_photo
from segmeter.harness.models import (
    Form,
    ModelSpec,
    arguments,
    blaming,
    component_finder,
    empty,
    form_of,
    meta_model,
    model_of,
    real_model,
    refusal,
    stage_module,
)

# For stages that do not look at the sizes.
UNREAD = Sizes((0, 0), (0, 0), (0, 0))


@dataclass(frozen=True)
class SeenCount:
    """A model's work on inputs of one size.

    Attributes:
        model: what was counted (on meta, or on the CPU with random weights from one seed).
        counts: one for the size alone if meta tensors did, otherwise one for each photo.
        reason: why photos were needed; "" if they were not.
    """

    model: nn.Module
    counts: tuple[Count, ...]
    reason: str

    def figures(self, convention: str) -> list[Figures]:
        """Each count through a convention."""
        find = component_finder(self.model)
        return [apply_convention(count, find, convention) for count in self.counts]

    def mean(self, convention: str) -> Figures:
        """The mean over the photos, or the one count."""
        return mean_figures([(figures, 1) for figures in self.figures(convention)])


def see(spec: ModelSpec, size: ImageSize, photos: Sequence[Photo] = ()) -> SeenCount:
    """Count a model at one size, batch 1.

    Args:
        spec: the model.
        size: what the network sees, and the size of the results.
        photos: what to count on if the work depends on the input; two real photos if none are given.

    Raises:
        ValueError: it cannot be built, or the user's own code failed, on meta and on real inputs alike.
    """
    reason = why_photos(spec, size)
    if not reason:
        return SeenCount(meta_model(spec), (work_of(spec, size),), "")
    model = real_model(spec)
    sizes = _sizes(size)
    counts = []
    for photo in photos or find_photos(()):
        pixels = spec.system.pixels
        image = normalise(read_photo(photo, size.padded), pixels.mean, pixels.std)[None]
        with blaming(f"{spec.encoder} failed on a {format_size(size.padded)} image"):
            counts.append(run_and_count(model, *arguments(spec, image, sizes))[1])
    return SeenCount(model, tuple(counts), reason)


def why_photos(spec: ModelSpec, size: ImageSize) -> str:
    """Why a model is counted on photos; "" where meta tensors do.

    Raises:
        ValueError: it cannot be built, or an encoder fails on meta for another reason than missing values.
    """
    check_size(spec, size.padded)
    dependent = [stage.name for stage in spec.stages if stage.depends_on_image]
    if dependent:
        return f"the work of {' and '.join(dependent)} depends on what the image shows"
    try:
        with blaming(f"{spec.encoder} failed at {format_size(size.padded)}"):
            work_of(spec, size)
    except DataDependentError as error:
        return str(error)
    except ValueError as error:
        if not spec.system.is_own_whole:
            raise
        if model_of(spec) is not None:
            meta_model(spec)  # an option's fault is not the size's
            raise ValueError(
                refusal(spec, size, error, lambda other: bool(work_of(spec, other).work))
            ) from error
        meta_model(spec)  # what cannot be built at all is told as it is
        # A tensor made in the constructor stays on the CPU, say, or the code fails wherever it runs. Real
        # inputs tell which it was.
        cause = error.__cause__ or error
        said = " ".join(str(cause).split())[:160] or type(cause).__name__
        return f"it does not run on meta tensors ({said})"
    return ""


def work_of(spec: ModelSpec, size: ImageSize) -> Count:
    """All work of one forward pass at batch 1 on meta tensors, stage by stage.

    A stage's work is kept for each form of its inputs, so that models which share a stage, or the images of a
    data set, cost what is distinct in them. The sum equals the count of the whole model run in one go.

    Raises:
        DataDependentError: the work depends on the input's values.
    """
    stages = spec.stages
    by_name = {stage.name: stage for stage in stages}
    sizes = _sizes(size)
    form = form_of(torch.empty((1, 3, *size.padded), device="meta"))
    count = Count()
    for stage in stages:
        needed = tuple(by_name[name] for name in stage.needs)
        handed_on, work = stage_work(
            stage, needed, form, sizes if stage.reads_sizes else None, stage is stages[-1]
        )
        count = count + work
        form = handed_on or form
    return count


@lru_cache(maxsize=16384)
def stage_work(
    stage: Stage, needed: tuple[Stage, ...], form: Form, sizes: Sizes | None, is_last: bool
) -> tuple[Form | None, Count]:
    """What a stage hands on (None for the last, which may give anything), and its work."""
    module = stage_module(stage, needed)
    output, count = count_call(module, lambda: stage.call(module, empty(form), sizes or UNREAD))
    return None if is_last else form_of(output), count.under(stage.name) if stage.name else count


def backbone_work(spec: ModelSpec, padded: Size) -> Count:
    """The work of a model's first stage alone."""
    stage = spec.stages[0]
    form = form_of(torch.empty((1, 3, *padded), device="meta"))
    return stage_work(stage, (), form, None, False)[1]


def check_size(spec: ModelSpec, padded: Size) -> None:
    """Raise ValueError unless the model takes this padded size; the next one that it takes is named."""
    fitting = next_multiple(padded, spec.system.size_divisor)
    if padded != fitting:
        raise ValueError(
            f"{spec.system.title} takes sizes whose sides are multiples of {spec.system.size_divisor}, got "
            f"{format_size(padded)}; did you mean {format_size(fitting)}?"
        )


def _sizes(size: ImageSize) -> Sizes:
    return Sizes(size.padded, size.padded, size.original)
