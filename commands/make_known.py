"""Write ``known.json``: what the command line knows before torch is loaded; run after adding a system.

>>> from segmeter.commands.known import PATH
>>> PATH.read_text() == known()
True
"""

from collections.abc import Iterable
from typing import Any

from segmeter.commands.known import PATH
from segmeter.encoders import ENCODERS
from segmeter.encoders.backbones.table import BACKBONES
from segmeter.encoders.backbones.vit import VITS
from segmeter.encoders.chain import System
from segmeter.encoders.options import Option, read_stages, read_value
from segmeter.encoders.reduction.table import REDUCERS
from segmeter.encoders.rules import NotAllZero, rule_data
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting import CONVENTIONS
from segmeter.harness.models import REDUCTION_PRESETS, all_presets, model_from_parts
from segmeter.harness.op import ARCHITECTURES
from segmeter.harness.profiling import DTYPES
from segmeter.harness.records import to_json, write_text
from segmeter.harness.tradeoff import published_points

READ = {read_value: "value", read_stages: "stages", str: "word"}


def known() -> str:
    """The file's text: options of systems and reducers, backbones, presets, conventions, dtypes."""
    content = {
        "flags": _flags(),
        "systems": {name: _system(name, system) for name, system in SYSTEMS.items()},
        "not_all_zero": {
            kind.name: kind.together.names
            for kind in ENCODERS.values()
            if isinstance(kind.together, NotAllZero)
        },
        "reducers": {
            name: {
                "options": _options(kind.options),
                "published": {backbone: kind.published(backbone) for backbone in VITS},
            }
            for name, kind in REDUCERS.items()
        },
        "vits": {name: {"title": size.title, "depth": size.depth} for name, size in VITS.items()},
        "backbones": list(BACKBONES),
        "presets": {**{name: preset.model for name, preset in all_presets().items()}, **REDUCTION_PRESETS},
        "conventions": list(CONVENTIONS),
        "dtypes": list(DTYPES),
        "drawn": {
            "dataset": sorted({point.dataset for point in published_points()}),
            "paper": sorted({point.paper for point in published_points()}),
        },
        "architectures": list(ARCHITECTURES),
    }
    return to_json(content)


def _system(name: str, system: System) -> dict[str, Any]:
    return {
        "options": _options(system.options),
        "chooser": system.chooser,
        "further": {value: _options(options) for value, options in system.further.items()},
        "backbones": system.backbones,
        "default_backbone": system.default_backbone,
        "title": system.title,
        "stages": _stages(name),
        "size_divisor": system.size_divisor,
        "has_queries": system.default_queries(system.default_backbone) > 0,
    }


def _stages(name: str) -> list[str]:
    """Names of the stages, with the usual options."""
    return [stage.name for stage in model_from_parts(name, None, None, 133, None, {}).stages]


def _options(options: Iterable[Option]) -> list[dict[str, Any]]:
    return [
        {
            "name": option.name,
            "default": option.default,
            "check": rule_data(option.check),
            "read": READ[option.read],
        }
        for option in options
    ]


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
