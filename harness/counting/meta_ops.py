"""Run one operator, quickly if its tensors are on meta.

On meta tensors torch works most outputs out in slow Python. But the same operator on the same shapes gives
the same output shapes and the same cost, and a network repeats its layers: each distinct call is worked out
once.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from segmeter.harness.counting.op_costs import Cost, costs_of
from segmeter.harness.models import run_plainly

MAX_REMEMBERED = 100_000
# A tensor as far as shapes go: (sizes, strides, dtype).
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]

_remembered: dict[Any, tuple[Layout | tuple[Layout, ...], list[Cost] | None]] = {}


def forget_costs() -> None:
    """Work every cost out anew: a formula has been added."""
    _remembered.clear()


def run_op(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, list[Cost] | None]:
    """The output of ``func(*args, **kwargs)`` and its cost (None where no formula exists)."""
    if func.is_view:
        return func(*args, **kwargs), []
    key = _key(func, args, kwargs) if _makes_new_tensors(func) else None
    if key is None:
        out = run_plainly(func, args, kwargs)
        return out, costs_of(func, args, out)
    known = _remembered.get(key)
    if known is None:
        out = run_plainly(func, args, kwargs)
        costs = costs_of(func, args, out)
        layout = _layouts(out)
        if layout is not None and len(_remembered) < MAX_REMEMBERED:
            _remembered[key] = layout, costs
        return out, costs
    layout, costs = known
    if isinstance(layout[-1], torch.dtype):
        return _empty(layout), costs
    return tuple(_empty(each) for each in layout), costs


@lru_cache(maxsize=4096)
def _makes_new_tensors(func: Any) -> bool:
    """Whether the operator's outputs never share memory with its inputs; `func.is_view` is not enough."""
    schema = func._schema
    aliased = any(argument.alias_info for argument in (*schema.arguments, *schema.returns))
    return not aliased and not schema.is_mutable


def _key(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the output's shapes depend on; None unless all tensors are on meta, and dense."""
    parts: list[Any] = [func]
    has_tensors = _describe(args, parts)
    if has_tensors is not None and kwargs:
        named = _describe(kwargs.items(), parts)
        has_tensors = None if named is None else has_tensors or named
    return tuple(parts) if has_tensors else None


def _describe(values: Any, parts: list[Any]) -> bool | None:
    """Append what decides shapes; whether a tensor is among the values, None if one is not plain."""
    has_tensors = False
    for value in values:
        if isinstance(value, Tensor):
            # Only dense tensors have strides, and only shapes decide what they cost.
            if not value.is_meta or value.layout != torch.strided:
                return None
            has_tensors = True
            parts += (value.shape, value.stride(), value.dtype)
        elif isinstance(value, list | tuple):
            parts.append(len(value))
            within = _describe(value, parts)
            if within is None:
                return None
            has_tensors = has_tensors or within
        else:
            # 1, 1.0 and True are equal but promote differently.
            parts += (type(value), value)
    return has_tensors


def _layouts(out: Any) -> Layout | tuple[Layout, ...] | None:
    if isinstance(out, Tensor):
        return (tuple(out.shape), out.stride(), out.dtype)
    if isinstance(out, tuple) and out and all(isinstance(each, Tensor) for each in out):
        return tuple((tuple(each.shape), each.stride(), each.dtype) for each in out)
    return None


def _empty(layout: Layout) -> Tensor:
    size, stride, dtype = layout
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")
