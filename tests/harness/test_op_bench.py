"""Timing the op: the shapes are the encoders' own, the arithmetic of ratios and bytes, the record."""

import json
from pathlib import Path

import pytest
import torch

from cuda_ops import use_implementation
from harness.doctor import build_ahead, diagnose
from harness.op_bench import (
    SHAPES,
    Case,
    bytes_moved,
    draw_problem,
    ratio_interval,
    run_benchmark,
    write_record,
)


def test_shapes_are_those_of_strides_32_16_and_8() -> None:
    for name, size in (("m2f-800x1088", (800, 1088)), ("m2f-1024x2048", (1024, 2048))):
        assert SHAPES[name][0] == tuple((size[0] // s, size[1] // s) for s in (32, 16, 8))
    # Lite-M2F's high-level tokens at 1024x2048: 32*64 + 64*128.
    assert SHAPES["lite-m2f-10240"][1] == 32 * 64 + 64 * 128


def test_realistic_places_lie_near_their_reference_point_and_uniform_ones_on_the_map() -> None:
    near = draw_problem(Case("pro-scale-stage-1", "realistic", "forward", "float32"), torch.device("cpu"))
    size = near.shapes.flip(-1)[:, None]
    pixels = (near.locations - near.points[:, :, None, :, None]) * size
    # A normal distribution of 3 pixels; 131072 numbers hold its deviation to a few thousandths.
    assert abs(pixels.std().item() - 3) < 0.05
    anywhere = draw_problem(Case("pro-scale-stage-1", "uniform", "forward", "float32"), torch.device("cpu"))
    assert anywhere.locations.min() > -1e-6 and anywhere.locations.max() < 1 + 1e-6
    assert abs(anywhere.locations.mean().item() - 0.5) < 0.01


def test_bytes_count_every_tensor_once() -> None:
    problem = draw_problem(Case("pro-scale-stage-1", "realistic", "forward", "float32"), torch.device("cpu"))
    # 2048 tokens and queries, 8 heads of 32, 1 level, 4 points, 4 bytes: value and output 2048*256*4 each,
    # locations 2048*8*4*2*4, weights half of that.
    value, locations = 2048 * 256 * 4, 2048 * 8 * 4 * 2 * 4
    assert bytes_moved(problem, "forward") == 2 * value + locations + locations // 2
    # Backward: again all inputs and one gradient for each, and the output's gradient.
    assert bytes_moved(problem, "backward") == 3 * value + 2 * (locations + locations // 2)


def test_the_interval_of_a_steady_ratio_is_that_ratio() -> None:
    assert ratio_interval([6.0] * 5, [2.0] * 5) == (3.0, 3.0)
    low, high = ratio_interval([6.0, 6.0, 9.0, 6.0, 6.0], [2.0, 3.0, 2.0, 2.0, 2.0])
    assert low <= 3.0 <= high


def test_a_record_tells_what_ran_and_is_written_whole(tmp_path: Path) -> None:
    record = run_benchmark(shapes=["pro-scale-stage-1"], rounds=3)
    path = write_record(record, tmp_path)
    assert json.loads(path.read_text()) == record
    assert record["implementations"]["float32"]["name"] in ("cpu-kernel", "reference")
    # Two kinds of places, two passes; the reference is its own measure.
    own = [row for row in record["rows"] if row["implementation"] == "reference"]
    assert len(own) == 4 and all(row["speedup"] == 1 for row in own)
    assert all(len(row["times_ms"]) == 3 and row["gb_per_s"] > 0 for row in record["rows"])


@pytest.mark.parametrize(
    "wrong",
    [{"shapes": ["m2f-1024x204"]}, {"dtypes": ["float23"]}, {"device": "gpu"}, {"rounds": 2}],
)
def test_a_wrong_wish_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError) as error:
        run_benchmark(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_doctor_gives_a_reason_for_every_device_and_dtype() -> None:
    with use_implementation("reference"):
        record = diagnose()
    assert {(row["device"], row["dtype"]) for row in record["implementations"]} >= {
        ("cpu", "float16"),
        ("cuda", "bfloat16"),
    }
    for row in record["implementations"]:
        assert row["name"] == "reference" and row["reason"].startswith("asked")


def test_building_ahead_refuses_an_architecture_without_kernels() -> None:
    with pytest.raises(ValueError, match="70"):
        build_ahead([70])
