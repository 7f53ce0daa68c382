"""Write ``known.json``: what the command line knows before torch is loaded; run after adding a system.

>>> from segmeter.commands.known import PATH
>>> PATH.read_text() == known()
True
"""

from segmeter.commands.known import PATH
from segmeter.encoders import ENCODERS
from segmeter.encoders.backbones.table import BACKBONES
from segmeter.encoders.options import Option
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting import CONVENTIONS
from segmeter.harness.models import REDUCTION_PRESETS, all_presets
from segmeter.harness.profiling import DTYPES
from segmeter.harness.records import to_json, write_text


def known() -> str:
    """The file's text: flags, systems with their options, backbones, presets, conventions, dtypes."""
    content = {
        "flags": _flags(),
        "systems": {name: system.settings.names for name, system in SYSTEMS.items()},
        "backbones": list(BACKBONES),
        "presets": [*all_presets(), *REDUCTION_PRESETS],
        "conventions": list(CONVENTIONS),
        "dtypes": list(DTYPES),
    }
    return to_json(content)


def _flags() -> dict[str, str]:
    """Each option of the four encoders with its help, and whose it is."""
    owners: dict[str, list[str]] = {}
    options: dict[str, Option] = {}
    for kind in ENCODERS.values():
        for option in kind.options:
            owners.setdefault(option.name, []).append(kind.title)
            options[option.name] = option
    return {name: _help(option, owners[name]) for name, option in options.items()}


def _help(option: Option, owners: list[str]) -> str:
    choices = f" {_either(list(option.choices))}." if option.choices else ""
    return f"{', '.join(owners)}: {option.help[:1].lower()}{option.help[1:]}{choices}"


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


if __name__ == "__main__":
    write_text(PATH, known())
