"""MaskFormer, PEM, YOSO and the others against the figures measured on the authors' code.

``tests/data/panoptic_systems.json`` is fvcore's count of the official code per component and operator, GMACs.
"""

import json
from typing import Any

import pytest

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting.count import count_model
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.spec import parse_model
from tests.helpers.official_counts import by_family, counted
from tests.helpers.places import DATA

ROWS: list[dict[str, Any]] = json.loads((DATA / "panoptic_systems.json").read_text())
ROWS = [row for row in ROWS if row["model"].partition("@")[0] in SYSTEMS]
GIGA = 1e9


def spec_of(row: dict[str, Any]) -> Any:
    return parse_model(row["model"], num_classes=row["num_classes"], num_queries=row["num_queries"])


def name_of(row: dict[str, Any]) -> str:
    return f"{row['model']}-{row['input_size'][0]}x{row['input_size'][1]}-{row['num_classes']}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_operator_of_every_official_run(row: dict[str, Any]) -> None:
    height, width = row["input_size"]
    # With a note, the largest einsum was added to fvcore's count in closed form.
    exact = ("postprocess",) if "postprocess_note" in row else ()
    found = counted(spec_of(row), (height, width), exact)
    for component, expected in row["components"].items():
        families = by_family(expected["by_operator"])
        # fvcore counts a pooling to one pixel, below which is a mean: it adds and does not multiply.
        pooling = families.pop("pooling", 0)
        gmacs = expected["gmacs"] - pooling
        assert sum(found[component].values()) == pytest.approx(gmacs, abs=1.5e-4), component
        for family in families.keys() | found[component].keys():
            # Each operator of fvcore's is rounded to four decimals, and a family has up to three of them.
            assert found[component].get(family, 0) == pytest.approx(families.get(family, 0), abs=1.5e-4), (
                component,
                family,
            )


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_parameters_and_what_is_not_counted(row: dict[str, Any]) -> None:
    height, width = row["input_size"]
    count = count_model(spec_of(row), ImageSize((height, width), (height, width)), "published")
    assert count.params == row["params"]
    assert count.figures.total / GIGA == pytest.approx(row["total_gmacs"], rel=1e-4)
    left_out = count.figures.not_counted
    expected = sum(part["uncounted"].get("deform_conv2d", 0) for part in row["components"].values())
    assert (left_out.get("deformable_convolution") or 0) / GIGA == pytest.approx(expected, abs=1e-4)
    expected = sum(part["uncounted"].get("baddbmm", 0) for part in row["components"].values())
    assert (left_out.get("masked_attention_scores") or 0) / GIGA == pytest.approx(expected, abs=1e-4)
    sampling = (left_out.get("deformable_sampling") or 0) / GIGA
    assert sampling == pytest.approx(row["sampling_grid_gmacs"], abs=1e-4)
