"""What the command line knows before torch is loaded, so that a typo is answered at once.

``known.json`` is made from the encoders and tables (``python -m segmeter.commands.make_known``); a test says
when that is due. What it does not know (an own model, an installed package's encoder, one that was added
since) is looked up later.
"""

import json
import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from segmeter.model_text import COMPONENTS, ModelText, is_source
from segmeter.words import nearest

PATH = Path(__file__).with_name("known.json")
ENCODERS = Path(__file__).resolve().parents[1] / "encoders"
OWN_GROUP = "segmeter.encoders"
# Options that every system with heads takes.
HEADS = ("num_classes", "num_queries")


@cache
def known() -> dict[str, Any]:
    """The file's content."""
    content: dict[str, Any] = json.loads(PATH.read_text())
    return content


def check_model(text: str | None) -> None:
    """Refuse a model whose name or options are plainly none.

    Raises:
        ValueError: an unknown preset, system or option, with the nearest.
    """
    systems = known()["systems"]
    if not text or text.strip() in known()["presets"]:
        return
    if re.fullmatch(r"table\d+(\.\d+)?", text.strip()):
        if text.strip() not in known()["presets"]:
            raise ValueError(f"unknown preset {text!r}{nearest(text, known()['presets'])}")
        return
    written = ModelText.parse(text, systems)
    name = written.name
    if name not in systems:
        # Code, a library's model (``hf:NAME``) or a file: whoever reads those answers.
        if not name or is_source(name) or ":" in text.partition("@")[0] or name.endswith(".toml"):
            return
        if name not in {point.name for point in entry_points(group=OWN_GROUP)} and not _may_be_new(name):
            raise ValueError(f"unknown encoder {name!r}{nearest(name, systems)}")
        return
    if any(is_source(value) for _, value in written.options):
        # A part of the user's own has options of its own.
        return
    for option, _ in written.options:
        if option in systems[name] or option in HEADS or option.startswith(COMPONENTS):
            continue
        if all(option not in options for options in systems.values()) and _may_be_new(option):
            return
        if not systems[name]:
            raise ValueError(f"{name} has no options, got {option!r}")
        raise ValueError(f"{name} has no option {option!r}{nearest(option, systems[name])}")


def _may_be_new(word: str) -> bool:
    """Whether an encoder's source has the word in quotes: an encoder or option that the file lacks as yet."""
    return any(f'"{word}"' in path.read_text(encoding="utf-8") for path in ENCODERS.rglob("*.py"))


def check_word(option: str, value: str, choices: list[str]) -> None:
    """Refuse a word that is none of an option's choices.

    Raises:
        ValueError: with the nearest.
    """
    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{nearest(value, choices)}")
