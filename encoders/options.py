"""Options of encoders and systems: name, default, check, how a value is read and what a title says of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segmeter.encoders.rules import ANYTHING, Check, frozen, write_value
from segmeter.model_text import COMPONENTS
from segmeter.words import nearest


def read_value(text: str) -> Any:
    """A value from its text: a number, true, false, none, a word, or several with commas.

    >>> read_value("16"), read_value("false"), read_value("2,6"), read_value("none")
    (16, False, (2, 6), None)
    """
    if "," in text:
        return tuple(read_value(part.strip()) for part in text.strip("()[]").split(",") if part.strip())
    if text.lower() in ("none", "off"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def read_stages(text: str) -> tuple[int, ...]:
    """Read "3,3,3".

    Raises:
        ValueError: not whole numbers joined by commas.

    >>> read_stages("1,1,3")
    (1, 1, 3)
    """
    try:
        return tuple(int(part) for part in text.strip("()").split(","))
    except ValueError:
        raise ValueError(f"stages must be whole numbers such as 3,3,3; got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        name: as the command line and a model's text have it, with underscores.
        default: its value where none is given.
        check: raises ValueError in one line unless a value is allowed; gives it in its final type.
        help: one line.
        choices: words that it takes -> what they mean; empty where it takes numbers.
        read: a value from its text.
        title: what a model's title says of a value; by default its name and the value.
        in_title: whether titles name it even where it is the default.
    """

    name: str
    default: Any
    check: Check = ANYTHING
    help: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], Any] = read_value
    title: Callable[[Any], str] | None = None
    in_title: bool = False

    def titled(self, value: Any) -> str:
        """Words of a title."""
        return self.title(value) if self.title else f"{self.name.replace('_', ' ')} {write_value(value)}"

    def defaulting(self, value: Any) -> "Option":
        """The same with another default."""
        return replace(self, default=value)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one encoder or system.

    Attributes:
        owner: whose they are, for error lines.
        known: in the order in which they are listed.
        takes_any: whether other names are taken as they are.
        takes_components: whether ``components.PATTERN=NAME`` is taken.
        together: checks that need several options' values.
        chooser: the option whose value decides which further options there are; "" for none.
        further: its value -> the options that come with it.
    """

    owner: str
    known: tuple[Option, ...] = ()
    takes_any: bool = False
    takes_components: bool = False
    together: Callable[[Mapping[str, Any]], None] = lambda values: None
    chooser: str = ""
    further: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """Name -> default, where nothing is chosen."""
        return self.defaults_with({})

    def defaults_with(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Name -> default, of the options that there are with these values."""
        return {option.name: option.default for option in self.present(given)}

    def present(self, given: Mapping[str, Any]) -> tuple[Option, ...]:
        """The options that there are with these values."""
        chooser = next((option for option in self.known if option.name == self.chooser), None)
        if chooser is None:
            return self.known
        return (*self.known, *self.further.get(given.get(self.chooser, chooser.default), ()))

    @property
    def names(self) -> list[str]:
        """Of all options, whatever is chosen; each once."""
        every = (*self.known, *(each for options in self.further.values() for each in options))
        return list(dict.fromkeys(option.name for option in every))

    def find(self, name: str, given: Mapping[str, Any] | None = None) -> Option | None:
        """The option of this name, of any choice or of these values alone."""
        every = (*self.known, *(each for options in self.further.values() for each in options))
        options = every if given is None else self.present(given)
        return next((option for option in options if option.name == name), None)

    def read(self, name: str, text: str) -> Any:
        """A value from its text; one of an unknown option as it looks."""
        if name.startswith(COMPONENTS):
            return text
        option = self.find(name)
        return option.read(text) if option else read_value(text)

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given values in their final types.

        Raises:
            ValueError: an unknown option or a value that is not allowed, in one line.
        """
        checked = {}
        # The chooser first: a wrong choice is told as such, not by the options that do not come with it.
        for name, value in sorted(given.items(), key=lambda item: item[0] != self.chooser):
            option = self.find(name, given)
            if option is not None:
                checked[name] = frozen(name, option.check(name, value))
            elif self.takes_any or (self.takes_components and name.startswith(COMPONENTS)):
                checked[name] = frozen(name, value)
            elif not self.known:
                raise ValueError(f"{self.owner} has no options, got {name!r}")
            else:
                raise ValueError(self._no_option(name, given))
        self.together({**self.defaults_with(checked), **checked})
        return checked

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given values in their final types, and the defaults of all others.

        Raises:
            ValueError: as :meth:`check`.
        """
        checked = self.check(given)
        return {**self.defaults_with(checked), **checked}

    def _no_option(self, name: str, given: Mapping[str, Any]) -> str:
        chosen = self.defaults_with(given)
        with_it = [value for value, options in self.further.items() if name in [o.name for o in options]]
        if not with_it:
            return f"{self.owner} has no option {name!r}{nearest(name, chosen)}"
        is_now = given.get(self.chooser, chosen[self.chooser])
        return (
            f"{self.owner} has no option {name!r} with {self.chooser}={write_value(is_now)}; "
            f"it comes with {self.chooser}={' or '.join(with_it)}"
        )

    def title(self, values: Mapping[str, Any]) -> list[str]:
        """Words of a title for the values that are not their defaults."""
        return [
            option.titled(values[option.name])
            for option in self.present(values)
            if option.name in values and (option.in_title or values[option.name] != option.default)
        ]
