"""What norms, pooling, resizing, reductions and elementwise operators cost: so much for each element."""

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from segmeter.harness.counting.products import Cost

Formula = Callable[[Any, Any], list[Cost] | None]


def layer_norm(args: Any, out: Any) -> list[Cost]:
    """Layer norm (input, shape, weight, ...)."""
    return _norm("layer_norm", args[0].numel(), args[2] is not None)


def group_norm(args: Any, out: Any) -> list[Cost]:
    """Group norm (input, weight, ...)."""
    return _norm("group_norm", args[0].numel(), args[1] is not None)


def batch_norm(args: Any, out: Any) -> list[Cost]:
    """Batch norm (input, weight, bias, maybe statistics, training?, ...)."""
    elements, affine = args[0].numel(), args[1] is not None
    if next((flag for flag in args[3:] if isinstance(flag, bool)), False):
        return _norm("batch_norm", elements, affine)
    # In eval mode scale and shift are known per channel: one multiply and one add per element.
    return [Cost("batch_norm", elements * (2 if affine else 1), 2 * elements)]


def training_batch_norm(args: Any, out: Any) -> list[Cost]:
    """Batch norm that always takes its statistics from the input (input, weight, ...)."""
    return _norm("batch_norm", args[0].numel(), args[1] is not None)


def _norm(operator: str, elements: int, affine: bool) -> list[Cost]:
    # Mean 1, variance 3, difference and quotient 2; scale and shift 2.
    return [Cost(operator, elements * (5 if affine else 4), elements * (8 if affine else 6))]


def weight_norm(args: Any, out: Any) -> list[Cost]:
    """A weight divided by its norms (weight, magnitudes, ...): square, sum and product for each element."""
    return [Cost("elementwise", 0, 3 * args[0].numel() + args[1].numel())]


def per_output(operator: str, macs: int, flops: int) -> Formula:
    """So much for each element of the (first) output."""

    def cost(args: Any, out: Any) -> list[Cost]:
        elements = (out[0] if isinstance(out, tuple | list) else out).numel()
        return [Cost(operator, macs * elements, flops * elements)]

    return cost


def per_input(operator: str, macs: int, flops: int, at: int = 0) -> Formula:
    """So much for each element of an input, the first unless said."""

    def cost(args: Any, out: Any) -> list[Cost]:
        elements = args[at].numel()
        return [Cost(operator, macs * elements, flops * elements)]

    return cost


def window_pool(dimensions: int) -> Formula:
    """Pooling over windows (input, window, ...); a window may be given by one side."""

    def cost(args: Any, out: Any) -> list[Cost]:
        output = out[0] if isinstance(out, tuple | list) else out
        sides = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        window = prod(sides) if len(sides) > 1 else sides[0] ** dimensions
        return [Cost("pooling", 0, output.numel() * window)]

    return cost


def affine_grid(args: Any, out: Any) -> list[Cost]:
    """Coordinates through a matrix (N, d, d + 1): d + 1 products for each coordinate."""
    macs = out.numel() * args[0].shape[-1]
    return [Cost("affine_grid", macs, 2 * macs)]


def embedding_bag(args: Any, out: Any) -> list[Cost]:
    """Rows of a table, added up (table, indices, ...)."""
    return [Cost("elementwise", 0, args[1].numel() * args[0].shape[-1])]


def each_of_a_list(args: Any, out: Any) -> list[Cost]:
    """One operation for each element of a list of tensors."""
    return [Cost("elementwise", 0, sum(x.numel() for x in args[0] if isinstance(x, Tensor)))]
