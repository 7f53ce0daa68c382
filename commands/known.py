"""What the command line knows before torch is loaded, so that a typo is answered at once.

``known.json`` is made from the encoders and tables (``python -m segmeter.commands.make_known``); a test says
when that is due. What it does not know (an own model, an installed package's encoder, one that was added
since) is looked up later.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from segmeter.encoders.options import Option, Options, read_stages, read_value
from segmeter.encoders.rules import frozen, rule_from
from segmeter.words import nearest

PATH = Path(__file__).with_name("known.json")
READ: dict[str, Callable[[str], Any]] = {"value": read_value, "stages": read_stages, "word": str}


@cache
def known() -> dict[str, Any]:
    """The file's content."""
    content: dict[str, Any] = json.loads(PATH.read_text())
    return content


def settings_of(name: str) -> Options:
    """The options of a system by its name, with the checks of their values."""
    system = known()["systems"][name]
    return Options(
        owner=name,
        known=_options(system["options"]),
        chooser=system["chooser"],
        further={value: _options(options) for value, options in system["further"].items()},
    )


def reducer_settings(name: str) -> Options:
    """The options of a reducer of tokens by its name."""
    return Options(owner=name, known=_options(known()["reducers"][name]["options"]))


def _options(described: Iterable[dict[str, Any]]) -> tuple[Option, ...]:
    return tuple(
        Option(
            name=each["name"],
            default=frozen(each["name"], each["default"]),
            check=rule_from(each["check"]),
            read=READ[each["read"]],
        )
        for each in described
    )


def check_word(option: str, value: str, choices: list[str]) -> None:
    """Refuse a word that is none of an option's choices.

    Raises:
        ValueError: with the nearest.
    """
    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{nearest(value, choices)}")
