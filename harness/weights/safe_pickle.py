"""A pickle read as data: nothing in the file is ever imported or called.

A pickle is a program. This reader interprets its opcodes itself: a global is only a name here, looked up in a
table of this package's own functions that make inert values (:mod:`.pickle_calls` for numpy's arrays,
:mod:`.torch_file` for torch's tensors). Every other global is refused by name.

``pickle.Unpickler`` with a ``find_class`` of such functions would be shorter and runs no code either, but it
cannot be held to bounds: its memo grows to any index that a file names, it makes a value for every byte, and
it hashes keys that take for ever to hash. Here every value is paid for as it is made.
"""

import pickletools
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

# A training checkpoint of a thousand weights, with its optimizer, has a tenth of these.
MAX_VALUES = 2_000_000
MAX_STEPS = 6_000_000
MAX_DEPTH = 100
MAX_INTEGER_BYTES = 64
MAX_NAME = 200
# An empty set takes as much memory as three other small values.
SET_PRICE = 4


class UnsafePickleError(ValueError):
    """The file holds more than plain containers and arrays of numbers; ``offender`` names it."""

    def __init__(self, offender: str, position: int) -> None:
        # A name is bytes from the file: line breaks in it must not break the message.
        self.offender = offender[:MAX_NAME].encode("unicode_escape").decode("ascii")
        super().__init__(
            f"refused: the pickle asks for {self.offender} (byte {position}); "
            "only plain containers and arrays of numbers are read, and nothing was run"
        )


class StandIn:
    """A value that is not complete until the whole pickle is read."""

    def finish(self) -> Any:
        """The value that the reader's caller gets."""
        raise ValueError(f"the pickle holds a bare {type(self).__name__}")


@dataclass(eq=False)
class Global(StandIn):
    """A name in the file that this reader knows, and what stands in for it when the file calls it."""

    name: str
    call: "Call | None"

    def finish(self) -> str:
        """A name that is called nowhere is told as text."""
        return self.name


Call = Callable[["Machine", tuple[Any, ...]], Any]
# (module, name) as written in the file -> what a call makes; None for a name that is only passed on.
Table = Mapping[tuple[str, str], Call | None]


@dataclass
class Machine:
    """The stack machine that a pickle is a program for, with what it may still spend.

    Attributes:
        known: the globals that the file may name.
        room: bytes that may yet be made out of other values, such as text written as bytes.
        persistent: makes a value out of what the file calls a persistent id; None where there are none.
        build: sets the state of a value that a known global made; raises ValueError where there is none.
        values: how many values may yet be made.
    """

    known: Table
    room: int
    persistent: Callable[[Any], Any] | None = None
    build: Callable[["Machine", Any, Any], None] | None = None
    values: int = MAX_VALUES
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def spend(self, values: int) -> None:
        """Pay for values before they are made.

        Raises:
            ValueError: the file makes more than :data:`MAX_VALUES` of them.
        """
        self.values -= values
        if self.values < 0:
            raise ValueError(f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH}")

    def take(self, size: int) -> None:
        """Pay for bytes before they are made.

        Raises:
            ValueError: more than the file holds.
        """
        self.room -= size
        if self.room < 0:
            raise ValueError("more bytes than the file holds")

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


class _Bounded:
    """A file that gives no more than it has left: a length in a pickle may say anything."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(content)
        return content

    def readline(self) -> bytes:
        content = self.file.readline(self.left)
        self.left -= len(content)
        return content

    def tell(self) -> int:
        return self.file.tell()


def run(file: BinaryIO, size: int, machine: Machine) -> Any:
    """Read one pickle of at most ``size`` bytes; the file is then at its end.

    Returns:
        Dicts, lists, tuples, sets, strings, bytes, numbers, and what the known globals made; nested as
        stored.

    Raises:
        UnsafePickleError: the file asks for anything else; its name is in the message.
        ValueError: the file is truncated, malformed, or large or nested beyond reason.
    """
    try:
        for step, (opcode, argument, position) in enumerate(pickletools.genops(_Bounded(file, size))):  # type: ignore[arg-type]
            if step >= MAX_STEPS:
                raise ValueError(f"more than {MAX_STEPS:,} steps")
            if opcode.name == "STOP":
                if len(machine.stack) != 1 or machine.marks:
                    raise ValueError("the pickle ends with a stack that is not one value")
                return finish(machine.stack[0])
            _step(machine, opcode.name, argument, position or 0)
    except UnsafePickleError:
        raise
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None
    raise ValueError("the pickle has no end")


def finish(value: Any) -> Any:
    """The value with finished parts in place of stand-ins; bounded in size and depth.

    Raises:
        ValueError: written out it has more than :data:`MAX_VALUES` values, or is nested beyond reason.
    """
    remaining = MAX_VALUES

    def plain(item: Any, depth: int) -> Any:
        nonlocal remaining
        remaining -= 1
        if remaining < 0 or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH}")
        if isinstance(item, dict):
            return {key: plain(value, depth + 1) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return type(item)(plain(inner, depth + 1) for inner in item)
        if isinstance(item, set | frozenset):
            remaining -= len(item)
            return type(item)(item)
        return item.finish() if isinstance(item, StandIn) else item

    return plain(value, 0)


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    "BYTEARRAY8",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}


def _step(machine: Machine, name: str, argument: Any, position: int) -> None:
    """One opcode; its name is pickletools' own."""
    stack, memo = machine.stack, machine.memo
    if name in _LITERALS:
        machine.spend(1)
        stack.append(argument)
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name == "MARK":
        machine.marks.append(len(stack))
    elif name in _TUPLES:
        machine.spend(1)
        items = stack[-_TUPLES[name] :]
        del stack[-_TUPLES[name] :]
        stack.append(tuple(items))
    elif name in _EMPTY:
        machine.spend(1)
        stack.append(_EMPTY[name]())
    elif name in ("LONG", "LONG1", "LONG4"):
        if argument.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {argument.bit_length()} bits")
        machine.spend(1)
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("LIST", "TUPLE", "FROZENSET", "EMPTY_SET", "DICT"):
        stack.append(_container(machine, name))
    elif name in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
        _add(machine, name)
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        module, attribute = argument.split(" ", 1) if name == "GLOBAL" else _last_two(stack)
        stack.append(_known(machine, module, attribute, position))
    elif name == "REDUCE":
        called, arguments = _last_two(stack)
        stack.append(_reduce(machine, called, arguments))
    elif name == "BUILD":
        state = stack.pop()
        _build(machine, stack[-1], state)
    elif name in ("PERSID", "BINPERSID") and machine.persistent is not None:
        machine.spend(1)
        stack.append(machine.persistent(argument if name == "PERSID" else stack.pop()))
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        machine.since_mark()
    elif name == "DUP":
        stack.append(stack[-1])
    elif name not in ("PROTO", "FRAME"):
        raise UnsafePickleError(f"opcode {name}{_named(argument, stack)}", position)


