"""Everything a user can name: encoders, options, backbones, data sets, conventions, presets."""

from typing import Any

from segmeter.encoders.backbones.table import BACKBONES
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting import CONVENTIONS
from segmeter.harness.inputs import DATASETS
from segmeter.harness.models import all_presets, library_names, own_encoders
from segmeter.words import nearest


def catalogue() -> dict[str, Any]:
    """Plain data for ``segmeter models``."""
    return {
        "encoders": {
            name: {
                "title": kind.title,
                "summary": kind.summary,
                "source": kind.source,
                "options": kind.settings.defaults,
            }
            for name, kind in SYSTEMS.items()
        },
        "choices": {
            f"{option.name}={choice}": text
            for system in SYSTEMS.values()
            for option in (*system.options, *(each for more in system.further.values() for each in more))
            for choice, text in option.choices.items()
        },
        "entry_points": own_encoders(),
        "backbones": {name: kind.summary for name, kind in BACKBONES.items()},
        "datasets": dict(DATASETS),
        "conventions": dict(CONVENTIONS),
        "presets": {
            name: {"model": preset.model, "dataset": preset.dataset, "source": preset.source}
            for name, preset in all_presets().items()
        },
    }


def found_models(word: str) -> dict[str, str]:
    """Name -> what it is, of segmeter's systems and everything in installed libraries that holds a word.

    Raises:
        ValueError: nothing does; the nearest name is offered.
    """
    names = {name: f"segmeter: {kind.summary}" for name, kind in SYSTEMS.items()} | library_names()
    asked = _plain(word)
    found = {name: text for name, text in names.items() if asked and asked in _plain(name)}
    if not found:
        bare = {_plain(name.partition(":")[2] or name): name for name in names}
        close = nearest(asked, bare)
        raise ValueError(f"no model has {word!r} in its name{close}")
    return found


def _plain(name: str) -> str:
    """A name without case and signs: RF-DETR, rf_detr and RfDetr are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
