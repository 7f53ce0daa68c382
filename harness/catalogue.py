"""Everything a user can name: encoders, options, backbones, data sets, conventions, presets."""

from typing import Any

from encoders.backbones import BACKBONES
from encoders.build import ENCODERS, encoder_options
from encoders.pixel_embedding import PIXEL_EMBEDDINGS
from encoders.recalibration import RECALIBRATIONS
from harness.conventions import CONVENTIONS
from harness.own_models import own_encoders
from harness.published import presets
from harness.sizes import DATASETS


def catalogue() -> dict[str, Any]:
    """Plain data for ``segmeter models``."""
    return {
        "encoders": {
            name: {
                "title": kind.title,
                "summary": kind.summary,
                "source": kind.source,
                "options": encoder_options(name),
            }
            for name, kind in ENCODERS.items()
        },
        "choices": {
            **{f"pixel_embedding={name}": text for name, text in PIXEL_EMBEDDINGS.items()},
            **{f"recalibration={name}": text for name, text in RECALIBRATIONS.items()},
            "recalibration=none": "no recalibration",
        },
        "entry_points": own_encoders(),
        "backbones": {name: kind.summary for name, kind in BACKBONES.items()},
        "datasets": dict(DATASETS),
        "conventions": dict(CONVENTIONS),
        "presets": {
            name: {"model": preset.model, "dataset": preset.dataset, "source": preset.source}
            for name, preset in presets().items()
        },
    }
