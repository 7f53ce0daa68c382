"""What costs no arithmetic and yet costs: comparisons of sorting, and bytes that gathering moves.

Neither is part of any convention's total. Sorting n values is n * ceil(log2 n) comparisons, whatever the
library does; gathering and scattering read and write each moved element once and read its index.
"""

from collections.abc import Callable
from math import ceil, log2
from typing import Any

from torch import Tensor

COMPARISONS, BYTES = "sorting_comparisons", "gathering_bytes"


def moves_of(name: str, args: Any, out: Any) -> tuple[str, int] | None:
    """What an operator moves: a kind and its amount; None for one that does neither.

    Args:
        name: the operator's, such as ``aten::gather``.
        args: its positional arguments.
        out: its result.
    """
    found = _MOVES.get(name.removesuffix("_"))
    return None if found is None else found(args, out)


def _sorted(args: Any, out: Any) -> tuple[str, int]:
    values = args[0]
    numbers = [each for each in args[1:] if isinstance(each, int) and not isinstance(each, bool)]
    dim = numbers[-1] if numbers and -values.dim() <= numbers[-1] < values.dim() else -1
    length = values.shape[dim] if values.dim() else 1
    return COMPARISONS, values.numel() * max(1, ceil(log2(max(2, length))))


def _gathered(args: Any, out: Any) -> tuple[str, int]:
    indices = [each for each in _tensors(args[1:]) if not each.is_floating_point()]
    return BYTES, 2 * _bytes(out) + sum(_bytes(index) for index in indices)


def _scattered(args: Any, out: Any) -> tuple[str, int]:
    tensors = _tensors(args[1:])
    sources = [each for each in tensors if each.is_floating_point()]
    indices = [each for each in tensors if not each.is_floating_point()]
    moved = sum(_bytes(source) for source in sources) or sum(_bytes(index) for index in indices)
    return BYTES, 2 * moved + sum(_bytes(index) for index in indices)


def _tensors(args: Any) -> list[Tensor]:
    flat = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])]
    return [each for each in flat if isinstance(each, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_MOVES: dict[str, Callable[[Any, Any], tuple[str, int]]] = {
    **{f"aten::{name}": _sorted for name in ("sort", "argsort", "topk")},
    **{f"aten::{name}": _gathered for name in ("gather", "index", "index_select")},
    **{
        f"aten::{name}": _scattered
        for name in ("scatter", "scatter_add", "scatter_reduce", "index_put", "index_add", "index_copy")
    },
}
