"""Launches without a GPU: the real cuda-bindings call a stand-in for the driver, which runs the kernel."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from segmeter.compiler import KernelUnavailableError, Reasons, find_compiler
from segmeter.cuda_ops import (
    Implementation,
    cuda_build,
    cuda_kernel,
    implementation,
    implementation_for,
    reference,
)
from segmeter.cuda_ops.cuda_build import SOURCES
from tests.cuda_ops.test_op_gpu_source import missing
from tests.helpers.op_inputs import draw
from tests.helpers.places import ROOT

STREAM = 4711

# Torch alone is told that there is a GPU: its context manager, its stream and its capability.
LAUNCH = f"""
import contextlib, sys, types
import torch
from segmeter.cuda_ops import cuda_kernel, cuda_plan

torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.current_stream = lambda device: types.SimpleNamespace(cuda_stream={STREAM})
torch.cuda.get_device_capability = lambda index: (9, 0)
gpu = torch.device("cuda", 1)
data = torch.load(sys.argv[1], weights_only=True)
inputs = [data.get(name) for name in cuda_plan.INPUTS]
cuda_kernel._launch("segmeter_forward", cuda_plan.plan(inputs, {{"output": data["output"]}}), gpu)
grads = {{name: data[name] for name in ("grad_output", "grad_value", "grad_places", "grad_weights")}}
cuda_kernel._launch("segmeter_backward", cuda_plan.plan(inputs, grads), gpu)
torch.save(data, sys.argv[1])
"""


WHY_NOT = (
    ("the driver has another name there" if sys.platform != "linux" else "")
    or ("there is a driver: test_op_on_gpu shows more" if torch.cuda.is_available() else "")
    or missing("nvrtc")
    or missing("compiler")
)
needs_all = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@needs_all
@pytest.mark.parametrize("fused", [False, True])
def test_a_launch_reaches_the_driver_as_it_was_planned(
    fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = draw([(4, 6), (2, 3)], batch=2, queries=21, heads=3, dim=16, points=2)
    value, points = inputs.value.float(), inputs.points.float() if fused else None
    chosen = (inputs.offsets, inputs.logits) if fused else (inputs.locations, inputs.weights)
    places, weights = (t.float() for t in chosen)
    grad_output = torch.randn(2, 21, 48, generator=torch.Generator().manual_seed(0))
    given = {
        **{"value": value, "shapes": inputs.shapes, "starts": inputs.starts, "places": places},
        **{"weights": weights, "output": torch.full_like(grad_output, float("nan"))},
        **{"grad_output": grad_output, "grad_value": torch.zeros_like(value)},
        **{"grad_places": torch.empty_like(places), "grad_weights": torch.empty_like(weights)},
    }
    tensors = given if points is None else {**given, "reference": points}
    torch.save(tensors, tmp_path / "tensors.pt")

    kind = cuda_build.choose_kind(torch.float32, 3, 16, 2, 2, fused=fused)
    assert kind is not None
    environment = _with_driver(kind, tmp_path)
    monkeypatch.setenv("SEGMETER_CACHE", environment["SEGMETER_CACHE"])
    # A build that a full disk cut short is not code; it is built again.
    cubin = cuda_build.prepare(kind, 90)
    cubin.write_bytes(b"")

    ran = [sys.executable, "-c", LAUNCH, str(tmp_path / "tensors.pt")]
    done = subprocess.run(ran, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # 21 queries in one tile of 64 pairs of 4 lanes, 2 items, 3 heads.
    assert done.stderr.splitlines() == [
        *("device 1", "context", "not code", "library"),
        f"forward 1 x 2 x 3 blocks on stream {STREAM}",
        f"backward 1 x 2 x 3 blocks on stream {STREAM}",
    ]
    assert cubin.read_bytes()[:4] == b"\x7fELF"

    found = torch.load(tmp_path / "tensors.pt", weights_only=True)
    doubles = [t.double() for t in (value, places, weights)]
    if points is not None:
        at = (inputs.shapes, points.double())
        expected = reference.fused_forward(doubles[0], *at, *doubles[1:])
        gradients = reference.fused_backward(grad_output.double(), doubles[0], *at, *doubles[1:])
    else:
        expected = reference.forward(doubles[0], inputs.shapes, *doubles[1:])
        gradients = reference.backward(grad_output.double(), doubles[0], inputs.shapes, *doubles[1:])
    names = ("output", "grad_value", "grad_places", "grad_weights")
    for name, theirs in zip(names, (expected, *gradients), strict=True):
        # Sums of a dozen float32 products.
        torch.testing.assert_close(found[name].double(), theirs, rtol=1e-4, atol=1e-4, msg=name)


# Which two calls of one kind fare how, where the driver's first loading finds no memory.
TWO_CALLS = """
import sys
import torch
from segmeter.cuda_ops import cuda_kernel
torch.cuda.get_device_capability = lambda index: (9, 0)
value = torch.empty(2, 30, 3, 16, device="meta")
places = torch.empty(2, 21, 3, 2, 2, 2, device="meta")
for _ in range(2):
    print(cuda_kernel.refusal(value, places, fused=False))
