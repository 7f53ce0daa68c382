"""The cost of each encoder layer by level, whichever levels it updates and in whatever order they stand."""

import pytest

from segmeter.harness.counting.count import count_model
from segmeter.harness.counting.layers import layer_costs
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import parse_model

SIZE = ImageSize((576, 704), (576, 704))
ALL, COARSE = [True] * 4, [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "strides", "updated"),
    [
        ("dino@r50", [64, 32, 16, 8], [ALL] * 6),
        ("lite-dino@r50", [64, 32, 16, 8], [COARSE, COARSE, ALL] * 3),
        ("maskdino@r50:encoder=lite-m2f", [64, 32, 16, 8], [COARSE] * 5 + [ALL]),
        (
            "maskdino@r50:encoder=pro-scale:stages=1,0,1,1",
            [64, 32, 16, 8],
            [[True, False, False, False], [True, True, True, False], ALL],
        ),
        ("maskdino@r50:encoder=pro-scale:stages=1,0,1", [32, 16, 8], [[True, False, False], [True] * 3]),
    ],
)
def test_layers_by_level(text: str, strides: list[int], updated: list[list[bool]]) -> None:
    spec = parse_model(text)
    found = layer_costs(spec, SIZE)
    assert found["strides"] == strides
    assert found["updated"] == updated
    figures = count_model(spec, SIZE, "published").figures
    parts = ("deformable_attention", "ffn", "norms")
    expected = sum(figures.of(f"encoder.{part}") for part in parts)
    assert sum(map(sum, found["layers"])) == pytest.approx(expected / 1e9, rel=1e-9)
