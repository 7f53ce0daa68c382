"""What operators give on meta tensors, without torch's own Python for it.

Most of torch's rules for meta tensors are written in Python. The first of them to run loads sympy and torch's
compiler, which takes longer than a whole count. Each function here answers for what it surely knows
and gives None for the rest, which torch then works out, or refuses in its own words.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def run_plainly(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``func(*args, **kwargs)``, by a rule from here if its first tensor is on meta."""
    leading = args[0] if args and isinstance(args[0], list | tuple) else args
    first = next((x for x in leading if isinstance(x, Tensor)), None)
    if isinstance(first, Tensor) and first.is_meta:
        out = None
        rule = _RULES.get(func)
        if rule is not None:
            out = rule(*args, **kwargs)
        elif _is_pointwise(func):
            out = _pointwise(func, args, kwargs)
        if out is not None:
            return out
    return func(*args, **kwargs)


@lru_cache(maxsize=4096)
def _is_pointwise(func: Any) -> bool:
    """Whether each element of the one output comes of the same elements of the inputs, by no chance."""
    written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    in_place = len(written) == 1 and written[0] is func._schema.arguments[0]
    tags = func.tags
    return (
        torch.Tag.pointwise in tags
        and torch.Tag.nondeterministic_seeded not in tags
        and len(func._schema.returns) == 1
        and (not written or (in_place and "out" not in func._overloadname))
    )


def _pointwise(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Run the operator on stand-ins of two cells a side, and stretch what comes out to the real sides."""
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if any(not x.is_meta or x.layout != torch.strided for x in tensors):
        return None
    shape = _broadcast([tuple(x.shape) for x in tensors])
    if shape is None:
        return None
    try:
        tiny = {id(x): _stand_in(tuple(x.shape), x.stride(), x.dtype) for x in tensors}
        if None in tiny.values():
            return None
        out = func(
            *(tiny[id(x)] if isinstance(x, Tensor) else x for x in args),
            **{name: tiny[id(x)] if isinstance(x, Tensor) else x for name, x in kwargs.items()},
        )
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    if func._schema.is_mutable:
        return args[0] if args[0].shape == shape else None
    if not isinstance(out, Tensor) or out.shape != tuple(min(side, 2) for side in shape):
        return None
    return _in_order(shape, out.stride(), out.dtype)


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that all of them stretch to, or None. (torch's own function for it loads sympy.)"""
    longest = max(map(len, shapes))
    sides = []
    for column in zip(*((1,) * (longest - len(shape)) + shape for shape in shapes), strict=True):
        wide = {side for side in column if side != 1}
        if len(wide) > 1:
            return None
        sides.append(wide.pop() if wide else 1)
    return tuple(sides)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor on meta. (``new_empty`` would be real where small constants are kept real.)"""
    return _in_order(shape, (0,) * len(shape), dtype)


def _in_order(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without gaps, its dimensions in memory in the order of these strides."""
    dense, step = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda dim: (strides[dim], -dim)):
        dense[dim] = step
        step *= max(shape[dim], 1)
    return torch.empty_strided(shape, dense, dtype=dtype, device="meta")


