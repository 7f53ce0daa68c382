"""What goes from one stage to the next, as shapes that can be compared and kept, and as flat tensors."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """The form of a value: tensors' shapes and how they are nested.

    Attributes:
        kind: ``Tensor``, a container's or dataclass's type, or the type of a plain value.
        names: keys or fields; empty for a sequence.
        parts: one for each entry.
        shape, dtype: of a tensor.
        plain: a plain value.
    """

    kind: type
    names: tuple[Hashable, ...] = ()
    parts: tuple["Form", ...] = ()
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    plain: Hashable = None


def form_of(value: Any) -> Form:
    """The form of tensors nested in dicts, lists, tuples and dataclasses; plain values stay as they are.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, Tensor):
        return Form(Tensor, shape=tuple(value.shape), dtype=value.dtype)
    if is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in fields(value))
        return Form(type(value), names, tuple(form_of(getattr(value, name)) for name in names))
    if isinstance(value, dict):
        return Form(dict, tuple(value), tuple(form_of(part) for part in value.values()))
    if isinstance(value, list | tuple):
        return Form(type(value), (), tuple(form_of(part) for part in value))
    if value is None or isinstance(value, int | float | str | bool):
        return Form(type(value), plain=value)
    raise TypeError(f"a stage hands on a {type(value).__name__}; expected tensors, nested")


def filled(form: Form, tensors: Iterator[Tensor]) -> Any:
    """A value of a form, its tensors taken from an iterator in order."""
    if form.kind is Tensor:
        return next(tensors)
    parts = [filled(part, tensors) for part in form.parts]
    if form.kind is dict:
        return dict(zip(form.names, parts, strict=True))
    if issubclass(form.kind, list | tuple):
        return form.kind(parts) if not hasattr(form.kind, "_fields") else form.kind(*parts)
    if form.names:
        return form.kind(**dict(zip(map(str, form.names), parts, strict=True)))
    return form.plain


def empty(form: Form, device: str = "meta") -> Any:
    """A value of a form with tensors that hold nothing."""
    return filled(form, (torch.empty(f.shape, dtype=f.dtype, device=device) for f in _tensor_forms(form)))


def _tensor_forms(form: Form) -> Iterator[Form]:
    if form.kind is Tensor:
        yield form
    for part in form.parts:
        yield from _tensor_forms(part)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in whatever a model returns, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from tensors_in(each)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))


def in_full_precision(value: Any) -> Any:
    """The same value with all its floating-point tensors in float32."""
    tensors = (each.float() if each.is_floating_point() else each for each in tensors_in(value))
    return filled(form_of(value), tensors)
