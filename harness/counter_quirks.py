"""What the other counters add on top of multiply-accumulates, measured exactly so that it can be named.

- ptflops adds one for every output of a linear layer or convolution that has a bias.
- fvcore reads the cost of an einsum from a table that numpy prints, to four significant digits.
"""

from math import floor, prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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
