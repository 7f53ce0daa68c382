"""What a library's model is called with: images of a size, and what else it asks for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.harness.inputs import MAX_SIDE, Size, format_size
from segmeter.harness.models.libraries.input_text import DTYPE_NAMES, read_input
from segmeter.words import nearest

DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}
# Where a processor keeps an image's proportions, the figure is for the commonest image of COCO.
PHOTO = (480, 640)


@dataclass(frozen=True)
class Extra:
    """An input beside the images.

    Attributes:
        name: the keyword.
        shape: without the batch.
        dtype: a key of :data:`DTYPES`.
        values: all elements in a row, or one for all.
        batched: whether a batch stands before the shape.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "int64"
    values: tuple[int, ...] = (0,)
    batched: bool = True

    def tensor(self, batch: int, device: torch.device) -> Tensor:
        """(batch, ...) tensor; its values choose nothing in a model beyond what its author expects."""
        shape = (batch, *self.shape) if self.batched else self.shape
        if len(self.values) == 1:
            return torch.full(shape, self.values[0], dtype=DTYPES[self.dtype], device=device)
        row = torch.tensor(self.values, dtype=DTYPES[self.dtype], device=device).reshape(self.shape)
        return row.expand(shape).clone()

    @property
    def text(self) -> str:
        """Shape and dtype for a batch of 1."""
        return f"{'x'.join(map(str, (1, *self.shape) if self.batched else self.shape))} {self.dtype}"


@dataclass(frozen=True)
class Inputs:
    """What a model is called with.

    Attributes:
        size: (H, W) that it is made for.
        source: where that size is from.
        image: keyword of the images; "" where they are the first argument.
        frames: of a video (B, T, 3, H, W); 0 for images (B, 3, H, W).
        extras: further inputs.
        takes: keywords of its forward, each with whether it is a tensor.
        required: those that have to be given.
    """

    size: Size
    source: str
    image: str = ""
    frames: int = 0
    extras: tuple[Extra, ...] = ()
    takes: Mapping[str, bool] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def keeps_proportions(self) -> bool:
        """Whether the size is one photo's, and another photo's would be another."""
        return self.source.endswith(f"for a {format_size(PHOTO)} image")

    @property
    def is_plain(self) -> bool:
        """Whether images are all, as the first argument."""
        return not self.image and not self.frames and not self.extras

    def feed(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """A forward pre-hook: (images,) becomes the keywords that the model asks for."""
        if len(args) != 1 or keywords:
            return None
        images = args[0]
        made = {extra.name: extra.tensor(images.shape[0], images.device) for extra in self.extras}
        if self.frames:
            images = images[:, None].expand(-1, self.frames, -1, -1, -1)
        return ((), {self.image: images, **made}) if self.image else ((images,), made)

    def described(self, size: Size) -> dict[str, str]:
        """Input -> shape and dtype at a size, for a batch of 1."""
        frames = (self.frames,) if self.frames else ()
        image = "x".join(map(str, (1, *frames, 3, *size))) + " float32"
        return {self.image or "images": image, **{extra.name: extra.text for extra in self.extras}}


def given_inputs(source: str, inputs: Inputs, given: Mapping[str, str]) -> Inputs:
    """The inputs with those replaced that a user gave as ``SHAPE`` or ``SHAPE,dtype``.

    Raises:
        ValueError: an input that the model does not have, a shape that cannot be read, or one of images
            that is not (1, 3, H, W) or, for videos, (1, T, 3, H, W).
    """
    for name, text in given.items():
        shape, dtype = read_input(name, text)
        if name == (inputs.image or "images"):
            video = len(shape) == 5 and bool(inputs.image)
            if (
                not (len(shape) == 4 or video)
                or shape[0] != 1
                or shape[-3] != 3
                or dtype not in ("", "float32")
            ):
                form = "1xTx3xHxW" if inputs.frames else "1x3xHxW"
                raise ValueError(f"input {name} must be {form} float32, got {text!r}")
            inputs = replace(
                inputs,
                size=(shape[-2], shape[-1]),
                source="given",
                frames=shape[1] if video else inputs.frames,
            )
            continue
        known = {extra.name: extra for extra in inputs.extras}
        if name not in known and inputs.takes.get(name):
            known[name] = _new_extra(name)
            inputs = replace(inputs, extras=(*inputs.extras, known[name]))
        if name not in known:
            names = [inputs.image or "images", *known, *(each for each in inputs.takes if inputs.takes[each])]
            raise ValueError(f"{source} has no input {name!r}{nearest(name, names)}")
        old = known[name]
        values = _filled(old.values, shape)
        new = replace(old, shape=shape[1:] if old.batched else shape, dtype=dtype or old.dtype, values=values)
        inputs = replace(inputs, extras=tuple(new if e.name == name else e for e in inputs.extras))
    missing = [name for name in inputs.required if name not in {extra.name for extra in inputs.extras}]
    if missing:
        no_tensor = next((name for name in missing if not inputs.takes.get(name)), None)
        told = f"{source} asks for {', '.join(missing)} beside images"
        if no_tensor:
            raise ValueError(f"{told}, and {no_tensor} is no tensor: it cannot be called by its name")
        raise ValueError(f"{told}; give each: --input {missing[0]}=SHAPE[:DTYPE]")
    return inputs


def _new_extra(name: str) -> Extra:
    """An input of which the name alone is known: indices and labels are 0, masks 1, all else numbers."""
    if name.endswith("mask"):
        return Extra(name, (), values=(1,))
    return Extra(name, (), "int64" if re.search(r"(_ids|labels|indices|_shapes|sizes)$", name) else "float32")


def _filled(values: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """A row of values for a new length: the ends stay, the middle is repeated or cut."""
    if len(values) == 1:
        return values
    wanted = 1
    for side in shape[1:]:
        wanted *= side
    if wanted < 4:
        return values[:wanted] or values[:1]
    return (values[0], *[values[1]] * (wanted - 3), *values[-2:])


def check_side(size: Size, what: str) -> Size:
    """The size, if it is one.

    Raises:
        ValueError: a side below 1 or beyond the largest.
    """
    if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
        raise ValueError(f"{what} asks for images of {size!r}")
    return size
