"""Everything a user can name: encoders, options, backbones, data sets, conventions, presets."""

from typing import Any

from segmeter.encoders.backbones.table import BACKBONES
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting import CONVENTIONS
from segmeter.harness.inputs import DATASETS
from segmeter.harness.models import all_presets, own_encoders


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
