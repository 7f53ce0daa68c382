"""The CPU kernel's vectors: right at every width that processors have, and where a softmax is at its ends."""

import ctypes
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from segmeter.compiler import KernelUnavailableError, find_compiler
from segmeter.cuda_ops import cpu_kernel, ms_deform_attn_fused, reference
from tests.helpers.op_inputs import Inputs, draw, relative_error

# 53 and 24 bits, over sums of a few dozen terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
SIZES = [(3, 4), (5, 9), (7, 3)]


def fused(inputs: Inputs, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in inputs.fused())


@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
def test_narrow_vectors_give_the_same(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("other processors have vectors of one width")
    try:
        compiler = find_compiler()
    except KernelUnavailableError as error:
        pytest.skip(str(error))
    flags = [*cpu_kernel.FLAGS, "-O1", f"-march={processor}"]
    built, source = tmp_path / "cpu.so", cpu_kernel.SOURCES / "cpu.cpp"
    subprocess.run([compiler.path, *flags, "-o", str(built), str(source)], check=True)
    if processor == "haswell" and "avx2" not in cpu_kernel._cpu_features():
        pytest.skip("this processor has no AVX2")
    library = ctypes.CDLL(str(built))
    for function in (library.segmeter_forward, library.segmeter_backward):
        function.argtypes = [ctypes.POINTER(cpu_kernel.Call)]
        function.restype = ctypes.c_int
    monkeypatch.setattr(cpu_kernel, "library", lambda: library)
    # 3 to 21 samples a query: less than a vector, one, and several.
    for points in (1, 4, 7):
        inputs = draw(
            SIZES, queries=33, heads=3, dim=12, points=points, own_points=(points == 4, points == 4)
        )
        expected = reference.fused_forward(
            inputs.value, inputs.shapes, inputs.points, inputs.offsets, inputs.logits
        )
        gradient = torch.ones_like(expected)
        gradients = reference.fused_backward(
            gradient, inputs.value, inputs.shapes, inputs.points, inputs.offsets, inputs.logits
        )
        for dtype, tolerance in TOLERANCE.items():
            value, shapes, starts, at, offsets, logits = fused(inputs, dtype)
            given = cpu_kernel.forward(value, shapes, starts, offsets, logits, at)
            assert relative_error(given, expected) < tolerance
            found = cpu_kernel.backward(gradient.to(dtype), value, shapes, starts, offsets, logits, at)
            for one, other in zip(found, gradients, strict=True):
                # The gradient of float32 logits is a difference of nearly equal numbers.
                assert relative_error(one, other) < 10 * tolerance


@pytest.mark.parametrize("spread", [1e-3, 30.0, 200.0, 1e4])
def test_a_softmax_of_any_spread_is_exact(spread: float) -> None:
    inputs = draw(SIZES, queries=50)
    stretched = Inputs(**{**vars(inputs), "logits": (inputs.logits * spread).float().double()})
    value, shapes, _starts, at, offsets, logits = stretched.fused()
    expected = reference.fused_forward(value, shapes, at, offsets, logits)
    given = ms_deform_attn_fused(*fused(stretched, torch.float32))
    # Locations are rounded to float32 too; exponentials of the whole range add nothing to that.
    assert relative_error(given, expected) < 2 * TOLERANCE[torch.float32]
    assert given.isfinite().all()


def test_logits_that_are_no_numbers_spoil_their_own_query_and_head_alone() -> None:
    inputs = draw(SIZES, queries=20)
    value, shapes, starts, at, offsets, logits = fused(inputs, torch.float32)
    clean = ms_deform_attn_fused(value, shapes, starts, at, offsets, logits)
    logits = logits.clone()
    logits[0, 3, 1, 0, 0] = float("nan")
    logits[1, 5, 0, 1, 2] = float("inf")
    spoilt = ms_deform_attn_fused(value, shapes, starts, at, offsets, logits).view(2, 20, 2, -1)
    whole = torch.ones(2, 20, 2, dtype=torch.bool)
    whole[0, 3, 1] = whole[1, 5, 0] = False
    assert torch.equal(spoilt[whole], clean.view(2, 20, 2, -1)[whole])
    weights = logits.flatten(3).softmax(-1)
    assert spoilt[~whole].isnan().any() and weights[~whole].isnan().any()


def test_a_logit_of_minus_infinity_is_a_sample_left_out() -> None:
    inputs = draw([(6, 7)], queries=20, points=5)
    value, shapes, starts, at, offsets, logits = fused(inputs, torch.float32)
    masked = logits.clone()
    masked[..., 3:] = -float("inf")
    fewer = ms_deform_attn_fused(value, shapes, starts, at, offsets[..., :3, :], logits[..., :3])
    torch.testing.assert_close(
        ms_deform_attn_fused(value, shapes, starts, at, offsets, masked), fewer, rtol=1e-5, atol=1e-6
    )
