"""What of a model is exported: some of its stages in a row, with tensors in and tensors out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Sizes, Stage
from segmeter.harness.inputs import Size
from segmeter.harness.models import Form, ModelSpec, filled, form_of
from segmeter.words import nearest

WHOLE = "model"
IMAGES = "images"


class Part(nn.Module):
    """Stages as one module whose arguments and results are tensors.

    Args:
        stages: in the order in which they run.
        modules: one for each stage.
        form: of what the first stage is called with.
        size: (H, W) of the padded images.
    """

    def __init__(self, stages: Sequence[Stage], modules: Sequence[nn.Module], form: Form, size: Size) -> None:
        super().__init__()
        self.stages, self.form, self.size = tuple(stages), form, size
        self.parts = nn.ModuleList(modules)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the stages; results in the order of :func:`named_tensors`."""
        return tuple(tensor for _, tensor in named_tensors(self.value(*tensors)))

    def value(self, *tensors: Tensor) -> Any:
        """What the last stage returns."""
        value = filled(self.form, iter(tensors))
        size = self.size
        if self.form.kind is Tensor:
            # Images, whose size may be dynamic.
            size = (tensors[0].shape[2], tensors[0].shape[3])
        for stage, module in zip(self.stages, self.parts, strict=True):
            value = stage.call(module, value, Sizes(size, size, size))
        return value


@dataclass(frozen=True)
class Cut:
    """A model, and which of its stages are exported.

    Attributes:
        stages: all of them.
        modules: one for each stage.
        first, last: the stages that are exported, as indices, both included.
    """

    stages: tuple[Stage, ...]
    modules: tuple[nn.Module, ...]
    first: int
    last: int

    @property
    def name(self) -> str:
        """As a user writes it."""
        if not self.stages[0].name or (self.first == 0 and self.last == len(self.stages) - 1):
            return WHOLE
        ends = (self.stages[self.first].name, self.stages[self.last].name)
        return ends[0] if self.first == self.last else "..".join(ends)

    def inputs(self, size: Size, batch: int, seed: int = 0) -> Any:
        """What the first of the stages is called with: seeded images, or what the stages before make of them.

        Args:
            size: (H, W) of the padded images.
            batch: B.
            seed: of the images.
        """
        generator = torch.Generator().manual_seed(seed)
        value: Any = torch.randn((batch, 3, *size), generator=generator)
        with torch.no_grad():
            for stage, module in zip(self.stages[: self.first], self.modules, strict=False):
                value = stage.call(module, value, Sizes(size, size, size))
        return value

    def part(self, inputs: Any, size: Size) -> Part:
        """The stages as one module, for inputs of this form."""
        span = slice(self.first, self.last + 1)
        return Part(self.stages[span], self.modules[span], form_of(inputs), size)

    def input_names(self, inputs: Any) -> list[str]:
        """A name for each tensor that goes in."""
        if isinstance(inputs, Tensor):
            return [IMAGES if self.first == 0 else "input"]
        return [name for name, _ in named_tensors(inputs)]


def cut(spec: ModelSpec, model: nn.Module, part: str) -> Cut:
    """A model and the part of it that is asked for.

    Args:
        spec: what the model is.
        model: the model itself.
        part: ``model`` for all of it, the name of a stage, or ``FIRST..LAST``.

    Raises:
        ValueError: no such stage, or the last before the first.
    """
    stages = tuple(spec.stages)
    modules = tuple(model.get_submodule(stage.name) for stage in stages)
    if part == WHOLE:
        return Cut(stages, modules, 0, len(stages) - 1)
    names = [stage.name for stage in stages if stage.name]
    if not names:
        raise ValueError(f"{spec.encoder} is one whole: it is exported as --part {WHOLE}, got {part!r}")
    begin, dots, end = part.partition("..")
    for name in (begin, end) if dots else (begin,):
        if name not in names:
            raise ValueError(
                f"{spec.encoder} has no stage {name!r}; its stages are {', '.join(names)}"
                f"{nearest(name, [*names, WHOLE])}"
            )
    first, last = names.index(begin), names.index(end if dots else begin)
    if last < first:
        raise ValueError(f"{end} comes before {begin}: write --part {end}..{begin}")
    return Cut(stages, modules, first, last)


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model returns, each named by where it stands; the same one once.

    >>> [name for name, _ in named_tensors({"a": [torch.zeros(1)], "b": torch.zeros(1)})]
    ['a_0', 'b']
    """
    seen: set[int] = set()
    for where, tensor in _nested(value, name):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield where or "output", tensor


def _nested(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    parts: Mapping[Any, Any] = {}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Mapping):
        parts = value
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    for key, part in parts.items():
        yield from _nested(part, f"{name}_{key}" if name else str(key))
