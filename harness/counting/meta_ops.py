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
    found: list[bool] = []
    parts = tuple(_describe(value, found) for value in (*args, *kwargs.items()))
    return (func, parts) if found and all(found) else None


def _describe(value: Any, on_meta: list[bool]) -> Any:
    if isinstance(value, Tensor):
        # Only dense tensors have strides, and only shapes decide what they cost.
        plain = value.is_meta and value.layout == torch.strided
        on_meta.append(plain)
        return (value.shape, value.stride(), value.dtype) if plain else None
    if isinstance(value, list | tuple):
        return tuple(_describe(each, on_meta) for each in value)
    # 1, 1.0 and True are equal but promote differently.
    return (type(value), value)


def _layouts(out: Any) -> Layout | tuple[Layout, ...] | None:
    if isinstance(out, Tensor):
        return (tuple(out.shape), out.stride(), out.dtype)
    if isinstance(out, tuple) and out and all(isinstance(each, Tensor) for each in out):
        return tuple((tuple(each.shape), each.stride(), each.dtype) for each in out)
    return None


def _empty(layout: Layout) -> Tensor:
    size, stride, dtype = layout
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")
