"""The CUDA kernels without a GPU: they compile for every architecture, spill nothing, and are right.

Right means here: compiled as C++ and run thread by thread on the CPU, for float32 and float64 (the half
precisions differ in the conversion of numbers alone).
"""

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from op_inputs import draw, relative_error

from cuda_ops import cuda_kernel, reference
from cuda_ops.cache import SOURCES, KernelUnavailableError
from cuda_ops.cpu_kernel import find_compiler

HALVES = (torch.float16, torch.bfloat16)


def missing(what: str) -> str:
    """Why a test that needs NVRTC or a compiler cannot run here, or an empty string."""
    try:
        cuda_kernel.nvrtc_version() if what == "nvrtc" else find_compiler()
    except KernelUnavailableError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(missing("nvrtc")), reason=missing("nvrtc"))
needs_compiler = pytest.mark.skipif(bool(missing("compiler")), reason=missing("compiler"))


@needs_nvrtc
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("architecture", cuda_kernel.ARCHITECTURES)
def test_the_encoders_kernels_compile_and_spill_nothing(architecture: int, fused: bool) -> None:
    # PRO-SCALE's three stages have 1, 2 and 3 levels; M2F is the last; Lite-M2F has 4.
    for dtype in (torch.float32, *HALVES):
        for levels in (1, 3, 4):
            kind = cuda_kernel.choose_kind(dtype, 8, 32, levels, 4, fused=fused)
            assert kind is not None
            build = cuda_kernel.compile_kind(kind, architecture)
            assert build.spilled_bytes() == {"segmeter_forward": 0, "segmeter_backward": 0}
            # Four blocks of 256 threads share 65536 registers.
            assert max(build.registers().values()) <= 64
            assert build.cubin[:4] == b"\x7fELF"


@needs_nvrtc
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize(("dim", "levels", "points"), [(8, 5, 8), (36, 2, 3), (7, 1, 1), (128, 4, 8)])
def test_other_shapes_compile(dtype: torch.dtype, dim: int, levels: int, points: int) -> None:
    kind = cuda_kernel.choose_kind(dtype, 3, dim, levels, points, fused=True)
    assert kind is not None
    assert cuda_kernel.compile_kind(kind, 90).cubin[:4] == b"\x7fELF"


@needs_nvrtc
def test_an_architecture_that_nvrtc_does_not_know_is_told_in_one_line() -> None:
    kind = cuda_kernel.choose_kind(torch.float32, 8, 32, 3, 4, fused=False)
    assert kind is not None
    with pytest.raises(KernelUnavailableError, match="sm_12345") as error:
        cuda_kernel.compile_kind(kind, 12345)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("dim", [1, 7, 8, 32, 36, 64, 96, 128, 200])
@pytest.mark.parametrize("samples", [1, 12, 100, 384])
def test_the_layout_covers_all_channels_and_fits_a_block(dtype: torch.dtype, dim: int, samples: int) -> None:
    kind = cuda_kernel.choose_kind(dtype, 8, dim, 1, samples, fused=True)
    assert kind is not None
    assert dim % kind.width == 0 and kind.width * dtype.itemsize <= 16
    assert kind.threads % 32 == 0 and 32 % kind.lanes == 0
    assert kind.pairs_per_block * samples * (48 if dtype is torch.float64 else 32) <= 48 * 1024


def test_too_many_samples_for_a_block_are_refused() -> None:
    # One pair of 32 lanes: 1472 samples of 32 bytes are 46 KiB.
    assert cuda_kernel.choose_kind(torch.float32, 8, 32, 1, 1472, fused=False)
    assert cuda_kernel.choose_kind(torch.float32, 8, 32, 1, 1473, fused=False) is None


def emulator(kind: cuda_kernel.Kind, folder: Path) -> ctypes.CDLL:
    library = folder / "emulator.so"
    source = Path(__file__).with_name("gpu_emulator.cpp")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", f"-I{SOURCES}"]
    command = [find_compiler().path, *flags, *kind.options(), "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(library))


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "fused", "heads", "dim", "sizes"),
    [
        (torch.float32, False, 2, 32, [(4, 6), (2, 3)]),
        (torch.float32, True, 3, 36, [(4, 6), (2, 3), (1, 1)]),
        (torch.float64, False, 1, 7, [(5, 4)]),
        (torch.float64, True, 2, 8, [(4, 6), (2, 3)]),
    ],
)
def test_the_kernels_logic_thread_by_thread(
    dtype: torch.dtype, fused: bool, heads: int, dim: int, sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    inputs = draw(sizes, batch=2, queries=7, heads=heads, dim=dim, own_points=(False, heads > 2))
    value, shapes, starts, points, offsets, logits = (
        t.to(dtype) if t.is_floating_point() else t for t in inputs.fused()
    )
    places, weights = (offsets, logits) if fused else (inputs.locations.to(dtype), inputs.weights.to(dtype))
    places[1, 2, 0, 0, 1, 0] = float("nan")
    kind = cuda_kernel.choose_kind(dtype, heads, dim, len(sizes), places.shape[4], fused=fused)
    assert kind is not None
    library = emulator(replace(kind, threads=32), tmp_path)

    output = torch.full((2, 7, heads * dim), float("nan"), dtype=dtype)
    grad_output = torch.randn(output.shape, dtype=dtype, generator=torch.Generator().manual_seed(3))
    grads = (
        torch.zeros_like(value),
        torch.full_like(places, float("nan")),
        torch.full_like(weights, float("nan")),
    )
    problem = cuda_kernel.Problem(
        value=value.data_ptr(),
        shapes=shapes.data_ptr(),
        starts=starts.data_ptr(),
        places=places.data_ptr(),
        weights=weights.data_ptr(),
        reference=points.data_ptr(),
        grad_output=grad_output.data_ptr(),
        output=output.data_ptr(),
        grad_value=grads[0].data_ptr(),
        grad_places=grads[1].data_ptr(),
        grad_weights=grads[2].data_ptr(),
        pairs=2 * 7 * heads,
        queries=7,
        tokens=value.shape[1],
        reference_batches=points.shape[0],
        reference_levels=points.shape[2],
    )
    library.emulate_forward(ctypes.byref(problem))
    library.emulate_backward(ctypes.byref(problem))

    wide = [t.double() for t in (grad_output, value, points, places, weights)]
    grad_output, value, points, places, weights = wide
    if fused:
        expected = reference.fused_forward(value, shapes, points, places, weights)
        gradients = reference.fused_backward(grad_output, value, shapes, points, places, weights)
    else:
        expected = reference.forward(value, shapes, places, weights)
        gradients = reference.backward(grad_output, value, shapes, places, weights)
    # 24 bits of float32, over sums of a dozen terms.
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert relative_error(output, expected) < tolerance
    for mine, theirs in zip(grads, gradients, strict=True):
        assert relative_error(mine, theirs) < tolerance
