"""Which work of a run the image does not decide, and which work no prediction reads: its data flow.

Every operator that runs becomes a step that knows the steps its tensors are from. What the image does not
reach is work on weights and prompts alone. What no output is made from has run for nothing. Tensors are
followed by their memory, so that views and what is written in place belong together; a member of a stack that
is picked out again is followed to itself alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

IMAGE = 0


@dataclass(frozen=True)
class Step:
    """One call of an operator.

    Attributes:
        module: dotted path of the module that made it.
        operator: of its work; "" where it has none.
        macs: its multiply-accumulates.
        needs: numbers of the steps whose results it reads.
    """

    module: str
    operator: str
    macs: int
    needs: frozenset[int]


@dataclass(frozen=True)
class _Stack:
    step: int
    dim: int
    members: list[int | None]
    layout: tuple[Any, Any]


class Flow:
    """The steps of one run, in order; step 0 is the image."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.clear()

    def clear(self) -> None:
        """Forget a run that failed."""
        self.steps = [Step("", "", 0, frozenset())]
        self._writer = {_memory(self.images): IMAGE}
        # Kept alive, so that no other memory or tensor takes the place of one.
        self._kept: list[Any] = [self.images.untyped_storage()]
        # Memory of a stack -> the stack.
        self._stacks: dict[int, _Stack] = {}
        # A member picked out of a stack -> (itself, its step, the step that made the stack).
        self._picked: dict[int, tuple[Tensor, int | None, int | None]] = {}

    def note(self, module: str, func: Any, args: Any, out: Any, macs: int, operator: str) -> None:
        """Add a call: ``args`` are all that it was given, keywords too."""
        given = _tensors(args)
        if getattr(func, "is_view", False):
            self._follow_view(func, args, given, _tensors(out))
            return
        needs = [self._step_of(x) for x in given]
        number = len(self.steps)
        self.steps.append(Step(module, operator, macs, frozenset(n for n in needs if n is not None)))
        changed = [x for x in _written(func, args)]
        for x in [*_tensors(out), *changed]:
            # A real tensor is a constant, until something else is written into it.
            if x.is_meta or any(x is each for each in changed):
                memory = _memory(x)
                if memory not in self._writer:
                    self._kept.append(x.untyped_storage())
                self._writer[memory] = number
        if _name(func) == "aten::stack" and isinstance(out, Tensor) and out.is_meta:
            members = list(args[0][0])
            at = args[0][1] if len(args[0]) > 1 else args[1].get("dim", 0)
            steps = [self._step_of(x) for x in members]
            self._stacks[_memory(out)] = _Stack(number, at % out.dim(), steps, (out.shape, out.stride()))

    def decided_by_image(self) -> set[int]:
        """Numbers of the steps whose results the image's values may change."""
        found = {IMAGE}
        for number, step in enumerate(self.steps):
            if not found.isdisjoint(step.needs):
                found.add(number)
        return found

    def read_by(self, outputs: Iterable[Tensor]) -> set[int]:
        """Numbers of the steps that these outputs are made from."""
        found = {step for step in map(self._step_of, outputs) if step is not None}
        for number in range(len(self.steps) - 1, -1, -1):
            if number in found:
                found |= self.steps[number].needs
        return found

    def _step_of(self, x: Tensor) -> int | None:
        memory = _memory(x)
        writer = self._writer.get(memory)
        picked = self._picked.get(id(x))
        if picked is not None and picked[0] is x and picked[2] == writer:
            return picked[1]
        return writer

    def _follow_view(self, func: Any, args: Any, given: list[Tensor], views: list[Tensor]) -> None:
        base = given[0]
        writer = self._writer.get(_memory(base))
        step = self._step_of(base)
        if step == writer and base.is_meta and _name(func) == "aten::select":
            stack = self._stacks.get(_memory(base))
            _, dim, index = args[0]
            # As it was made: another view of it numbers its members otherwise.
            as_made = stack is not None and stack.layout == (base.shape, base.stride())
            if stack is not None and as_made and stack.step == writer and dim % base.dim() == stack.dim:
                step = stack.members[index]
        if step != writer:
            for view in views:
                self._picked[id(view)] = (view, step, writer)


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.layout == torch.strided]


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _name(func: Any) -> str:
    schema = getattr(func, "_schema", None)
    return schema.name if schema is not None else ""


def _written(func: Any, args: Any) -> Iterator[Tensor]:
    """The tensors that a call writes into."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    positional, named = args
    for argument, value in zip(schema.arguments, positional, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(value)
    yield from _tensors(named.get("out"))
