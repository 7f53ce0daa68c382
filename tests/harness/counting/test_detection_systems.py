"""DINO, Lite-DINO, MaskDINO and RT-DETR against the figures measured on the authors' code.

``tests/data/detection_systems.json`` is fvcore's count of the official code per component and operator in
GMACs.
"""

import json
import re
from typing import Any

import pytest

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.counting.count import count_model
from segmeter.harness.inputs.sizes import ImageSize, parse_size
from segmeter.harness.models.spec import ModelSpec, parse_model
from tests.helpers.official_counts import by_family, counted, einsum_rounding
from tests.helpers.places import DATA, ROOT

ROWS: list[dict[str, Any]] = json.loads((DATA / "detection_systems.json").read_text())
GIGA = 1e9
# What DINO's code runs between encoder and decoder.
OURS = {"other": "selection"}


def spec_of(row: dict[str, Any]) -> ModelSpec:
    return parse_model(row["model"], num_classes=row["num_classes"], num_queries=row["num_queries"])


def name_of(row: dict[str, Any]) -> str:
    return f"{row['model']}-{row['input_size'][0]}x{row['input_size'][1]}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_operator_of_every_official_run(row: dict[str, Any]) -> None:
    height, width = row["input_size"]
    spec = spec_of(row)
    found = counted(spec, (height, width))
    if row["einsum_in_closed_form"]:
        # That run was made without the semantic map, whose product was added afterwards: not rounded.
        rounding = einsum_rounding(spec, (height, width))["postprocess"]
        found["postprocess"]["matmul"] -= rounding / GIGA
    for component, expected in row["components"].items():
        ours = found[OURS.get(component, component)]
        assert sum(ours.values()) == pytest.approx(expected["gmacs"], abs=1.5e-4), component
        families = by_family(expected["by_operator"])
        for family in families.keys() | ours.keys():
            # Each operator of fvcore's is rounded to four decimals, and a family has up to three of them.
            assert ours.get(family, 0) == pytest.approx(families.get(family, 0), abs=1.5e-4), (
                component,
                family,
            )


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_parameters_and_what_is_not_counted(row: dict[str, Any]) -> None:
    height, width = row["input_size"]
    count = count_model(spec_of(row), ImageSize((height, width), (height, width)), "published")
    assert count.params == row["params"]
    assert count.figures.total / GIGA == pytest.approx(row["total_gmacs"], rel=1e-5)
    left_out = count.figures.not_counted
    # Lite-DETR's key-aware attention samples the same map twice, as keys and as values; segmeter once.
    times = 2 if row["model"].startswith("lite-dino") and "key_aware=false" not in row["model"] else 1
    sampling = (left_out.get("deformable_sampling") or 0) / GIGA
    assert times * sampling == pytest.approx(row["sampling_grid_gmacs"], abs=2e-4)
    fused = sum(part["uncounted"].get("sdpa", 0) for part in row["components"].values())
    assert (left_out.get("fused_attention") or 0) / GIGA == pytest.approx(fused, abs=1e-4)


def layer(queries: int, tokens: int, levels: int, ffn: int) -> int:
    """MACs of one deformable layer: projections, FFN and two norms at 5 an element."""
    width = 256
    attention = tokens * width**2 + queries * width * (64 + 32) * levels + queries * width**2
    return attention + queries * width * (2 * ffn + 10)


@pytest.mark.parametrize("size", [(576, 704), (736, 1344)])
def test_closed_forms_at_other_sizes_and_class_counts(size: tuple[int, int]) -> None:
    height, width = size
    n = [(-(-height // s)) * (-(-width // s)) for s in (8, 16, 32, 64)]
    tokens, width_of = sum(n), 256
    projections = sum(
        positions * (channels * width_of * kernel + 5 * width_of)
        for positions, channels, kernel in zip(n, (512, 1024, 2048, 2048), (1, 1, 1, 9), strict=True)
    )
    spec = parse_model("dino@r50:num_queries=300", num_classes=7)
    figures = count_model(spec, ImageSize(size, size), "published").figures
    assert figures.of("encoder") == projections + 6 * layer(tokens, tokens, 4, 2048)
    box_head = 2 * width_of**2 + 4 * width_of
    assert figures.of("selection") == tokens * (width_of**2 + 5 * width_of + 7 * width_of + box_head)
    masked = count_model(parse_model("maskdino@r50"), ImageSize(size, size), "published").figures
    n4 = (height // 4) * (width // 4)
    path = n4 * (256 * width_of + 9 * width_of**2 + width_of**2 + 10 * width_of)
    assert masked.of("encoder") == figures.of("encoder") + path


@pytest.mark.parametrize(
    ("text", "size", "encoder"),
    [
        # Closed forms of the encoders that the papers put into these systems.
        ("maskdino@r50:encoder=pro-scale:stages=3,3,3", (800, 1216), 107.7969),
        ("maskdino@r50:encoder=pro-scale:stages=3,3,3", (1024, 2048), 232.3875),
        ("maskdino@r50:encoder=pro-scale:stages=3,3,3,3:recalibration=none", (800, 1216), 114.534),
        ("dino@r50:encoder=pro-scale:stages=3,3,3,3:recalibration=none", (800, 1088), 95.2082),
        ("dino@r50:levels=5", (800, 1216), 642.9895),
    ],
)
def test_closed_forms_of_hosted_encoders(text: str, size: tuple[int, int], encoder: float) -> None:
    figures = count_model(parse_model(text), ImageSize(size, size), "published").figures
    # The resizing into the stride-4 path is booked with post-processing, as in the papers.
    assert figures.of("encoder") / GIGA == pytest.approx(encoder, abs=1e-4)


def test_the_documented_costs_are_the_counted_ones() -> None:
    lines = (ROOT / "docs" / "detectors.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| `\S+@", line)]
    assert len(rows) == 14
    for text, size, encoder, total, params in rows:
        text, padded = text.strip("`"), parse_size(size)
        classes = SYSTEMS[text.partition("@")[0]].default_classes or 133
        count = count_model(parse_model(text, num_classes=classes), ImageSize(padded, padded), "published")
        assert f"{count.figures.of('encoder') / GIGA:.2f}" == encoder, text
        assert f"{count.figures.total / GIGA:.2f}" == total, text
        assert f"{count.params / 1e6:.2f} M" == params, text
