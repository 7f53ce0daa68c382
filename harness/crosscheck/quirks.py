"""What the other counters add on top of multiply-accumulates, measured exactly so that it can be named.

- ptflops adds one for every output of a linear layer or convolution that has a bias.
- fvcore reads the cost of an einsum from a table that numpy prints, to four significant digits.
- fvcore counts pooling to one pixel; below it is a mean, which adds and does not multiply.

And what fvcore passes over for reasons other than a missing handle for our name of the operator:

- what no output depends on, which torch's tracer takes out of the graph;
- ``baddbmm``, a matrix product with an addition, which has no handle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmeter.harness.counting import Cost, costs_of

_BIASED = {torch.ops.aten.addmm.default: 0, torch.ops.aten.convolution.default: 2}


def bias_additions(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Outputs of all linear layers and convolutions with a bias."""
    mode = _BiasedOutputs()
    with torch.no_grad(), mode:
        module(*inputs)
    return mode.elements


def einsum_rounding(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """What fvcore's four digits add to the exact MACs of all einsums (negative where they take off)."""
    mode = _EinsumCalls()
    with torch.no_grad(), mode:
        module(*inputs)
    return sum(_as_fvcore_rounds(macs) - macs for macs in mode.macs)


def _as_fvcore_rounds(macs: int) -> int:
    """Half of the FLOPs as numpy prints them.

    >>> _as_fvcore_rounds(3_355_443_200)  # numpy prints 6.711e+09 for 6_710_886_400
    3355500000
    """
    return floor(float(f"{2 * macs:.3e}") / 2)


def einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """MACs of a two-operand einsum: the product of the sizes of all its indices.

    >>> einsum_macs("bqc,bchw->bqhw", [(1, 100, 256), (1, 256, 8, 8)])
    1638400
    """
    operands = equation.replace(" ", "").split("->")[0].split(",")
    sizes = {
        index: size
        for indices, shape in zip(operands, shapes, strict=True)
        for index, size in zip(indices, shape, strict=True)
    }
    return prod(sizes.values())


@dataclass
class _Call:
    """One dispatched operator: the memory that it reads and writes, and its work."""

    reads: set[int]
    writes: set[int]
    costs: list[Cost]


def unused_work(module: nn.Module, inputs: tuple[torch.Tensor, ...], counted: Callable[[str], bool]) -> int:
    """MACs of calls whose results reach no output, of operators that are ``counted`` by name."""
    mode = _Calls()
    with torch.no_grad(), _OutsideAttention(mode), mode:
        outputs = module(*inputs)
    wanted = {_memory(x) for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)}
    unused = 0
    for call in reversed(mode.calls):
        if call.writes & wanted:
            wanted |= call.reads
        else:
            unused += sum(cost.macs for cost in call.costs if counted(cost.operator))
    return unused


def global_pooling(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Elements that pooling to one pixel reads: fvcore counts one for each."""
    mode = _Functions()
    with torch.no_grad(), mode:
        module(*inputs)
    return mode.pooled


def added_products(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """MACs of ``baddbmm``."""
    mode = _Calls()
    with torch.no_grad(), mode:
        module(*inputs)
    return mode.added_products


class _BiasedOutputs(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        position = _BIASED.get(func)
        if position is not None and args[position] is not None:
            self.elements += out.numel()
        return out


class _EinsumCalls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.functional.einsum:
            self.macs.append(einsum_macs(args[0], [tuple(t.shape) for t in args[1:]]))
        return func(*args, **(kwargs or {}))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.added_products = 0
        self.muted = False
        # Kept alive, so that no other tensor gets the same place in memory.
        self._kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        costs = [] if self.muted else costs_of(func, args, out) or []
        if func is torch.ops.aten.baddbmm.default:
            self.added_products += sum(cost.macs for cost in costs)
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if func._schema.is_mutable:
            written += read
        self.calls.append(_Call({_memory(x) for x in read}, {_memory(x) for x in written}, costs))
        self._kept += read + written
        return out


class _OutsideAttention(TorchFunctionMode):
    """Attention has work under its own name, which the products inside it are not."""

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.muted = func is torch.nn.functional.scaled_dot_product_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.calls.muted = False


class _Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.pooled = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.adaptive_avg_pool2d and tuple(out.shape[-2:]) == (1, 1):
            self.pooled += args[0].numel()
        return out
