"""The systems' state dicts have the names and shapes of the authors' modules.

``tests/data/panoptic_names.json`` lists them for 19 classes, without the counters of batch norms.
"""

import json

import pytest

from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import meta_stages
from tests.helpers.places import DATA

NAMES: dict[str, dict[str, dict[str, list[int]]]] = json.loads((DATA / "panoptic_names.json").read_text())


@pytest.mark.parametrize("text", NAMES)
def test_names_and_shapes(text: str) -> None:
    modules = {stage.name: module for stage, module in meta_stages(parse_model(text, num_classes=19))}
    for stage, expected in NAMES[text].items():
        found = {
            name: list(entry.shape)
            for name, entry in modules[stage].state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        assert found == expected, stage
