"""Reducers of tokens of the user's own: ``reduction=mine.py:Mine`` (:mod:`encoders.reduction.interface`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.reduction.interface import ReducerKind
from segmeter.harness.models.own import blaming, check_own_options, load_own, own_title


def own_reducer(source: str) -> ReducerKind:
    """A reducer of tokens of the user's own; see :mod:`encoders.reduction.interface`.

    Raises:
        ValueError: as :func:`load_own`, or it builds no module.
    """
    own = load_own(source)

    def build(**given: Any) -> nn.Module:
        check_own_options(own, given)
        with blaming(f"{source} cannot be built"):
            module = own.build(**given)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{source} must build a torch.nn.Module, got {type(module).__name__}")
        module.register_forward_hook(_check_result(source))
        return module

    return ReducerKind(
        name=source,
        title=own_title(source),
        summary="your own",
        source=source,
        build=build,
        takes_any=True,
        identity=own.identity,
    )


def _check_result(source: str) -> Callable[..., None]:
    """A hook that holds a reducer to what it has to give: shapes, and on a CPU the rows themselves."""

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        came, first = tuple(inputs[0].x.shape), inputs[0].protected
        asked = (
            f"{source} must give the tokens that are left ({came[0]}, T, {came[2]}) and, for each that came, "
            f"its row among them ({came[0]}, {came[1]}) int64"
        )
        if not isinstance(output, tuple) or len(output) != 2:
            raise ValueError(f"{asked}; got {_said(output)} alone")
        x, index = output
        fits = isinstance(x, Tensor) and x.dim() == 3 and (x.shape[0], x.shape[2]) == (came[0], came[2])
        if not fits or not isinstance(index, Tensor) or tuple(index.shape) != came[:2]:
            raise ValueError(f"{asked}; got {_said(x)} and {_said(index)}")
        if index.dtype != torch.int64:
            raise ValueError(f"{asked}; got {_said(index)} {index.dtype}")
        left = x.shape[1]
        if left > came[1]:
            raise ValueError(f"{source} must give as many tokens as came or fewer, {came[1]}; got {left}")
        if index.device.type != "cpu" or type(index) is not Tensor or torch.compiler.is_compiling():
            return
        # The class token is row 0, and no other token may be in it.
        if bool((index[:, :first] != 0).any() | (index[:, first:] < first).any() | (index >= left).any()):
            rows = f"{first} to {left - 1}, and 0 for the class token" if first else f"0 to {left - 1}"
            raise ValueError(
                f"{source} gives {left} tokens, so that rows must be {rows}; got {int(index.min())} to "
                f"{int(index.max())}"
            )

    return check


def _said(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