def _stand_in(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor of ones with at most two cells a side, its dimensions in memory in the same order."""
    wide = [dim for dim, side in enumerate(shape) if side > 1 and strides[dim] > 0]
    if len({strides[dim] for dim in wide}) < len(wide):
        return None
    small, step = list(strides), 1
    for dim in sorted(wide, key=lambda dim: strides[dim]):
        small[dim] = step
        step *= 2
    for dim, side in enumerate(shape):
        if side <= 1:
            small[dim] = step
    return torch.empty_strided([min(side, 2) for side in shape], small, dtype=dtype, device="cpu").fill_(1)


def _layer_norm(x: Tensor, normalized: Sequence[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A norm of the last sides, and two statistics for each of the others."""
    kept = x.dim() - len(normalized)
    return _normed(_empty(x.shape, x.dtype), (*x.shape[:kept], *(1 for _ in normalized)))


def _group_norm(
    x: Tensor, weight: Any, bias: Any, images: int, channels: int, pixels: int, groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _normed(_in_order(x.shape, x.stride(), x.dtype), (images, groups))


def _batch_norm(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _normed(_in_order(x.shape, x.stride(), x.dtype), (x.shape[1],))


def _normed(out: Tensor, of_statistics: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """A norm's output, its means and its scales, which are kept in single precision at least."""
    dtype = torch.float32 if out.dtype in (torch.float16, torch.bfloat16) else out.dtype
    statistics = _empty(of_statistics, dtype)
    return out, statistics, statistics


def _softmax(x: Tensor, dim: int, other_type: Any = None) -> Tensor | None:
    known = x.is_contiguous() and x.is_floating_point() and not other_type and -x.dim() <= dim < x.dim()
    return _empty(x.shape, x.dtype) if known else None


def _resized(inputs: Tensor, size: Any, *_: Any, **__: Any) -> Tensor:
    return _empty((*inputs.shape[:2], *size), inputs.dtype)


def _resized_nearest(inputs: Tensor, size: Any, *_: Any) -> Tensor | None:
    return _resized(inputs, size) if inputs.is_contiguous() and inputs.numel() and min(size) > 0 else None


def _sampled(x: Tensor, grid: Tensor, *_: Any) -> Tensor | None:
    """Images looked up at places."""
    fits = x.dim() == grid.dim() == 4 and x.shape[0] == grid.shape[0] and grid.shape[-1] == 2
    known = (
        fits and x.dtype == grid.dtype and grid.is_meta and x.is_contiguous() and x.numel() and grid.numel()
    )
    return _empty((*x.shape[:2], *grid.shape[1:3]), x.dtype) if known else None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    """A plain convolution of batches."""
    sides = x.dim() - 2
    fits = (
        not transposed
        and sides > 0
        and x.dim() == weight.dim()
        and len(stride) == len(padding) == len(dilation) == sides
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and x.dtype == weight.dtype
        and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == x.dtype))
    )
    if not fits or x.numel() == 0 or min(stride) < 1:
        return None
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    room = [n + 2 * p - r for n, p, r in zip(x.shape[2:], padding, reach, strict=True)]
    if min(room) < 0:
        return None
    return _empty(
        (x.shape[0], weight.shape[0], *(n // s + 1 for n, s in zip(room, stride, strict=True))), x.dtype
    )


def _product(a: Tensor, b: Tensor) -> Tensor | None:
    """Matrices, or batches of them."""
    fits = a.dim() == b.dim() and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    return _empty((*a.shape[:-1], b.shape[-1]), a.dtype) if fits and a.dtype == b.dtype else None


def _added_product(bias: Tensor, a: Tensor, b: Tensor, **weights: Any) -> Tensor | None:
    """A linear layer."""
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    known = fits and not weights and a.dtype == b.dtype == bias.dtype
    return _empty((a.shape[0], b.shape[1]), a.dtype) if known else None


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """Tensors of one type, alike but for one side."""
    first = tensors[0]
    at = dim % first.dim() if first.dim() else 0
    alike = all(
        x.is_meta
        and x.dim() == first.dim() > 0
        and x.dtype == first.dtype
        # Of images alone torch keeps the order in memory.
        and (x.is_contiguous() or x.dim() < 4)
        and x.shape[:at] == first.shape[:at]
        and x.shape[at + 1 :] == first.shape[at + 1 :]
        for x in tensors
    )
    if not alike or not -first.dim() <= dim < first.dim():
        return None
    return _empty((*first.shape[:at], sum(x.shape[at] for x in tensors), *first.shape[at + 1 :]), first.dtype)


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    at = dim % (first.dim() + 1)
    alike = all(
        x.is_meta and x.shape == first.shape and x.dtype == first.dtype and (x.is_contiguous() or x.dim() < 3)
        for x in tensors
    )
    if not alike or not -first.dim() - 1 <= dim <= first.dim():
        return None
    return _empty((*first.shape[:at], len(tensors), *first.shape[at:]), first.dtype)


def _rolled(x: Tensor, *_: Any) -> Tensor | None:
    return _empty(x.shape, x.dtype) if x.is_contiguous() else None


def _padded(x: Tensor, pads: Sequence[int], *_: Any) -> Tensor | None:
    """Pads come for the last side first, before and behind it."""
    if len(pads) % 2 or len(pads) > 2 * x.dim() or not x.is_contiguous():
        return None
    sides = list(x.shape)
    for number in range(len(pads) // 2):
        sides[-1 - number] += pads[2 * number] + pads[2 * number + 1]
    return _empty(sides, x.dtype) if min(sides) > 0 else None


def _picked(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """Rows by one tensor of whole numbers."""
    index = indices[0] if len(indices) == 1 else None
    known = index is not None and index.is_meta and index.dtype == torch.int64 and x.dim() > 0
    if index is None or not known or not x.is_contiguous() or not index.is_contiguous():
        return None
    return _empty((*index.shape, *x.shape[1:]), x.dtype)


def _any(x: Tensor, dim: int, keepdim: bool = False) -> Tensor | None:
    return _reduced(x, [dim], keepdim, torch.bool)


def _largest(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor | None:
    return _reduced(x, dims, keepdim, x.dtype) if x.numel() else None


def _reduced(x: Tensor, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor | None:
    if not dims or not all(-x.dim() <= dim < x.dim() for dim in dims) or not x.is_contiguous():
        return None
    gone = {dim % x.dim() for dim in dims}
    sides = [1 if dim in gone else side for dim, side in enumerate(x.shape) if keepdim or dim not in gone]
    return _empty(sides, dtype)


def _pooled(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0), *more: Any
) -> tuple[Tensor, Tensor] | None:
    """The largest of each window of images, and where it is."""
    plain = (
        len(kernel) == len(stride) == len(padding) == 2 and x.dim() == 4 and x.is_contiguous() and not more
    )
    if (
        not plain
        or x.numel() == 0
        or min(stride) < 1
        or any(2 * p > k for p, k in zip(padding, kernel, strict=True))
    ):
        return None
    room = [n + 2 * p - k for n, p, k in zip(x.shape[2:], padding, kernel, strict=True)]
    if min(room) < 0:
        return None
    shape = (*x.shape[:2], *(n // s + 1 for n, s in zip(room, stride, strict=True)))
    return _empty(shape, x.dtype), _empty(shape, torch.int64)


_RULES: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.upsample_bilinear2d.default: _resized,
    aten.upsample_nearest2d.default: _resized_nearest,
    aten.grid_sampler_2d.default: _sampled,
    aten.convolution.default: _convolved,
    aten.addmm.default: _added_product,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten._softmax.default: _softmax,
    aten._safe_softmax.default: _softmax,
    aten.cat.default: _joined,
    aten.stack.default: _stacked,
    aten.roll.default: _rolled,
    aten.constant_pad_nd.default: _padded,
    aten.index.Tensor: _picked,
    aten.any.dim: _any,
    aten.amax.default: _largest,
    aten.max_pool2d_with_indices.default: _pooled,
}