"""


@needs_all
def test_a_gpu_without_memory_now_costs_neither_the_build_nor_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = cuda_build.choose_kind(torch.float32, 3, 16, 2, 2, fused=False)
    assert kind is not None
    environment = _with_driver(kind, tmp_path) | {"FULL_AT_FIRST": "1"}
    monkeypatch.setenv("SEGMETER_CACHE", environment["SEGMETER_CACHE"])
    cubin = cuda_build.prepare(kind, 90)
    written = cubin.stat()
    ran = [sys.executable, "-c", TWO_CALLS]
    done = subprocess.run(ran, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stderr.splitlines() == ["full", "library"]
    first, second = done.stdout.split("\n")[:2]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in first and second == ""
    assert (cubin.stat().st_mtime_ns, cubin.stat().st_ino) == (written.st_mtime_ns, written.st_ino)


@needs_all
def test_a_driver_too_old_for_a_whole_build_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path))
    kind = cuda_build.choose_kind(torch.float32, 3, 16, 2, 2, fused=False)
    assert kind is not None
    place = cuda_build.prepare(kind, 90)
    whole, node = place.read_bytes(), place.stat().st_ino
    assert cuda_build.mend(kind, 90) is None
    assert place.read_bytes() == whole and place.stat().st_ino == node
    place.write_bytes(whole[:100])
    assert cuda_build.mend(kind, 90) == whole == place.read_bytes()
    assert list(tmp_path.iterdir()) == [place]


def test_each_gpu_says_for_itself_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = torch.device("cuda", 11), torch.device("cuda", 12)

    def check(index: int) -> None:
        if index == old.index:
            raise KernelUnavailableError("too old")

    monkeypatch.setattr(cuda_kernel, "check_available", check)
    monkeypatch.setattr(implementation, "_missing", Reasons())
    assert implementation_for(new, torch.float32).name == "cuda-kernel"
    assert implementation_for(old, torch.float32) == Implementation("reference", "too old")
    assert implementation_for(new, torch.float32).name == "cuda-kernel"


def test_what_may_pass_is_asked_again_and_what_lasts_is_not() -> None:
    failures = [KernelUnavailableError("full", passing=True), KernelUnavailableError("old")]

    def load() -> None:
        if failures:
            raise failures.pop(0)

    reasons = Reasons()
    assert [reasons.of("a", load) for _ in range(3)] == ["full", "old", "old"]
    assert reasons.of("b", load) == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run for minutes")
def test_the_recording_on_a_gpu_says_in_one_line_that_there_is_none() -> None:
    script = str(ROOT / "benchmarks" / "op_on_gpu.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "NVIDIA GPU" in done.stderr


def test_the_recording_on_a_gpu_leaves_no_size_precision_or_batch_out() -> None:
    script = str(ROOT / "benchmarks" / "op_on_gpu.py")
    done = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, check=True)
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names[:3] == ["tests", "bench-warm", "bench-cold"] and len(set(names)) == len(names)
    wanted = product(
        ("eager", "compile"), ("512x1024", "800x1088", "1024x2048"), ("fp32", "tf32", "bf16"), "18"
    )
    assert {"-".join(("profile", *each)) for each in wanted} < set(names)
    lines = [line for line in done.stdout.splitlines() if line.startswith("profile-")]
    encoders = ("m2f@r50", "lite-m2f@r50", "rt-m2f@r50", "pro-scale@r50")
    assert all(f" {name} " in line for line in lines for name in encoders)
    # What is worked out in TF32 is said to torch itself, so that the record keeps it.
    assert all((" tf32 profile " in line) == ("-tf32-" in line.partition(":")[0]) for line in lines)


def _with_driver(kind: cuda_build.Kind, folder: Path) -> dict[str, str]:
    """The environment of a process that finds the stand-in, built for this kind, and an empty cache."""
    source = Path(__file__).with_name("driver_stand_in.cpp")
    flags = ["-std=c++17", "-O1", "-pthread", "-shared", "-fPIC", f"-I{SOURCES}", *kind.options()]
    built = [find_compiler().path, *flags, "-o", str(folder / "libcuda.so.1"), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "SEGMETER_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }
