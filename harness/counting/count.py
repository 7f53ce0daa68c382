"""Count a whole model at an image size, part by part, on meta tensors.

A model is a chain: backbone, encoder, decoder, post-processing. Each part is counted once for each shape
of its inputs and kept, so that a table of models that share a backbone, or a data set of 5,000 images of
55 padded sizes, costs what its distinct parts cost. The sum equals the count of the whole model run in
one go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders import build_encoder
from segmeter.encoders.backbones.table import build_backbone
from segmeter.encoders.segmenter.decoder import MaskedDecoder
from segmeter.encoders.segmenter.model import Segmenter
from segmeter.encoders.segmenter.postprocess import PostProcess
from segmeter.harness.counting.conventions import Figures, apply_convention, mean_figures
from segmeter.harness.counting.counter import Count, DataDependentError, run_and_count
from segmeter.harness.counting.on_photos import SeenCount, count_segmenter_on_photos, count_whole
from segmeter.harness.inputs.photos import Photo
from segmeter.harness.inputs.sizes import ImageSize, Size, SizeSet, format_size
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.own import blaming
from segmeter.harness.models.spec import ModelSpec, WholeModelSpec, model_spec

PARTS = ("backbone", "encoder", "decoder", "postprocess")
# Shapes of the maps a decoder reads: mask features, then multi-scale from low to high resolution.
Shapes = tuple[tuple[int, ...], ...]


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
        parts: backbone, encoder, decoder, postprocess -> spread.
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

    A model of the user's own whose work depends on its input is counted on real inputs: on ``photos``, or
    on two that are at hand.
    """
    if isinstance(spec, WholeModelSpec):
        return _seen(spec, size, convention, count_whole(spec, size, photos))
    try:
        with blaming(f"{spec.encoder} failed at {format_size(size.padded)}"):
            work = work_of(spec, size)
    except DataDependentError as error:
        seen = count_segmenter_on_photos(spec, size, photos, str(error))
        return _seen(spec, size, convention, seen)
    params, encoder_params = _parameters(spec)
    return ModelCount(spec, size, apply_convention(work, _finder(spec), convention), params, encoder_params)


def _seen(spec: ModelSpec, size: ImageSize, convention: str, seen: SeenCount) -> ModelCount:
    totals = [figures.total for figures in seen.figures(convention)]
    return ModelCount(
        spec,
        size,
        seen.mean(convention),
        params=_number(seen.model),
        encoder_params=_number(seen.model.encoder) if isinstance(seen.model, Segmenter) else 0,
        reason=seen.reason,
        spread=_spread([(total, 1) for total in totals]) if seen.reason else None,
    )


def _number(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


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
        parts={part: _spread([(c.figures.of(part), n) for c, n in counts]) for part in PARTS},
        params=first.params,
        encoder_params=first.encoder_params,
    )


def count_backbone(name: str, padded: Size, convention: str) -> float:
    """Units of work of a backbone alone at one padded size."""
    spec = model_spec("m2f", name)
    return apply_convention(_backbone_work(name, padded)[1], _finder(spec), convention).total


def find_components(spec: ModelSpec) -> Callable[[str], str]:
    """Module path of a full model -> dotted component, as :func:`work_of` gives the paths."""
    return _finder(spec)


def _spread(weighted: list[tuple[float, int]]) -> Spread:
    mean = fmean((units for units, _ in weighted), weights=[n for _, n in weighted])
    variance = fmean(((units - mean) ** 2 for units, _ in weighted), weights=[n for _, n in weighted])
    values = [units for units, _ in weighted]
    return Spread(mean, variance**0.5, min(values), max(values))


@lru_cache(maxsize=256)
def meta_model(spec: ModelSpec) -> Segmenter:
    """The model on the meta device: structure without weights."""
    backbone = _meta_backbone(spec.backbone)
    with torch.device("meta"):
        return Segmenter(
            backbone,
            build_encoder(spec.encoder, backbone.channels, **dict(spec.options)),
            _meta_decoder(spec.num_classes, spec.num_queries),
            PostProcess(),
        ).eval()


def work_of(spec: ModelSpec, size: ImageSize) -> Count:
    """All work of one forward pass at batch 1, post-processing included."""
    features, backbone_count = _backbone_work(spec.backbone, size.padded)
    maps, encoder_count = _encoder_work(spec, features)
    masks, decoder_count = _decoder_work(spec.num_classes, spec.num_queries, maps)
    return backbone_count + encoder_count + decoder_count + _postprocess_work(spec.num_classes, masks, size)


@lru_cache(maxsize=32)
def _meta_backbone(name: str) -> Any:
    with torch.device("meta"):
        return build_backbone(name).eval()


@lru_cache(maxsize=256)
def _parameters(spec: ModelSpec) -> tuple[int, int]:
    """Number of parameters of the model and of its encoder."""
    model = meta_model(spec)
    return _number(model), _number(model.encoder)


@lru_cache(maxsize=256)
def _finder(spec: ModelSpec) -> Callable[[str], str]:
    return component_finder(meta_model(spec))


@lru_cache(maxsize=4096)
def _backbone_work(name: str, padded: Size) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], Count]:
    features, count = run_and_count(_meta_backbone(name), _empty((1, 3, *padded)))
    shapes = tuple((level, tuple(m.shape)) for level, m in features.items())
    return shapes, count.under("backbone")


@lru_cache(maxsize=4096)
def _encoder_work(spec: ModelSpec, features: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[Shapes, Count]:
    maps = {level: _empty(shape) for level, shape in features}
    output, count = run_and_count(meta_model(spec).encoder, maps)
    shapes = tuple(tuple(m.shape) for m in (output.mask_features, *output.multi_scale))
    return shapes, count.under("encoder")


@lru_cache(maxsize=4096)
def _decoder_work(num_classes: int, num_queries: int, maps: Shapes) -> tuple[Shapes, Count]:
    mask_features, *multi_scale = (_empty(shape) for shape in maps)
    decoder = _meta_decoder(num_classes, num_queries)
    output, count = run_and_count(decoder, multi_scale, mask_features)
    shapes = (tuple(output.class_logits.shape), tuple(output.mask_logits.shape))
    return shapes, count.under("decoder")


@lru_cache(maxsize=64)
def _meta_decoder(num_classes: int, num_queries: int) -> MaskedDecoder:
    with torch.device("meta"):
        return MaskedDecoder(num_classes=num_classes, num_queries=num_queries).eval()


@lru_cache(maxsize=16384)
def _postprocess_work(num_classes: int, outputs: Shapes, size: ImageSize) -> Count:
    class_logits, mask_logits = (_empty(shape) for shape in outputs)
    _, count = run_and_count(
        PostProcess().eval(), class_logits, mask_logits, size.padded, size.padded, size.original
    )
    return count.under("postprocess")


def _empty(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")
