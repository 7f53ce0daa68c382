"""Tensors on meta with the few values that a model reads: small constants stay real, the rest is shapes.

A network's control flow looks at constants: a mask of ones, a table of level sizes, a buffer of
probabilities. On meta tensors these are lost, and a count would have to give up. Inside
:func:`small_values` a tensor that is made from nothing (``ones``, ``arange``, ``tensor([...])``) and what is
computed from such tensors alone stays on the CPU with its values, as long as it is small. Where one meets a
tensor on meta, it becomes shapes too. What the image shows is never known.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from segmeter.harness.models.meta_layouts import run_plainly

# `torch.cond` as the first to load the compiler looks at how modes are entered, and says that it cannot.
warnings.filterwarnings("ignore", r"Dynamo does not know how to trace the builtin .*set_is_in_mode")

# Elements that a constant may have: a mask of the largest images that are usual, 2048x2048.
MOST = 2**22
# Elements that are worked out of constants one by one: control flow asks for no more, and sines take time.
MOST_WORKED_OUT = 2**18

_FINITE = {torch.isfinite: True, torch.isinf: False, torch.isnan: False}
_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)


class UnknownSizeError(RuntimeError):
    """A size depends on values that meta tensors do not hold."""


@contextmanager
def small_values() -> Iterator["SmallValues"]:
    """Keep small constants real on the CPU, whatever device they are asked for, and let them meet meta."""
    with SmallValues() as mode, _FromData(mode):
        yield mode


class _FromData(TorchFunctionMode):
    """What is decided before an operator is dispatched.

    ``torch.tensor([...], device="meta")`` loses its values; and only ``torch.where(mask)`` may give places to
    write to.
    """

    def __init__(self, values: "SmallValues") -> None:
        super().__init__()
        self.values = values

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.new_tensor and args[0].is_meta:
            kwargs = {"dtype": args[0].dtype, **kwargs, "device": "cpu"}
            return torch.tensor(*args[1:], **kwargs)
        if func in _FROM_DATA and not (args and isinstance(args[0], Tensor)) and "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        if func in _FINITE and args[0].is_meta:
            # Training looks whether numbers overflowed. Here none has.
            return torch.full((), _FINITE[func], device="cpu").expand(args[0].shape)
        if func is torch.where and len(args) == 1 and not kwargs:
            self.values.gives_places = True
            try:
                return func(*args)
            finally:
                self.values.gives_places = False
        return func(*args, **kwargs)


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that does not load torch's compiler, which takes more than a second.

    Torch (2.15) keeps the compiler out of what a mode does, and loads it to do so. Here that is done once it
    is loaded: before, there is nothing to keep out.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        as_written: Any = cls.__dict__.get("__torch_dispatch__")
        super().__init_subclass__(**kwargs)
        uncompiled: Any = cls.__dict__.get("__torch_dispatch__")

        def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            run = uncompiled if "torch._dynamo" in sys.modules else as_written
            return run(self, func, types, args, kwargs)

        if as_written is not None:
            cls.__torch_dispatch__ = dispatch  # type: ignore[method-assign]


class SmallValues(DispatchMode):
    """The mode behind :func:`small_values`, below any mode that is entered after it."""

    # Operators that call functions pass; what they call has its own mode.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        # Real tensors into which shapes were written: their values are not known any more. Kept alive, so
        # that no other storage takes the place of one.
        self.lost: dict[int, Any] = {}
        # Places in a tensor whose number nobody knows, as `where` of an unknown mask gives them.
        self.places: dict[int, Tensor] = {}
        self.gives_places = False
        # Off for a backward pass, in which a gradient lies where its tensor does.
        self.makes_constants = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return func(*args, **kwargs)
        name = func._schema.name
        if name in _CONSTANT and self.makes_constants:
            return self._constant(func, args, kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "aten::nonzero" and self.gives_places and not self._is_real(tensors[0]):
            return self._unknown_places(tensors[0])
        if self.places and any(id(x) in self.places for x in tensors):
            return self._with_places(func, args, kwargs)
        if not tensors or (not kwargs and all(x.is_meta for x in tensors)):
            return run_plainly(func, args, kwargs)
        real = [x for x in tensors if self._is_real(x)]
        if len(real) == len(tensors):
            if name == "aten::_to_copy" and _is_meta(kwargs.get("device")):
                kwargs = {**kwargs, "device": torch.device("cpu")}
            if func.is_view or name in _READS or _elements(func, args, kwargs) <= _most(func):
                return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if written is not None and not written.is_meta:
            return self._write(written)
        if func.is_view:
            return func(*args, **kwargs)
        return func(*tree_map(_shapes, args), **_on_meta(func, tree_map(_shapes, kwargs)))

    def _is_real(self, x: Tensor) -> bool:
        return not x.is_meta and not (self.lost and x.untyped_storage()._cdata in self.lost)

    def _unknown_places(self, mask: Tensor) -> Tensor:
        """As many places as there can be, to be written to and for nothing else."""
        places = torch.empty((mask.numel(), mask.dim()), dtype=torch.long, device="meta")
        self.places[id(places)] = places
        return places

    def _with_places(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Writing to unknown places costs nothing, however many they are; all else depends on their number.

        Raises:
            UnknownSizeError: anything but a view of the places, or a number written to them.
        """
        if func.is_view:
            views = func(*args, **kwargs)
            for view in tree_leaves(views):
                self.places[id(view)] = view
            return views
        if func._schema.name == "aten::index_put_" and args[2].numel() == 1:
            return self._write(args[0])
        raise UnknownSizeError(f"{func._schema.name} on places that tensors on meta do not tell")

    def _write(self, written: Tensor) -> Tensor:
        """Note that a tensor's values are not known any more."""
        if not written.is_meta:
            self.lost[written.untyped_storage()._cdata] = written
        return written

    def _constant(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """A tensor that depends on no other's values: real where it is small, shapes where it is not."""
        shaped, device = tree_map(_shapes, args), torch.device("meta")
        on_meta = func(*shaped, **{**kwargs, "device": device})
        if func._schema.name == "aten::empty":
            # Made to be filled in: a table of sizes. Its values until then are nobody's, here 0.
            is_table = not on_meta.is_floating_point() and on_meta.numel() <= MOST_WORKED_OUT
            return torch.zeros(on_meta.shape, dtype=on_meta.dtype) if is_table else on_meta
        if on_meta.numel() > MOST:
            return on_meta
        dtype = kwargs.get("dtype") or on_meta.dtype
        return func(*args, **{**kwargs, "device": torch.device("cpu"), "dtype": dtype})


_CONSTANT = frozenset(
    f"aten::{name}"
    for name in (
        *(
            "arange",
            "empty",
            "eye",
            "full",
            "linspace",
            "ones",
            "scalar_tensor",
            "tril_indices",
            "triu_indices",
            "zeros",
        ),
        *("full_like", "ones_like", "zeros_like", "new_full", "new_ones", "new_zeros"),
    )
)
# Their results' sizes depend on values, or they give a number.
_READS = frozenset(
    f"aten::{name}" for name in ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero")
)


@lru_cache(maxsize=4096)
def _most(func: Any) -> int:
    return MOST_WORKED_OUT if torch.Tag.pointwise in func.tags else MOST


def _elements(func: Any, args: Any, kwargs: dict[str, Any]) -> int:
    """Elements of a call's largest result, known without working it out."""
    if torch.Tag.dynamic_output_shape in func.tags:
        return 0
    if _is_inplace(func):
        return int(args[0].numel())
    largest = max((x.numel() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), default=0)
    if torch.Tag.pointwise in func.tags:
        shapes = [x.shape for x in tree_leaves(args) if isinstance(x, Tensor)]
        return prod(torch.broadcast_shapes(*shapes))
    try:
        out = func(*tree_map(_shapes, args), **_on_meta(func, tree_map(_shapes, kwargs)))
    except (NotImplementedError, RuntimeError):
        return int(largest)
    return max((x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)), default=0)


@lru_cache(maxsize=4096)
def _is_inplace(func: Any) -> bool:
    first = func._schema.arguments[:1]
    return bool(first and first[0].alias_info and first[0].alias_info.is_write)


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call writes into; None where it makes a new one."""
    if _is_inplace(func):
        return args[0]
    return kwargs.get("out")


def _shapes(x: Any) -> Any:
    if isinstance(x, Tensor) and not x.is_meta:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return x


def _on_meta(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": torch.device("meta")} if kwargs.get("device") is not None else kwargs


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"
