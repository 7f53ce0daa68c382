"""Write ``encoder_flags.json``: the encoders' options as the command line's flags.

>>> from segmeter.commands.options import FLAGS_PATH
>>> FLAGS_PATH.read_text() == flags()
True
"""

from segmeter.commands.options import FLAGS_PATH
from segmeter.encoders import ENCODERS
from segmeter.encoders.options import Option
from segmeter.harness.records import to_json, write_text


def flags() -> str:
    """The file's text: each option's name with its help, and whose it is unless all of them have it."""
    owners: dict[str, list[str]] = {}
    options: dict[str, Option] = {}
    for kind in ENCODERS.values():
        for option in kind.options:
            owners.setdefault(option.name, []).append(kind.title)
            options[option.name] = option
    return to_json({name: _help(option, owners[name]) for name, option in options.items()})


def _help(option: Option, owners: list[str]) -> str:
    choices = f" {_either(list(option.choices))}." if option.choices else ""
    return f"{', '.join(owners)}: {option.help[:1].lower()}{option.help[1:]}{choices}"


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


if __name__ == "__main__":
    write_text(FLAGS_PATH, flags())
