"""Read pickles of plain containers and numpy arrays; nothing in the file is ever imported or called.

detectron2's model zoo stores weights as pickles, and a pickle is a program. This reader interprets its
opcodes itself: a global is only a name here, and the few calls that make an array out of bytes are done by
this module's own code. Every other global is refused by name.
"""

import os
import pickletools
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_ITEMS = 2_000_000
MAX_DEPTH = 100
MAX_INTEGER_BYTES = 64
MAX_NAME = 200

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ARRAY, _SCALAR, _FROM_BUFFER = "_reconstruct", "scalar", "_frombuffer"
_ENCODE, _ORDERED, _DTYPE, _NDARRAY = "encode", "OrderedDict", "dtype", "ndarray"
_CONTAINERS: dict[str, type] = {"set": set, "frozenset": frozenset, "bytes": bytes}
# (module, name) as written in the file -> what it means to this reader.
_KNOWN = {
    **{(module, _ARRAY): _ARRAY for module in _NUMPY[:2]},
    **{(module, _SCALAR): _SCALAR for module in _NUMPY[:2]},
    **{(module, _FROM_BUFFER): _FROM_BUFFER for module in _NUMPY[2:]},
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _ENCODE,
    ("collections", "OrderedDict"): _ORDERED,
    # How older protocols write sets and empty bytes.
    **{(module, name): name for module in ("builtins", "__builtin__") for name in _CONTAINERS},
}
_DTYPE_KINDS = "biufc"


class UnsafePickleError(ValueError):
    """The file holds more than plain containers and numpy arrays; ``offender`` names it."""

    def __init__(self, offender: str, position: int) -> None:
        # A name is bytes from the file: line breaks in it must not break the message.
        self.offender = offender[:MAX_NAME].encode("unicode_escape").decode("ascii")
        super().__init__(
            f"refused: the pickle asks for {self.offender} (byte {position}); "
            "only plain containers and numpy arrays are read, and nothing was run"
        )


@dataclass(eq=False)
class _Global:
    meaning: str


@dataclass(eq=False)
class _Array:
    """An array between its two opcodes: made empty, then given shape, type and bytes."""

    value: np.ndarray | None = None


@dataclass(eq=False)
class _DType:
    value: np.dtype[Any]


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    # Bytes that may yet be made out of text; each text in the file is meant once.
    budget: int = 0

    def encode(self, text: str) -> bytes:
        """Text as the bytes that protocol 2 and Python 2 write in it."""
        self.budget -= len(text)
        if self.budget < 0:
            raise ValueError("more bytes than the file holds")
        return text.encode("latin-1")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def load_pickle(path: Path) -> Any:
    """Read one pickle.

    Returns:
        Dicts, lists, tuples, sets, strings, bytes, numbers and numpy arrays (read-only), nested as stored.

    Raises:
        UnsafePickleError: the file asks for anything else; its name is in the message.
        ValueError: the file is truncated, malformed, or nested beyond reason.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _plain(_run(file))
        except UnsafePickleError:
            raise
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            MemoryError,
        ) as error:
            raise ValueError(f"{path} is not a whole pickle of weights: {_first_line(error)}") from None


def _run(file: BinaryIO) -> Any:
    machine = _Machine(budget=os.fstat(file.fileno()).st_size)
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name == "STOP":
            if len(machine.stack) != 1 or machine.marks:
                raise ValueError("the pickle ends with a stack that is not one value")
            return machine.stack[0]
        _step(machine, opcode.name, argument, position or 0)
    raise ValueError("the pickle has no end")


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    "BYTEARRAY8",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _step(machine: _Machine, name: str, argument: Any, position: int) -> None:
    """One opcode; its name is pickletools' own."""
    stack, memo = machine.stack, machine.memo
    if name in ("PROTO", "FRAME"):
        return
    if name in _LITERALS:
        stack.append(argument)
    elif name in ("LONG", "LONG1", "LONG4"):
        if argument.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {argument.bit_length()} bits")
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name == "MARK":
        machine.marks.append(len(stack))
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        machine.since_mark()
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in ("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET"):
        stack.append({"EMPTY_LIST": [], "EMPTY_TUPLE": (), "EMPTY_DICT": {}, "EMPTY_SET": set()}[name])
    elif name in ("LIST", "TUPLE", "FROZENSET"):
        items = machine.since_mark()
        stack.append(
            items if name == "LIST" else tuple(items) if name == "TUPLE" else frozenset(_keys(items))
        )
    elif name in _TUPLES:
        items = stack[-_TUPLES[name] :]
        del stack[-_TUPLES[name] :]
        stack.append(tuple(items))
    elif name == "DICT":
        items = machine.since_mark()
        stack.append(dict(zip(_keys(items[::2]), items[1::2], strict=True)))
    elif name == "APPEND":
        item = stack.pop()
        _top(stack, list).append(item)
    elif name == "APPENDS":
        items = machine.since_mark()
        _top(stack, list).extend(items)
    elif name == "ADDITEMS":
        items = machine.since_mark()
        _top(stack, set).update(_keys(items))
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _top(stack, dict).update(zip(_keys([key]), [value], strict=True))
    elif name == "SETITEMS":
        items = machine.since_mark()
        _top(stack, dict).update(zip(_keys(items[::2]), items[1::2], strict=True))
    elif name == "GLOBAL":
        module, _, attribute = argument.partition(" ")
        stack.append(_known(module, attribute, position))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_known(module, attribute, position))
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        stack.append(_reduce(machine, called, arguments))
    elif name == "BUILD":
        state = stack.pop()
        _build(machine, stack[-1], state)
    else:
        raise UnsafePickleError(f"opcode {name}{_named(argument, stack)}", position)


