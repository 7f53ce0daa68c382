"""Count a model image by image: what each photo costs, and which tokens are left in each layer.

Stages whose work depends on the image run on it, up to the last block that decides how many tokens are left;
what follows is counted from the shapes that they hand on. So a photo costs little more than the model's own
forward pass up to the last token that is merged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from segmeter.encoders.chain import Sizes, Stage
from segmeter.encoders.images import normalise
from segmeter.harness.counting.conventions import Figures, apply_convention, mean_figures
from segmeter.harness.counting.counter import Count, DataDependentError, count_call
from segmeter.harness.counting.work import stage_work, why_photos
from segmeter.harness.inputs import ImageSize, Photo, choose_photos, format_size, read_photo
from segmeter.harness.models import (
    ModelSpec,
    blaming,
    copy_without_values,
    find_components,
    find_token_layers,
    form_of,
    parameters,
    real_model,
    tensors_in,
)

MAX_PHOTOS = 1_000_000


@dataclass(frozen=True)
class LayerCount:
    """Tokens of one layer, the class token included: those it reads, and those it hands on."""

    name: str
    entering: int
    leaving: int


@dataclass(frozen=True)
class ImageCount:
    """One image, or one batch of them, through one convention.

    Attributes:
        name: of the photo; of the first of a batch.
        images: number of images that were counted together.
        figures: of all of them together.
        layers: tokens of one image in each layer, in the order of the run.
    """

    name: str
    images: int
    figures: Figures
    layers: tuple[LayerCount, ...]


@dataclass(frozen=True)
class ImagesCount:
    """A model counted over photos at one size.

    Attributes:
        reason: why its work depends on the image; "" if it does not.
        weights: where they are from.
        alone: each image by itself.
        together: batches of ``batch`` images in order, the last one smaller if they do not come out even;
            empty where no batch was asked for.
        skipped: one line for each file that could not be read.
    """

    spec: ModelSpec
    size: ImageSize
    figures: Figures
    params: int
    encoder_params: int
    reason: str
    weights: str
    alone: tuple[ImageCount, ...]
    batch: int
    together: tuple[ImageCount, ...]
    skipped: tuple[str, ...]


def count_images(
    spec: ModelSpec,
    size: ImageSize,
    photos: Sequence[Photo],
    convention: str,
    *,
    batch: int = 1,
    model: nn.Module | None = None,
    weights: str = "random",
    skipped: Sequence[str] = (),
    progress: Callable[[], None] = lambda: None,
) -> ImagesCount:
    """Count a model on photos, each resized to the size of the network's input.

    Args:
        spec: the model.
        size: what the network sees, and the size of the results.
        photos: one at least.
        convention: a key of :data:`harness.counting.conventions.CONVENTIONS`.
        batch: images of a batch; above 1 the photos are counted in batches too.
        model: the model, if it is there already; otherwise random weights from one seed.
        weights: where they are from.
        skipped: files that could not be read, to be named in the record.
        progress: called after each image, and after each image of a batch.

    Raises:
        ValueError: no photo could be read, or the model failed.
    """
    reason = why_photos(spec, size)
    counter = _Counter(spec, size, convention, model or real_model(spec))
    faults = list(skipped)
    alone: list[ImageCount] = []
    readable: list[Photo] = []
    for photo in photos:
        try:
            image = counter.read(photo)
        except ValueError as error:
            faults.append(str(error))
            continue
        readable.append(photo)
        # Where nothing depends on the image, one stands for all.
        alone.append(counter.count(photo.name, image) if reason or not alone else _as(alone[0], photo.name))
        progress()
    if not alone:
        raise ValueError(f"none of {len(photos)} images can be read: {faults[0]}")
    together: list[ImageCount] = []
    if batch > 1:
        for start in range(0, len(readable), batch):
            group = readable[start : start + batch]
            images = torch.cat([counter.read(photo) for photo in group])
            together.append(counter.count(group[0].name, images))
            for _ in group:
                progress()
    mean = mean_figures([(each.figures, 1) for each in alone])
    return ImagesCount(
        spec,
        size,
        mean,
        *parameters(spec),
        reason,
        weights,
        tuple(alone),
        batch,
        tuple(together),
        tuple(faults),
    )


def _as(count: ImageCount, name: str) -> ImageCount:
    return ImageCount(name, count.images, count.figures, count.layers)


class _Counter:
    """Counts batches of one model at one size."""

    def __init__(self, spec: ModelSpec, size: ImageSize, convention: str, model: nn.Module) -> None:
        self.spec, self.size, self.convention = spec, size, convention
        self.whole, self.model = model, _cut_behind_decisions(model)
        self.find = find_components(spec)
        self.sizes = Sizes(size.padded, size.padded, size.original)
        self.stages = list(spec.stages)
        self.real = _last_real(spec)

    def read(self, photo: Photo) -> Tensor:
        pixels = self.spec.system.pixels
        return normalise(read_photo(photo, self.size.padded), pixels.mean, pixels.std)[None]

    def count(self, name: str, images: Tensor) -> ImageCount:
        """Work and tokens of a batch (B, 3, H, W)."""
        layers: list[LayerCount] = []
        with (
            blaming(f"{self.spec.encoder} failed on a {format_size(self.size.padded)} image"),
            _watch_layers(self.model, layers),
        ):
            count = self.work(images)
        figures = apply_convention(count, self.find, self.convention)
        return ImageCount(name, len(images), figures, tuple(layers))

    def work(self, images: Tensor) -> Count:
        """Work of a batch: the stages up to the last that has to run, then the rest by the shapes."""
        value: Any = images
        count = Count()
        for stage in self.stages[: self.real]:
            value, part = self.run(stage, value)
            count = count + (part.under(stage.name) if stage.name else part)
        try:
            return count + self.rest(value)
        except DataDependentError:
            # Work that depends on what the stages before hand on, and says so only when it runs.
            self.real, self.model = len(self.stages), self.whole
            return self.work(images)

    def run(self, stage: Stage, value: Any) -> tuple[Any, Count]:
        """What a stage hands on, and its work."""
        module = self.model.get_submodule(stage.name) if stage.name else self.model
        return count_call(module, lambda: stage.call(module, value, self.sizes), on_meta=False)

    def rest(self, value: Any) -> Count:
        """Work of the stages that need no values."""
        by_name = {stage.name: stage for stage in self.stages}
        count = Count()
        if self.real == len(self.stages):
            return count
        form = form_of(value)
        for stage in self.stages[self.real :]:
            needed = tuple(by_name[name] for name in stage.needs)
            is_last = stage is self.stages[-1]
            handed_on, part = stage_work(
                stage, needed, form, self.sizes if stage.reads_sizes else None, is_last
            )
            count = count + part
            form = handed_on or form
        return count


def _last_real(spec: ModelSpec) -> int:
    """How many stages have to run: all up to the last that says that it depends on the image."""
    stages = list(spec.stages)
    if spec.system.is_own_whole:
        return len(stages)
    return max((number for number, stage in enumerate(stages, start=1) if stage.depends_on_image), default=1)


def _cut_behind_decisions(model: nn.Module) -> nn.Module:
    """The model, or a copy of it that is on meta behind the last block whose values decide anything."""
    telling = _telling(model)
    if not telling:
        return model
    behind = [module for part in telling for module in part.behind_decisions()[1]]
    copied = copy_without_values(model, behind)
    for part in _telling(copied):
        part.behind_decisions()[0].register_forward_hook(_leave_values)
    return copied


def _telling(model: nn.Module) -> list[Any]:
    """The parts that say behind which block they read no values."""
    return [part for part in model.modules() if hasattr(part, "behind_decisions")]


def _leave_values(block: nn.Module, inputs: Any, output: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), output)


@contextmanager
def _watch_layers(model: nn.Module, found: list[LayerCount]) -> Iterator[None]:
    """While inside, note the tokens of each layer that tells them."""

    def note(path: str) -> Callable[..., None]:
        def after(layer: Any, inputs: Any, named: Any, output: Any) -> None:
            entering: Tensor = next(tensors_in((inputs, named)))
            first = output[0] if isinstance(output, tuple) else output
            # Of images that run one by one in a batch, the first is told.
            if all(each.name != path for each in found):
                found.append(LayerCount(path, entering.shape[1], first.shape[1]))

        return after

    handles = [
        layer.register_forward_hook(note(path), with_kwargs=True)
        for path, layer in find_token_layers(model).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def readable_photos(paths: Sequence[Path]) -> tuple[list[Photo], list[str]]:
    """All photos of files and folders, and one line for each that cannot be read.

    Raises:
        ValueError: a missing path, a folder without photos, or no readable photo.
    """
    return choose_photos(paths, MAX_PHOTOS, 0)
