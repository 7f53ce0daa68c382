"""Timing the op: the shapes are the encoders' own, the arithmetic of ratios and bytes, the record."""

import json
import sys
from pathlib import Path

import pytest
import torch

from segmeter import ops
from segmeter.cuda_ops import use_implementation
from segmeter.harness.op import peers as op_peers
from segmeter.harness.op.bench import Options, ratio_interval, run_benchmark, time_case, write_record
from segmeter.harness.op.doctor import build_ahead, diagnose
from segmeter.harness.op.libraries import drop_ins, transformers_families
from segmeter.harness.op.peers import PEERS
from segmeter.harness.op.problems import DTYPES, Case, bytes_moved, draw_problem
from segmeter.harness.op.shapes import PASSES, SHAPES
from segmeter.reports.text.op import bench_notes, build_lines


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
    record = run_benchmark(shapes=["decoder-100"], options=Options(rounds=3, compiled_reference=False))
    path = write_record(record, tmp_path)
    assert json.loads(path.read_text()) == record
    assert record["implementations"]["float32"]["name"] in ("cpu-kernel", "reference")
    # Two kinds of places, two passes; the reference is its own measure.
    own = [row for row in record["rows"] if row["implementation"] == "reference"]
    assert len(own) == 4 and all(row["speedup"] == 1 for row in own)
    assert all(len(row["times_ms"]) == 3 and row["gb_per_s"] > 0 for row in record["rows"])
    # The same query on M2F's levels takes no less than on three levels of one token.
    assert 0 < record["host_us"]["forward"] < 1e3 * max(row["median_ms"] for row in own)
    assert any(line.startswith("host ") for line in bench_notes(record))
    assert not any(line.startswith("host ") for line in bench_notes({**record, "host_us": None}))


def test_the_compiled_reference_is_timed_in_both_directions() -> None:
    cpu = torch.device("cpu")
    for direction in PASSES:
        case = Case("decoder-100", "realistic", direction, "float32")
        rows, _ = time_case(case, cpu, Options(rounds=3, cold=True), peak=1.0)
        assert "reference, torch.compile" in [row["implementation"] for row in rows]


def test_every_peer_is_timed_or_left_out_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = Case("decoder-100", "realistic", "forward", "float32")
    rows, left_out = time_case(case, torch.device("cpu"), Options(3, compiled_reference=False), peak=1.0)
    timed = {row["implementation"] for row in rows} - {"compiled", "compiled, fused", "reference"}
    assert not timed & set(left_out)
    assert {peer.name for peer in PEERS} == timed | set(left_out)
    assert all(left_out.values())


@pytest.mark.cuda
@pytest.mark.parametrize("cold", [False, True])
def test_a_gpu_is_timed_in_every_dtype(cold: bool) -> None:
    options = Options(rounds=3, cold=cold, compiled_reference=False)
    record = run_benchmark("cuda", ["decoder-100"], list(DTYPES), options)
    assert {found["name"] for found in record["implementations"].values()} == {"cuda-kernel"}
    for row in record["rows"]:
        # At least one byte and less than what a copy reaches, counting every tensor once.
        assert row["gb_per_s"] > 0 and (not cold or row["share_of_peak"] < 1.2)


# The official extension's two functions, with its arguments in its order, in plain torch.
EXTENSION = """
from segmeter.cuda_ops import reference
def ms_deform_attn_forward(value, shapes, starts, places, weights, step):
    return reference.forward(value, shapes, places, weights) * {factor}
def ms_deform_attn_backward(value, shapes, starts, places, weights, grad, step):
    return reference.backward(grad * {factor}, value, shapes, places, weights)
"""


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("factor", [1, 2])
def test_a_peer_in_the_folder_is_timed_if_it_is_right(
    factor: int, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".peers").mkdir()
    (tmp_path / ".peers" / "MultiScaleDeformableAttention.py").write_text(EXTENSION.format(factor=factor))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "MultiScaleDeformableAttention", raising=False)
    op_peers.import_peer.cache_clear()
    case = Case("decoder-100", "realistic", direction, "float32")
    rows, left_out = time_case(case, torch.device("cpu"), Options(3, compiled_reference=False), peak=1.0)
    sys.modules.pop("MultiScaleDeformableAttention")
    op_peers.import_peer.cache_clear()
    timed = "Deformable-DETR" in [row["implementation"] for row in rows]
    assert timed is (factor == 1)
    # Twice the right result is off by the whole of its norm.
    assert timed or "off by 1 of its norm" in left_out["Deformable-DETR"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shapes": ["m2f-1024x204"]},
        {"dtypes": ["float23"]},
        {"device": "gpu"},
        {"options": Options(rounds=2)},
    ],
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


def test_the_doctor_names_the_families_that_accelerate_takes() -> None:
    pytest.importorskip("transformers")
    found = transformers_families()
    # What `accelerate` is tested on.
    assert {"mask2former", "oneformer", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine"} <= set(found)
    assert not {"detr", "maskformer", "segformer"} & set(found)


def test_the_doctor_says_how_to_get_what_is_not_there() -> None:
    states = {row["name"]: row["state"] for row in drop_ins()}
    assert "segmeter.ops.install()" in states["MultiScaleDeformableAttention"]
    ops.install()
    try:
        assert (
            "stands in" in {row["name"]: row["state"] for row in drop_ins()}["MultiScaleDeformableAttention"]
        )
    finally:
        ops.uninstall()


def test_a_build_without_a_gpu_says_how_to_build_for_one() -> None:
    row = {"what": "CPU kernel", "ok": True, "seconds": 0.0, "detail": "x.so"}
    assert "--arch 90" in build_lines([row])[-1]
    assert len(build_lines([row, row | {"what": "CUDA kernels for sm_90"}])) == 2


def test_building_ahead_refuses_an_architecture_without_kernels() -> None:
    with pytest.raises(ValueError, match="60"):
        build_ahead([60])
