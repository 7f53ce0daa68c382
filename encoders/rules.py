"""What an option's value may be: checks as plain data, so that a file can hold them and no model is loaded.

A rule is called with an option's name and a value: it gives the value in its final type or raises ValueError
in one line. :func:`rule_data` and :func:`rule_from` write one as JSON and read it back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from segmeter.words import nearest

# Name and value -> the value in its final type; raises ValueError in one line.
Check = Callable[[str, Any], Any]
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def write_value(value: Any) -> str:
    """A value as :func:`encoders.options.read_value` reads it.

    >>> write_value((3, 3, 3)), write_value(None)
    ('3,3,3', 'none')
    """
    if isinstance(value, tuple):
        return ",".join(write_value(part) for part in value)
    return "none" if value is None else str(value)


def is_integer(value: Any) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def frozen(name: str, value: Any) -> Any:
    """The value with tuples in place of lists, so that it can be compared and kept.

    Raises:
        ValueError: a table.
    """
    if isinstance(value, dict):
        raise ValueError(f"{name} must be a number, a word or a list of them, got the table {value!r}")
    return tuple(frozen(name, each) for each in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Anything:
    """Any number, word or list of them."""

    def __call__(self, name: str, value: Any) -> Any:
        """The value in its final type; ValueError where it is not allowed."""
        return frozen(name, value)


ANYTHING = Anything()


@dataclass(frozen=True)
class WholeNumber:
    """A whole number from ``minimum`` to ``maximum``, a multiple of ``multiple``."""

    minimum: int
    maximum: int
    multiple: int = 1

    def __call__(self, name: str, value: Any) -> int:
        """The value in its final type; ValueError where it is not allowed."""
        if not is_integer(value) or not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"{name} must be a whole number from {self.minimum} to {self.maximum}, got {value!r}"
            )
        if value % self.multiple:
            raise ValueError(f"{name} must be a multiple of {self.multiple}, got {value}")
        return int(value)


@dataclass(frozen=True)
class WholeNumbers:
    """One or several whole numbers, as a tuple; ``count`` of them, where it is not 0.

    ``what`` names them in the error line.
    """

    minimum: int
    maximum: int
    what: str = ""
    count: int = 0

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        """The value in its final type; ValueError where it is not allowed."""
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        right = values and all(is_integer(each) and self.minimum <= each <= self.maximum for each in values)
        if not right or len(values) != (self.count or len(values)):
            asked = self.what or f"whole numbers from {self.minimum} to {self.maximum}, joined by commas"
            raise ValueError(f"{name} must be {asked}, got {write_value(value)!r}")
        return tuple(int(each) for each in values)


@dataclass(frozen=True)
class Rising:
    """Whole numbers, each above the one before it."""

    minimum: int
    maximum: int

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        """The value in its final type; ValueError where it is not allowed."""
        values = WholeNumbers(self.minimum, self.maximum)(name, value)
        if list(values) != sorted(set(values)):
            raise ValueError(f"{name} must rise, got {write_value(values)}")
        return values


@dataclass(frozen=True)
class Window:
    """The sides of a window of two patches at least."""

    maximum: int

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        """The value in its final type; ValueError where it is not allowed."""
        sides = WholeNumbers(1, self.maximum, "two whole numbers such as 2,2", 2)(name, value)
        if sides[0] * sides[1] < 2:
            raise ValueError(f"{name} must hold two patches at least, got {write_value(sides)}")
        return sides


@dataclass(frozen=True)
class SomeOf:
    """Some of these numbers, each once; 0 stands for none of them."""

    choices: tuple[int, ...]

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        """The value in its final type; ValueError where it is not allowed."""
        if value in (0, ()):
            return ()
        some = WholeNumbers(min(self.choices), max(self.choices))(name, value)
        if not set(some) <= set(self.choices) or len(set(some)) < len(some):
            raise ValueError(f"{name} must be some of {', '.join(map(str, self.choices))}, got {value!r}")
        return some


@dataclass(frozen=True)
class NoneOr:
    """``none``, or what another rule takes; with ``zero``, 0 for an empty list too."""

    rule: Check
    zero: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        """The value in its final type; ValueError where it is not allowed."""
        if self.zero:
            return () if value in (0, ()) else self.rule(name, value)
        return None if value is None else self.rule(name, value)


@dataclass(frozen=True)
class Stages:
    """Layers of three stages, or one number for each level of a host that has more; not all of them 0."""

    most_stages: int
    most_layers: int

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        """The value in its final type; ValueError where it is not allowed."""
        allowed = range(3, self.most_stages + 1)
        count = " or ".join(_NUMBERS[number] for number in allowed)
        asked = f"{name} must be {count} whole numbers p1,p2,p3{',...' if self.most_stages > 3 else ''}"
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ValueError(f"{asked}, got {value!r}")
        stages = tuple(value)
        right = all(is_integer(layers) and 0 <= layers <= self.most_layers for layers in stages)
        if len(stages) not in allowed or not right:
            raise ValueError(f"{asked} from 0 to {self.most_layers}, got {value!r}")
        if not any(stages):
            raise ValueError(f"{name} must not all be 0: the encoder would have no layer")
        return stages


@dataclass(frozen=True)
class Number:
    """A finite number from ``minimum`` to ``maximum``."""

    minimum: float
    maximum: float

    def __call__(self, name: str, value: Any) -> float:
        """The value in its final type; ValueError where it is not allowed."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"{name} must be a number from {self.minimum:g} to {self.maximum:g}, got {value!r}"
            )
        return float(value)


