"""What a module is called with, from what a user wrote: shapes, tensors, and how they are nested.

A shape is a tuple or list of whole numbers, such as ``(1, 3, 224, 224)``. Where everything is shapes, tensors
are made for them; beside a tensor, a tuple of numbers is a plain value.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

# Inputs whose types are guessed: two to this power of runs at most, and on meta tensors.
MAX_GUESSED = 4
WANTS_IDS = re.compile(r"\bindices\b|\bindex\b|\bLong|\bint64\b|\bint32\b")


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor that is to be made; ``number`` tells equal ones apart."""

    sides: tuple[int, ...]
    number: int


@dataclass(frozen=True)
class Call:
    """Positional and keyword arguments, with a :class:`Shape` in place of each tensor that is to be made."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def shapes(self) -> list[Shape]:
        """What is to be made; empty if the tensors were given."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Shape)]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that were given."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def made(self, make: Callable[[Shape], Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with tensors in the places of shapes."""
        args, kwargs = tree_map_only(Shape, make, (self.args, self.kwargs))
        return args, kwargs

    def guesses(self) -> Iterator[frozenset[int]]:
        """Which of the shapes may be those of token ids, by number: none, all, then every choice of them."""
        numbers = [shape.number for shape in self.shapes]
        yield frozenset()
        if numbers:
            yield frozenset(numbers)
        if len(numbers) <= MAX_GUESSED:
            for few in chain.from_iterable(combinations(numbers, n) for n in range(1, len(numbers))):
                yield frozenset(few)


def read_calls(model: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None = None) -> list[Call]:
    """The calls that a user may have meant, the likeliest first.

    Args:
        model: what is called; its forward tells whether a list is one argument.
        inputs: a shape, a tensor, a tuple of positional arguments, a list of them or one argument that is a
            list (as torchvision's detectors take), a mapping of keyword arguments, or a pair of a tuple and a
            mapping.
        kwargs: keyword arguments beside ``inputs``.

    Raises:
        ValueError: a shape with a side below 1, or a batch of nothing.
    """
    named = dict(kwargs or {})
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    if inputs is None and named:
        calls = [((), named)]
    elif isinstance(inputs, Mapping) and _are_names(model, inputs):
        calls = [((), {**inputs, **named})]
    elif isinstance(inputs, tuple) and len(inputs) == 2 and _is_pair(model, inputs):
        calls = [(tuple(inputs[0]), {**inputs[1], **named})]
    elif isinstance(inputs, Tensor | Mapping) or _is_shape(inputs):
        calls = [((inputs,), named)]
    elif isinstance(inputs, list):
        several, one = (tuple(inputs), named), ((inputs,), named)
        calls = [one, several] if _takes_a_list(model, len(inputs)) else [several, one]
    elif isinstance(inputs, tuple):
        calls = [(inputs, named)]
    else:
        raise ValueError(f"inputs must be a shape, a tensor, a tuple or a dict of them, got {inputs!r}")
    return [_call(args, named) for args, named in calls]


def run_first(
    calls: Sequence[Call], run: Callable[[Call, frozenset[int]], Any], final: type[Exception]
) -> Any:
    """What the first call gives that runs.

    Args:
        calls: as :func:`read_calls` gives them.
        run: runs a call, with the numbers of the shapes that are token ids.
        final: an error that no other call would avoid.

    Raises:
        Exception: the first call's error, if none of them runs.
    """
    first: Exception | None = None
    for call in calls:
        for ids in call.guesses():
            try:
                return run(call, ids)
            except final:
                raise
            except Exception as error:
                first = first or error
                if not WANTS_IDS.search(str(error)):
                    break
    assert first is not None
    raise first


def _call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    for tensor in tensors:
        if (tensor.dim() and not tensor.shape[0]) or not any(each.numel() for each in tensors):
            raise ValueError(f"a batch of nothing costs nothing: got a tensor of shape {tuple(tensor.shape)}")
    if tensors:
        return Call(args, kwargs)
    counter = iter(range(1 << 30))
    return Call(
        tuple(_shaped(value, counter) for value in args),
        {name: _shaped(value, counter) for name, value in kwargs.items()},
    )


def _shaped(value: Any, counter: Iterator[int]) -> Any:
    if _is_shape(value):
        if min(value) < 1:
            raise ValueError(f"the sides of a shape must be 1 or more, got {tuple(value)}")
        return Shape(tuple(value), next(counter))
    if isinstance(value, Mapping):
        return {name: _shaped(each, counter) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_shaped(each, counter) for each in value)
    return value


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and bool(value)
        and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
    )


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _are_names(model: nn.Module, given: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds keyword arguments, rather than being an argument itself."""
    known = _parameters(model)
    takes_any = not known or any(p.kind is p.VAR_KEYWORD for p in known)
    names = {p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return all(isinstance(name, str) for name in given) and (takes_any or set(given) <= names)


def _is_pair(model: nn.Module, inputs: tuple[Any, Any]) -> bool:
    args, kwargs = inputs
    if not (isinstance(args, tuple) and not _is_shape(args) and isinstance(kwargs, Mapping)):
        return False
    taken = {p.name for p in _parameters(model)[: len(args)]}
    return bool(kwargs) and _are_names(model, kwargs) and not taken & set(kwargs)


def _takes_a_list(model: nn.Module, length: int) -> bool:
    """Whether forward's first argument is a list, by what it says of it or by how few it takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = _parameters(model)
    places = [p for p in known if p.kind in kinds]
    if not places:
        return False
    said = places[0].annotation
    text = said if isinstance(said, str) else str(getattr(said, "__origin__", said))
    if re.search(r"\b(list|List|Sequence|Iterable)\b", text):
        return True
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in known)
    return not takes_any and length > len(places)


def input_dtype(model: nn.Module) -> torch.dtype:
    """The type of the numbers that a model works with: that of its first weight, torch's default if none."""
    weights = chain(model.parameters(), model.buffers())
    return next((w.dtype for w in weights if w.is_floating_point()), torch.get_default_dtype())