def _last_two(stack: list[Any]) -> tuple[Any, Any]:
    second, first = stack.pop(), stack.pop()
    return first, second


def _container(machine: Machine, name: str) -> Any:
    if name == "EMPTY_SET":
        machine.spend(SET_PRICE)
        return set()
    items = machine.since_mark()
    # The items are paid for already: each is a value or a place on the stack.
    machine.spend(1 if name != "FROZENSET" else SET_PRICE)
    if name == "LIST":
        return items
    if name == "TUPLE":
        return tuple(items)
    return frozenset(keys(items)) if name == "FROZENSET" else as_dict(items[::2], items[1::2])


def _add(machine: Machine, name: str) -> None:
    stack = machine.stack
    if name in ("APPEND", "SETITEM"):
        items = stack[-1:] if name == "APPEND" else stack[-2:]
        del stack[-len(items) :]
    else:
        items = machine.since_mark()
    kind = {"APPEND": list, "APPENDS": list, "ADDITEMS": set}.get(name, dict)
    target = stack[-1]
    if not isinstance(target, kind):
        raise ValueError(f"expected a {kind.__name__} to add to, found a {type(target).__name__}")
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(keys(items))
    else:
        target.update(as_dict(items[::2], items[1::2]))


def keys(items: list[Any]) -> list[Any]:
    """Keys of a dict or members of a set, checked: some values take for ever to hash.

    A tuple in a tuple in a tuple does; so does a set of large integers that all have one hash.
    """
    for item in items:
        if not isinstance(item, str | bytes | int | float | None):
            raise ValueError(f"a key that is a {type(item).__name__}")
        if isinstance(item, int) and item.bit_length() > 64:
            raise ValueError(f"a key of {item.bit_length()} bits")
    return items


def as_dict(names: list[Any], values: list[Any]) -> dict[Any, Any]:
    """Checked keys with their values; two lists of one length."""
    return dict(zip(keys(names), values, strict=True))


def _named(argument: Any, stack: list[Any]) -> str:
    if isinstance(argument, str):
        return " " + argument.replace(" ", ".")
    known = [item.name for item in stack if isinstance(item, Global)]
    return f" on {known[-1]}" if known else ""


def _known(machine: Machine, module: Any, attribute: Any, position: int) -> Global:
    # Written out, a list in a list in a list takes forever too: only a bounded part of it is.
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise ValueError(f"a global named {reprlib.repr((module, attribute))}")
    if (module, attribute) not in machine.known:
        raise UnsafePickleError(f"{module}.{attribute}", position)
    machine.spend(1)
    return Global(attribute, machine.known[module, attribute])


def _reduce(machine: Machine, called: Any, arguments: Any) -> Any:
    if not isinstance(called, Global) or not isinstance(arguments, tuple):
        raise ValueError(f"the pickle calls a {type(called).__name__}")
    if called.call is None:
        raise ValueError(f"the pickle calls {called.name}")
    machine.spend(1)
    return called.call(machine, arguments)


def _build(machine: Machine, target: Any, state: Any) -> None:
    if isinstance(target, dict) and not isinstance(target, StandIn):
        # An OrderedDict's attributes, such as the versions that torch writes beside a state dict.
        return
    if machine.build is None:
        raise ValueError(f"the pickle sets the state of a {type(target).__name__}")
    machine.build(machine, target, state)