def _keys(items: list[Any]) -> list[Any]:
    """Keys of a dict or members of a set; a tuple in a tuple in a tuple takes forever to hash."""
    for item in items:
        if not isinstance(item, str | bytes | int | float | None):
            raise ValueError(f"a key that is a {type(item).__name__}")
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise ValueError(f"expected a {kind.__name__} to add to, found a {type(stack[-1]).__name__}")
    return stack[-1]


def _named(argument: Any, stack: list[Any]) -> str:
    if isinstance(argument, str):
        return " " + argument.replace(" ", ".")
    known = [item.meaning for item in stack if isinstance(item, _Global)]
    return f" on {known[-1]}" if known else ""


def _known(module: Any, attribute: Any, position: int) -> _Global:
    # Written out, a list in a list in a list takes forever too: only a bounded part of it is.
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise ValueError(f"a global named {reprlib.repr((module, attribute))}")
    meaning = _KNOWN.get((module, attribute))
    if meaning is None:
        raise UnsafePickleError(f"{module}.{attribute}", position)
    return _Global(meaning)


def _reduce(machine: _Machine, called: Any, arguments: Any) -> Any:
    if not isinstance(called, _Global) or not isinstance(arguments, tuple):
        raise ValueError(f"the pickle calls a {type(called).__name__}")
    meaning = called.meaning
    if meaning == _ARRAY:
        return _Array()
    if meaning == _DTYPE:
        return _DType(_numeric(arguments[0]))
    if meaning == _ENCODE:
        text, encoding = arguments
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in the encoding {reprlib.repr(encoding)}")
        return machine.encode(text)
    if meaning == _ORDERED:
        if not arguments:
            return {}
        (pairs,) = arguments
        return dict(zip(_keys([key for key, _ in pairs]), [value for _, value in pairs], strict=True))
    if meaning in _CONTAINERS and all(isinstance(argument, list) for argument in arguments):
        return _CONTAINERS[meaning](*(_keys(argument) for argument in arguments))
    if meaning == _SCALAR:
        dtype, content = arguments
        return _from_bytes(machine, content, dtype, (), "C")[()]
    if meaning == _FROM_BUFFER:
        content, dtype, shape, order = arguments
        return _Array(_from_bytes(machine, content, dtype, shape, order))
    raise ValueError(f"the pickle calls {meaning}")


def _build(machine: _Machine, target: Any, state: Any) -> None:
    if isinstance(target, _DType):
        target.value = target.value.newbyteorder(_byte_order(state[1]))
    elif isinstance(target, _Array):
        _version, shape, dtype, fortran, content = state
        target.value = _from_bytes(machine, content, dtype, shape, "F" if fortran else "C")
    else:
        raise ValueError(f"the pickle sets the state of a {type(target).__name__}")


def _byte_order(code: Any) -> Any:
    if code not in ("<", ">", "|", "="):
        raise ValueError(f"a byte order {reprlib.repr(code)}")
    return code


def _numeric(code: Any) -> np.dtype[Any]:
    if not isinstance(code, str) or len(code) > 4 or code.lstrip("<>|=")[:1] not in _DTYPE_KINDS:
        raise ValueError(f"an array of type {reprlib.repr(code)}; only numbers are read")
    return np.dtype(code)


def _from_bytes(machine: _Machine, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise ValueError("an array without a number type")
    if isinstance(content, str):  # written by Python 2
        content = machine.encode(content)
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"an array of {type(content).__name__}; only numbers are read")
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"an array of shape {reprlib.repr(shape)}")
    flat = np.frombuffer(content, dtype=dtype.value)
    # The bytes are in the file, so a shape that asks for more memory than that does not fit them.
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _plain(value: Any) -> Any:
    """The value with finished arrays in place of those being made; bounded in size and depth."""
    remaining = MAX_ITEMS

    def finish(item: Any, depth: int) -> Any:
        nonlocal remaining
        remaining -= 1
        if remaining < 0 or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_ITEMS:,} values, or nested deeper than {MAX_DEPTH}")
        if isinstance(item, dict):
            return {finish(k, depth + 1): finish(v, depth + 1) for k, v in item.items()}
        if isinstance(item, list | tuple | set | frozenset):
            return type(item)(finish(inner, depth + 1) for inner in item)
        if isinstance(item, _Array):
            if item.value is None:
                raise ValueError("an array without content")
            return item.value
        if isinstance(item, _Global):
            return item.meaning
        return item.value if isinstance(item, _DType) else item

    return finish(value, 0)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
