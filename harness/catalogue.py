"""Everything a user can name: encoders, options, backbones, data sets, conventions, presets."""

from typing import Any

from segmeter.encoders.backbones.table import BACKBONES
from segmeter.encoders.parts.pixel_embedding import PIXEL_EMBEDDINGS
from segmeter.encoders.parts.recalibration import RECALIBRATIONS
from segmeter.encoders.table import ENCODERS, encoder_options
from segmeter.harness.counting.conventions import CONVENTIONS
from segmeter.harness.inputs.sizes import DATASETS
from segmeter.harness.models.own import own_encoders
from segmeter.harness.published.cells import presets


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