@dataclass(frozen=True)
class Finite:
    """A number below ``most`` in size."""

    most: float

    def __call__(self, name: str, value: Any) -> float:
        """The value in its final type; ValueError where it is not allowed."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < self.most:
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        return float(value)


@dataclass(frozen=True)
class OneOf:
    """One of these words."""

    choices: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> str:
        """The value in its final type; ValueError where it is not allowed."""
        if value not in self.choices:
            raise ValueError(f"unknown {name} {value!r}{nearest(str(value), self.choices)}")
        return str(value)


@dataclass(frozen=True)
class LayersOr:
    """A number of layers from ``first`` to ``last``, or a word."""

    first: int
    last: int
    word: str

    def __call__(self, name: str, value: Any) -> int | str:
        """The value in its final type; ValueError where it is not allowed."""
        if value == self.word or (is_integer(value) and self.first <= value <= self.last):
            return value
        asked = f"a number of layers from {self.first} to {self.last}, or {self.word}"
        raise ValueError(f"{name} must be {asked}, got {value!r}")


@dataclass(frozen=True)
class YesOrNo:
    """True or false."""

    def __call__(self, name: str, value: Any) -> bool:
        """The value in its final type; ValueError where it is not allowed."""
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return value


@dataclass(frozen=True)
class NotAllZero:
    """Options of which one at least is not 0; called with all values by name."""

    names: tuple[str, ...]

    def __call__(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError where all of them are 0."""
        if not any(values[name] for name in self.names):
            raise ValueError(f"{' and '.join(self.names)} must not both be 0")


RULES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Anything,
        WholeNumber,
        WholeNumbers,
        Rising,
        Window,
        SomeOf,
        NoneOr,
        Stages,
        Number,
        Finite,
        OneOf,
        LayersOr,
        YesOrNo,
    )
}


def rule_data(rule: Any) -> list[Any] | None:
    """A rule as JSON has it, name and arguments; None for a check that is none of the rules.

    >>> rule_data(NoneOr(WholeNumber(0, 9)))
    ['NoneOr', ['WholeNumber', 0, 9, 1], False]
    """
    if RULES.get(type(rule).__name__) is not type(rule):
        return None
    arguments = [getattr(rule, field.name) for field in fields(rule)]
    return [type(rule).__name__, *(rule_data(each) if callable(each) else each for each in arguments)]


def rule_from(data: Any) -> Check:
    """The rule that :func:`rule_data` wrote.

    >>> rule_from(["OneOf", ["conv", "lpe"]])("path", "lpe")
    'lpe'
    """
    if data is None:
        return ANYTHING
    name, *arguments = data
    return RULES[name](*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return rule_from(value) if value and value[0] in RULES else tuple(value)
