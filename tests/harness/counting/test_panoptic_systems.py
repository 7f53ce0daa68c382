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


def of(text: str, size: tuple[int, int], part: str, **heads: int) -> float:
    figures = count_model(parse_model(text, **heads), ImageSize(size, size), "published").figures
    return figures.of(part) / GIGA if part != "total" else figures.total / GIGA


@pytest.mark.parametrize("size", [(608, 992), (1280, 704)])
def test_encoders_at_other_sizes_follow_from_their_structure(size: tuple[int, int]) -> None:
    n4, n8, n16, n32 = (size[0] // s * (size[1] // s) for s in (4, 8, 16, 32))
    c = 256
    fpn = sum(n * (width * c + 9 * c**2 + 10 * c) for n, width in ((n4, 256), (n8, 512), (n16, 1024)))
    layer = 4 * n32 * c**2 + 2 * n32**2 * c + 4096 * n32 * c + 10 * n32 * c
    maskformer = fpn + n32 * 2048 * c + 6 * layer + n32 * (9 * c**2 + 5 * c) + n4 * 9 * c**2
    assert of("maskformer@r50", size, "encoder") == pytest.approx(maskformer / GIGA, abs=1e-6)
    d = 128
    levels = ((n4, 256), (n8, 512), (n16, 1024), (n32, 2048))
    pem = sum(n * (width * d + 2 * d) for n, width in levels) + n4 * (256 * d + 512)
    pem += (n8 + n16 + n32) * (9 * 27 * d + 2 * d + 16 * d**2 + 8 * d)
    # And the pooled branch, once.
    assert of("pem@r50", size, "encoder") == pytest.approx(pem / GIGA, abs=5e-4)
    # One layer less of ECO-M2F: dl(K, K, 3 levels, FFN 1024).
    k = n8 + n16 + n32
    layer = k * c**2 + k * c * 192 + k * c * 96 + k * c**2 + k * 2 * c * 1024 + 10 * k * c
    saved = of("eco-m2f@swin-t:exit=6", size, "encoder") - of("eco-m2f@swin-t:exit=5", size, "encoder")
    assert saved == pytest.approx(layer / GIGA, abs=1e-6)


def test_post_processing_and_class_heads_follow_from_classes_and_queries() -> None:
    size, pixels = (608, 992), 608 * 992
    masks = 2 * 4 * 50 * pixels
    assert of("yoso@r50", size, "postprocess", num_queries=50) == pytest.approx(masks / GIGA, abs=1e-6)
    semantic = masks + 7 * 50 * pixels
    found = of("pem@r50", size, "postprocess", num_classes=7, num_queries=50)
    assert found == pytest.approx(semantic / GIGA, abs=1e-6)
    # Products of queries x 256 x positions at stride 4: YOSO has 5, one a convolution; RAP-SAM 9, two of
    # them its adaptor's. What a kernel costs besides does not grow with the image.
    for text, products in (("yoso@r50", 5), ("rap-sam@r50", 9)):
        a_kernel = [
            of(text, each, "decoder", num_queries=101) - of(text, each, "decoder")
            for each in (size, (608, 1984))
        ]
        growth = products * 256 * pixels / 16 / GIGA
        assert a_kernel[1] - a_kernel[0] == pytest.approx(growth, abs=1e-6)
