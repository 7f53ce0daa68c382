"""Count a model whose work may depend on what it sees: on meta where that can hold, else on real photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmeter.encoders.segmenter.model import build_segmenter, normalise
from segmeter.harness.counting.conventions import Figures, apply_convention, mean_figures
from segmeter.harness.counting.counter import Count, DataDependentError, run_and_count
from segmeter.harness.inputs.photos import Photo, find_photos, read_photo
from segmeter.harness.inputs.sizes import ImageSize, Size
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.own import blaming, build_whole
from segmeter.harness.models.spec import ModelSpec, WholeModelSpec


@dataclass(frozen=True)
class SeenCount:
    """A model's work on inputs of one size.

    Attributes:
        model: what was counted (on meta, or on the CPU with random weights from seed 0).
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


def count_whole(spec: WholeModelSpec, size: ImageSize, photos: Sequence[Photo] = ()) -> SeenCount:
    """Count a whole model of the user's own at a padded size, batch 1.

    Args:
        spec: the model.
        size: only the padded size matters.
        photos: what to count on if the work depends on the input; two real photos if none are given.

    Raises:
        OwnModelError: the user's code failed, on meta and on real inputs alike.
    """
    model, count, reason = count_on_meta(spec, size)
    if count is not None:
        return SeenCount(model, (count,), "")
    model = build_whole(spec.load(), dict(spec.options), "cpu")
    return _on_photos(spec, model, lambda m: run_and_count(model, m)[1], size.padded, photos, reason)


def count_on_meta(spec: WholeModelSpec, size: ImageSize) -> tuple[nn.Module, Count | None, str]:
    """A whole model on meta with its count, or None and why it does not run there.

    Raises:
        ValueError: it cannot be built.
    """
    model = build_whole(spec.load(), dict(spec.options), "meta")
    try:
        return model, run_and_count(model, torch.empty((1, 3, *size.padded), device="meta"))[1], ""
    except DataDependentError as error:
        return model, None, str(error)
    except Exception as error:
        # A tensor made in the constructor stays on the CPU, say, or the code fails wherever it runs. Real
        # inputs tell which it was.
        said = " ".join(str(error).split())[:160]
        return model, None, f"it does not run on meta tensors ({said or type(error).__name__})"


def count_segmenter_on_photos(
    spec: ModelSpec, size: ImageSize, photos: Sequence[Photo], reason: str
) -> SeenCount:
    """Count a full model whose encoder depends on its input: weights from seed 0, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_segmenter(
            spec.encoder, spec.backbone, spec.num_classes, spec.num_queries, **dict(spec.options)
        ).eval()

    def count(image: Tensor) -> Count:
        return run_and_count(model, image, size.padded, size.original)[1]

    return _on_photos(spec, model, count, size.padded, photos, reason)


def _on_photos(
    spec: ModelSpec,
    model: nn.Module,
    count: Callable[[Tensor], Count],
    padded: Size,
    photos: Sequence[Photo],
    reason: str,
) -> SeenCount:
    counts = []
    for photo in photos or find_photos(()):
        image = normalise(read_photo(photo, padded))[None]
        with blaming(f"{spec.encoder} failed on a {padded[0]}x{padded[1]} image"):
            counts.append(count(image))
    return SeenCount(model, tuple(counts), reason)
