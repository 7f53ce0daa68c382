"""Cost as an exact function of size, and the sizes solved from it."""

from fractions import Fraction

import pytest

from segmeter.harness.counting.by_size import (
    CONVENTION,
    cost_model,
    real_padded_sizes,
    real_sizes_costing,
    through,
)
from segmeter.harness.counting.count import count_model
from segmeter.harness.inputs.sizes import COCO_RULE, ImageSize, dataset_sizes, from_image
from segmeter.harness.models.spec import parse_model
from segmeter.harness.records.flops import GIGA


def test_a_parabola_through_three_points_is_exact() -> None:
    # y = 3 + 2 x + x^2 / 2
    found = through([(2, 9), (4, 19), (8, 51)])
    assert found.coefficients == (3, 2, Fraction(1, 2))
    assert found.at(6) == 33


@pytest.mark.parametrize(
    "model", ["m2f@r50", "rt-m2f", "pro-scale:stages=1,3,1", "lite-m2f:pixel_embedding=lpe"]
)
def test_the_function_gives_the_exact_count_at_a_size_it_has_not_seen(model: str) -> None:
    spec = parse_model(model)
    size = ImageSize(padded=(736, 1344), original=(349, 640))
    counted = count_model(spec, size, CONVENTION).figures
    found = cost_model(spec)
    # Whole numbers up to 1e12 are exact as floats; sums in another order differ by less than 1.
    assert found.encoder(size.padded) * GIGA == pytest.approx(counted.of("encoder"), abs=1)
    assert found.total(size) * GIGA == pytest.approx(counted.total, abs=1)


def test_rt_m2f_is_quadratic_and_the_others_are_linear() -> None:
    quadratic = {name: cost_model(parse_model(name)).encoder_cost for name in ("m2f", "pro-scale", "rt-m2f")}
    assert all(cost is not None for cost in quadratic.values())
    assert [name for name, cost in quadratic.items() if cost and cost.coefficients[2]] == ["rt-m2f"]
    # Both attention products over pixels / 1024 tokens of 256 channels.
    assert quadratic["rt-m2f"] and quadratic["rt-m2f"].coefficients[2] == Fraction(2 * 256, 1024**2)


def test_the_pixels_for_a_cost_are_its_inverse() -> None:
    model = cost_model(parse_model("m2f"))
    low = model.encoder((800, 1088))
    assert model.pixels_for(low, low) == (800 * 1088, 800 * 1088)
    fewest, most = model.pixels_for(low + 1e-6, model.encoder((32, 27200 + 32)) - 1e-6)
    assert fewest > most, "no number of 32x32 blocks lies strictly between two neighbours"


def test_solved_sizes_are_sizes_of_real_images() -> None:
    # Table 1 prints 39.53 for PRO-SCALE (2,2,2), Swin-T, COCO.
    found = real_sizes_costing(cost_model(parse_model("pro-scale:stages=2,2,2")), 39.525, 39.535)
    assert found[0] == (800, 1088) == from_image((480, 640), COCO_RULE).padded
    assert set(found) <= set(real_padded_sizes())
    assert sum(real_padded_sizes().values()) == dataset_sizes("coco-val2017").total == 5000
    assert real_sizes_costing(cost_model(parse_model("m2f")), 281.0, 281.2) == []
