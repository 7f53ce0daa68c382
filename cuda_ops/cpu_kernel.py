"""The C++ kernels: compiled by the system's compiler at first use, called through a plain C interface.

The library knows pointers and sizes, nothing of torch's binary interface, so that one build serves every
torch version.
"""

import ctypes
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from segmeter.compiler import KernelUnavailableError, cached_library, digest, find_compiler

SOURCES = Path(__file__).parent / "csrc"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# -ffp-contract=off: the shared header adds the rounding errors of its products, which a product merged with
# the next addition would not have. Where a merged one is wanted, the code says so itself.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-pthread",
)
# The first that the compiler takes; compilers for ARM may know only the second.
TUNING = (("-march=native",), ("-mcpu=native",), ())
FAILURES = {1: "out of memory", 2: "no thread could be started"}


class Call(ctypes.Structure):
    """``SegmeterCall`` of csrc/cpu.cpp, field by field."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("value", "places", "weights", "reference", "grad_output", "output"),
            *("grad_value", "grad_places", "grad_weights", "shapes", "starts"),
        )
    ) + tuple(
        (name, ctypes.c_int64)
        for name in (
            *("batch", "tokens", "heads", "dim", "levels", "points", "queries"),
            *("reference_batches", "reference_levels", "threads", "dtype"),
        )
    )


def _cpu_features() -> str:
    """What the library is tuned to: the same home folder may be mounted on another machine."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


@cache
def library() -> ctypes.CDLL:
    """The compiled library, built if it is not in the cache.

    Raises:
        KernelUnavailableError: it cannot be built or loaded.
    """
    compiler = find_compiler()
    sources = [SOURCES / name for name in ("cpu.cpp", "rows.cpp")]
    headers = [SOURCES / name for name in ("parallel.h", "sample.h")]
    texts = [source.read_text(encoding="utf-8") for source in sources + headers]
    key = digest(*texts, *FLAGS, compiler.path, compiler.version, _cpu_features())

    def build(target: Path) -> None:
        for tuning in TUNING:
            command = [compiler.path, *FLAGS, *tuning, "-o", str(target), *map(str, sources)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
        raise KernelUnavailableError(
            f"{compiler.path} could not build the CPU kernel: {errors[0]}; "
            "install g++ 9 or clang 9 or later, or set CXX"
        )

    place = cached_library(f"cpu-{key}.so", build)
    try:
        loaded = ctypes.CDLL(str(place))
    except OSError:
        # A damaged file, e.g. after a full disk: build it once more.
        place.unlink(missing_ok=True)
        try:
            loaded = ctypes.CDLL(str(cached_library(f"cpu-{key}.so", build)))
        except OSError as error:
            raise KernelUnavailableError(
                f"the CPU kernel cannot be loaded ({error}); set SEGMETER_CACHE to another folder"
            ) from None
    for function in (loaded.segmeter_forward, loaded.segmeter_backward):
        function.argtypes = [ctypes.POINTER(Call)]
        function.restype = ctypes.c_int
    return loaded


def refusal(value: Tensor, places: Tensor, *, fused: bool) -> str:
    """Why this call cannot be served: any can."""
    return ""


def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    places: Tensor,
    weights: Tensor,
    reference_points: Tensor | None = None,
) -> Tensor:
    """Forward, plain or (with reference points, of the accumulation dtype) fused; (B, Q, M*D)."""
    batch, _, heads, dim = value.shape
    output = value.new_empty((batch, places.shape[1], heads * dim))
    _run(
        library().segmeter_forward,
        {"output": output},
        (value, spatial_shapes, level_start_index, places, weights, reference_points),
    )
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    places: Tensor,
    weights: Tensor,
    reference_points: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, places and weights; the same for any number of threads."""
    grads = tuple(torch.empty(t.shape, dtype=t.dtype) for t in (value, places, weights))
    named = dict(zip(("grad_value", "grad_places", "grad_weights"), grads, strict=True))
    _run(
        library().segmeter_backward,
        named | {"grad_output": grad_output.contiguous()},
        (value, spatial_shapes, level_start_index, places, weights, reference_points),
    )
    return grads[0], grads[1], grads[2]


def _run(function: object, others: dict[str, Tensor], inputs: tuple[Tensor | None, ...]) -> None:
    value, shapes, starts, places, weights, reference = (
        None if tensor is None else tensor.contiguous() for tensor in inputs
    )
    assert value is not None and shapes is not None and places is not None
    call = Call()
    named = {"value": value, "shapes": shapes, "starts": starts, "places": places, "weights": weights}
    for name, tensor in (named | {"reference": reference} | others).items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    call.batch, call.tokens, call.heads, call.dim = value.shape
    call.queries, call.levels, call.points = places.shape[1], places.shape[3], places.shape[4]
    if reference is not None:
        call.reference_batches, call.reference_levels = reference.shape[0], reference.shape[2]
    call.threads = torch.get_num_threads()
    call.dtype = DTYPES[value.dtype]
    failure = function(ctypes.byref(call))  # type: ignore[operator]
    if failure:
        raise RuntimeError(f"the CPU kernel failed: {FAILURES.get(failure, failure)}")
