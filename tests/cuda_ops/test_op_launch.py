"""Launches without a GPU: the real cuda-bindings call a stand-in for the driver, which runs the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segmeter.cuda_ops import cuda_build, reference
from segmeter.cuda_ops.cache import SOURCES
from segmeter.cuda_ops.cpu_kernel import find_compiler
from tests.cuda_ops.test_op_gpu_source import missing
from tests.helpers.op_inputs import draw
from tests.helpers.places import ROOT

STREAM = 4711

# Torch alone is told that there is a GPU: its context manager, its stream and its capability.
LAUNCH = f"""
import contextlib, sys, types
import torch
from segmeter.cuda_ops import cuda_kernel

torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.current_stream = lambda device: types.SimpleNamespace(cuda_stream={STREAM})
torch.cuda.get_device_capability = lambda index: (9, 0)
gpu = torch.device("cuda", 1)
data = torch.load(sys.argv[1], weights_only=True)
inputs = [data.get(name) for name in cuda_kernel.INPUTS]
cuda_kernel._launch("segmeter_forward", cuda_kernel.plan(inputs, {{"output": data["output"]}}), gpu)
grads = {{name: data[name] for name in ("grad_output", "grad_value", "grad_places", "grad_weights")}}
cuda_kernel._launch("segmeter_backward", cuda_kernel.plan(inputs, grads), gpu)
torch.save(data, sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the driver has another name there")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver: test_op_on_gpu shows more")
@pytest.mark.skipif(bool(missing("nvrtc")), reason=missing("nvrtc"))
@pytest.mark.skipif(bool(missing("compiler")), reason=missing("compiler"))
@pytest.mark.parametrize("fused", [False, True])
def test_a_launch_reaches_the_driver_as_it_was_planned(fused: bool, tmp_path: Path) -> None:
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
    source = Path(__file__).with_name("driver_stand_in.cpp")
    flags = ["-std=c++17", "-O1", "-pthread", "-shared", "-fPIC", f"-I{SOURCES}", *kind.options()]
    built = [find_compiler().path, *flags, "-o", str(tmp_path / "libcuda.so.1"), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "SEGMETER_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    # A build that a full disk cut short is not code; it is built again.
    cubin = _prepared(kind, environment)
    cubin.write_bytes(b"")

    ran = [sys.executable, "-c", LAUNCH, str(tmp_path / "tensors.pt")]
    done = subprocess.run(ran, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # 2 items of 21 queries of 3 heads are 126 pairs of 4 lanes: 64 pairs to a block of 256 threads.
    assert done.stderr.splitlines() == [
        *("device 1", "context", "not code", "library"),
        f"forward 2 blocks on stream {STREAM}",
        f"backward 2 blocks on stream {STREAM}",
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


def _prepared(kind: cuda_build.Kind, environment: dict[str, str]) -> Path:
    program = (
        f"import sys; from cuda_ops import cuda_build; print(cuda_build.prepare(cuda_build.{kind!r}, 90))"
    )
    ran = [sys.executable, "-c", program]
    done = subprocess.run(ran, check=True, capture_output=True, text=True, env=environment)
    return Path(done.stdout.strip())
