"""What stands in for the few calls that make containers and numpy arrays out of a pickle's bytes."""

import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmeter.harness.weights.safe_pickle import (
    SET_PRICE,
    Call,
    Machine,
    StandIn,
    Table,
    UnsafePickleError,
    as_dict,
    keys,
    run,
)

# Numbers that torch has too: no longdouble, whose bytes differ from machine to machine.
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


def load_pickle(path: Path) -> Any:
    """Read one pickle of plain containers and numpy arrays.

    Returns:
        Dicts, lists, tuples, sets, strings, bytes, numbers and numpy arrays (read-only), nested as stored.

    Raises:
        UnsafePickleError: the file asks for anything else; its name is in the message.
        ValueError: the file is truncated, malformed, or large or nested beyond reason.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return run(file, size, Machine({**CONTAINERS, **NUMPY}, room=size, build=build))
        except UnsafePickleError:
            raise
        except ValueError as error:
            raise ValueError(f"{path} is not a whole pickle of weights: {error}") from None


@dataclass(eq=False)
class _Array(StandIn):
    """An array between its two opcodes: made empty, then given shape, type and bytes."""

    value: np.ndarray | None = None

    def finish(self) -> np.ndarray:
        if self.value is None:
            raise ValueError("an array without content")
        return self.value


@dataclass(eq=False)
class _DType(StandIn):
    value: np.dtype[Any]

    def finish(self) -> np.dtype[Any]:
        return self.value


def build(machine: Machine, target: Any, state: Any) -> None:
    """Give an array its shape, type and bytes, or a type its byte order."""
    if isinstance(target, _DType):
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"a byte order {reprlib.repr(order)}")
        target.value = target.value.newbyteorder(order)
    elif isinstance(target, _Array):
        _version, shape, dtype, fortran, content = state
        target.value = _from_bytes(machine, content, dtype, shape, "F" if fortran else "C")
    else:
        raise ValueError(f"the pickle sets the state of a {type(target).__name__}")


def _dtype(machine: Machine, arguments: tuple[Any, ...]) -> _DType:
    code = arguments[0]
    if not isinstance(code, str) or code.lstrip("<>|=") not in NUMBERS:
        raise ValueError(f"an array of type {reprlib.repr(code)}; only numbers are read")
    return _DType(np.dtype(code))


def _scalar(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    dtype, content = arguments
    return _from_bytes(machine, content, dtype, (), "C")[()]


def _from_buffer(machine: Machine, arguments: tuple[Any, ...]) -> _Array:
    content, dtype, shape, order = arguments
    return _Array(_from_bytes(machine, content, dtype, shape, order))


def _from_bytes(machine: Machine, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise ValueError("an array without a number type")
    if isinstance(content, str):  # written by Python 2
        content = _latin1(machine, content)
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"an array of {type(content).__name__}; only numbers are read")
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"an array of shape {reprlib.repr(shape)}")
    flat = np.frombuffer(content, dtype=dtype.value)
    # The bytes are in the file, so a shape that asks for more memory than that does not fit them.
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _latin1(machine: Machine, text: str) -> bytes:
    """Text as the bytes that protocol 2 and Python 2 write in it; each text in the file is meant once."""
    machine.take(len(text))
    return text.encode("latin-1")


def _encode(machine: Machine, arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {reprlib.repr(encoding)}")
    return _latin1(machine, text)


def _listed(arguments: tuple[Any, ...]) -> list[Any]:
    if not arguments:
        return []
    (items,) = arguments
    if not isinstance(items, list | tuple):
        raise ValueError(f"a container of a {type(items).__name__}")
    return list(items)


def _set(kind: type) -> Call:
    def call(machine: Machine, arguments: tuple[Any, ...]) -> Any:
        # A list can be shown again and again: every copy is paid for.
        machine.spend(SET_PRICE + sum(len(items) for items in arguments if isinstance(items, list | tuple)))
        return kind(keys(_listed(arguments)))

    return call


def _bytes(kind: type) -> Call:
    def call(machine: Machine, arguments: tuple[Any, ...]) -> Any:
        # How older protocols write bytes that are empty, or a bytearray; never a number: that is a length.
        if len(arguments) > 1 and arguments[1] in ("latin1", "latin-1"):
            return kind(_encode(machine, arguments))
        content = arguments[0] if arguments else b""
        if isinstance(content, list) and not content:
            content = b""
        if not isinstance(content, bytes | bytearray) or len(arguments) > 1:
            raise ValueError(f"{kind.__name__} made out of a {type(content).__name__}")
        machine.take(len(content))
        return kind(content)

    return call


def _ordered(machine: Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (pairs,) = arguments
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"an OrderedDict of a {type(pairs).__name__}")
    machine.spend(2 * len(pairs))
    return as_dict([key for key, _ in pairs], [value for _, value in pairs])


CONTAINERS: Table = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    # How older protocols write sets and bytes.
    **{
        (module, kind.__name__): make(kind)
        for module in ("builtins", "__builtin__")
        for make, kinds in ((_set, (set, frozenset)), (_bytes, (bytes, bytearray)))
        for kind in kinds
    },
}
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
NUMPY: Table = {
    **{(module, "_reconstruct"): lambda machine, arguments: _Array() for module in _MODULES[:2]},
    **{(module, "scalar"): _scalar for module in _MODULES[:2]},
    **{(module, "_frombuffer"): _from_buffer for module in _MODULES[2:]},
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
}
