"""The CUDA kernels: compiled by NVRTC at first use for the GPU at hand, launched through the driver.

Torch's CUDA wheels bring NVRTC and ``cuda-bindings``, so that neither nvcc nor a host compiler nor CUDA's
headers are needed, and a build knows nothing of torch's binary interface. One build serves one problem
kind (dtype, heads, channels, levels, points) on one architecture: with these known the compiler unrolls the
loops over samples, and a build takes a fraction of a second.
"""

import ctypes
import re
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ops.cache import SOURCES, KernelUnavailableError, cached_file, digest

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
LOAD_BYTES = 16  # the widest load of one thread
# What any GPU gives a block without being asked for more, less some for the tables beside the samples.
SHARED_BYTES = 48 * 1024 - 2048
WARP = 32
INSTALL = "pip install 'cuda-bindings' 'nvidia-cuda-nvrtc' of your torch's CUDA version"


@dataclass(frozen=True)
class Kind:
    """What a build is specialised on; the names are those of csrc/gpu.cu, in lower case."""

    dtype: int
    heads: int
    dim: int
    levels: int
    points: int
    fused: int
    width: int
    lanes: int
    threads: int
    min_blocks: int

    @property
    def pairs_per_block(self) -> int:
        """Pairs of a query and a head that one block works on."""
        return self.threads // self.lanes

    def options(self) -> list[str]:
        """The compiler's -D options."""
        names = [field.name.upper() for field in fields(self)]
        return [f"-D{name}={value}" for name, value in zip(names, astuple(self), strict=True)]


def choose_kind(
    dtype: torch.dtype, heads: int, dim: int, levels: int, points: int, *, fused: bool
) -> Kind | None:
    """How the work is laid out on threads; None if a query has more samples than a block can hold."""
    size = dtype.itemsize
    width = LOAD_BYTES // size
    while dim % width:
        width //= 2
    # A pair's threads lie in one warp; those beyond its channels idle.
    lanes = 1
    while lanes < min(dim // width, WARP):
        lanes *= 2
    sample_bytes = 48 if dtype is torch.float64 else 32
    threads = 256
    # Fewer pairs a block while their samples do not fit: first fewer warps, then more lanes a pair.
    while threads // lanes * levels * points * sample_bytes > SHARED_BYTES:
        if threads > WARP:
            threads //= 2
        elif lanes < WARP:
            lanes *= 2
        else:
            return None
    # 64 registers a thread; float64 takes two for each number.
    min_blocks = (512 if dtype is torch.float64 else 1024) // threads
    return Kind(
        dtype=DTYPES[dtype],
        heads=heads,
        dim=dim,
        levels=levels,
        points=points,
        fused=int(fused),
        width=width,
        lanes=lanes,
        threads=threads,
        min_blocks=min(min_blocks, 16),
    )


@dataclass(frozen=True)
class Build:
    """A compiled program: the machine code, and what the assembler says of its resources."""

    cubin: bytes
    log: str

    def spilled_bytes(self) -> dict[str, int]:
        """Per kernel, bytes of registers spilled to memory, stores and loads together."""
        spills = {}
        for name, stores, loads in re.findall(
            r"properties for (\w+)\s.*?(\d+) bytes spill stores, (\d+) bytes spill loads", self.log, re.S
        ):
            spills[name] = int(stores) + int(loads)
        return spills

    def registers(self) -> dict[str, int]:
        """Per kernel, registers of a thread."""
        return {
            name: int(count)
            for name, count in re.findall(r"properties for (\w+)\s.*?Used (\d+) registers", self.log, re.S)
        }


def compile_kind(kind: Kind, architecture: int) -> Build:
    """Compile for ``sm_<architecture>``; needs NVRTC but no GPU.

    Raises:
        KernelUnavailableError: NVRTC is missing, or does not know the architecture.
    """
    nvrtc = _nvrtc()
    source = (SOURCES / "gpu.cu").read_text(encoding="utf-8").encode()
    header = (SOURCES / "sample.h").read_text(encoding="utf-8").encode()
    options = [
        f"--gpu-architecture=sm_{architecture}",
        "--std=c++17",
        "--ptxas-options=-v",
        *kind.options(),
    ]
    program = _done(nvrtc.nvrtcCreateProgram(source, b"gpu.cu", 1, [header], [b"sample.h"]))
    try:
        outcome = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])[0]
        log = b" " * _done(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").rstrip("\0 \n")
        if int(outcome):
            first = next((line for line in text.splitlines() if "error" in line), outcome.name)
            raise KernelUnavailableError(
                f"NVRTC {nvrtc_version()} could not build for sm_{architecture}: {first}; "
                "a newer torch brings a newer NVRTC"
            )
        cubin = b" " * _done(nvrtc.nvrtcGetCUBINSize(program))
        _done(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Build(cubin, text)


def nvrtc_version() -> str:
    """NVRTC's version, e.g. ``13.2``.

    Raises:
        KernelUnavailableError: it is not installed.
    """
    return ".".join(map(str, _done_all(_nvrtc().nvrtcVersion())))


def check_available() -> None:
    """Check that a kernel could be compiled and launched here, without doing either.

    Raises:
        KernelUnavailableError: saying what is missing.
    """
    if not torch.cuda.is_available():
        raise KernelUnavailableError(
            "torch sees no NVIDIA GPU; see `nvidia-smi`, and install torch with CUDA"
        )
    nvrtc_version()
    _driver()


def prepare(kind: Kind, architecture: int) -> Path:
    """The cached machine code of a kind, compiled if it is missing.

    Raises:
        KernelUnavailableError: it cannot be compiled, or the cache cannot be written.
    """
    texts = [(SOURCES / name).read_text(encoding="utf-8") for name in ("gpu.cu", "sample.h")]
    key = digest(*texts, nvrtc_version(), *kind.options())
    return cached_file(
        f"sm_{architecture}-{key}.cubin",
        lambda target: _write(target, compile_kind(kind, architecture).cubin),
    )


def _write(target: Path, content: bytes) -> None:
    target.write_bytes(content)


@cache
def _functions(kind: Kind, architecture: int) -> dict[str, Any]:
    """The loaded kernels by name. A library belongs to no context: it serves all GPUs of its kind."""
    driver = _driver()
    code = prepare(kind, architecture).read_bytes()
    library = _done(driver.cuLibraryLoadData(code, [], [], 0, [], [], 0))
    return {
        name: _done(driver.cuLibraryGetKernel(library, name.encode()))
        for name in ("segmeter_forward", "segmeter_backward")
    }


class Problem(ctypes.Structure):
    """``Problem`` of csrc/gpu.cu, field by field."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("value", "shapes", "starts", "places", "weights", "reference"),
                *("grad_output", "output", "grad_value", "grad_places", "grad_weights"),
            )
        ),
        *((name, ctypes.c_longlong) for name in ("pairs", "queries", "tokens")),
        *((name, ctypes.c_int) for name in ("reference_batches", "reference_levels")),
    )


def kind_of(value: Tensor, places: Tensor, *, fused: bool) -> Kind | None:
    """The kind of one call; None where a query has too many samples."""
    return choose_kind(
        value.dtype, value.shape[2], value.shape[3], places.shape[3], places.shape[4], fused=fused
    )


def refusal(value: Tensor, places: Tensor, *, fused: bool) -> str:
    """Why this call cannot be served, or an empty string."""
    if kind_of(value, places, fused=fused) is None:
        samples = places.shape[3] * places.shape[4]
        return f"{samples} samples per query and head are more than a block of threads can hold"
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
    _launch(
        "segmeter_forward",
        (value, spatial_shapes, level_start_index, places, weights, reference_points),
        {"output": output},
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
    """Gradients of value, places and weights. Adds to the map in no fixed order.

    Raises:
        RuntimeError: torch is told to use deterministic algorithms only.
    """
    _tell_if_determinism_is_asked_for()
    # Sums over many queries are kept in float32 for half precisions, and rounded once.
    wide = torch.float64 if value.dtype is torch.float64 else torch.float32
    grad_value = torch.zeros(value.shape, dtype=wide, device=value.device)
    grad_places = torch.empty(places.shape, dtype=places.dtype, device=places.device)
    grad_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    _launch(
        "segmeter_backward",
        (value, spatial_shapes, level_start_index, places, weights, reference_points),
        {
            "grad_output": grad_output,
            "grad_value": grad_value,
            "grad_places": grad_places,
            "grad_weights": grad_weights,
        },
    )
    return grad_value.to(value.dtype), grad_places, grad_weights


def _tell_if_determinism_is_asked_for() -> None:
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the backward pass of segmeter's deformable attention on CUDA adds in no fixed order and is not "
        "deterministic; run it on the CPU, or call torch.use_deterministic_algorithms(..., warn_only=True)"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


def _launch(name: str, inputs: Sequence[Tensor | None], others: dict[str, Tensor]) -> None:
    names = ("value", "shapes", "starts", "places", "weights", "reference")
    given = dict(zip(names, inputs, strict=True)) | others
    # Held until the launch: the structure keeps addresses only.
    tensors = {name: _for_wide_loads(tensor) for name, tensor in given.items() if tensor is not None}
    value, places, reference = tensors["value"], tensors["places"], tensors.get("reference")
    kind = kind_of(value, places, fused=reference is not None)
    assert kind is not None, "refusal() sends such calls to the reference"
    problem = Problem(
        pairs=places.shape[0] * places.shape[1] * places.shape[2],
        queries=places.shape[1],
        tokens=value.shape[1],
        reference_batches=1 if reference is None else reference.shape[0],
        reference_levels=1 if reference is None else reference.shape[2],
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    driver = _driver()
    blocks = -(-problem.pairs // kind.pairs_per_block)
    major, minor = torch.cuda.get_device_capability(value.device)
    with torch.cuda.device(value.device):
        function = _done(driver.cuKernelGetFunction(_functions(kind, 10 * major + minor)[name]))
        stream = torch.cuda.current_stream(value.device).cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(problem))
        _done(
            driver.cuLaunchKernel(
                function, blocks, 1, 1, kind.threads, 1, 1, 0, stream, ctypes.addressof(arguments), 0
            )
        )


def _for_wide_loads(tensor: Tensor) -> Tensor:
    """The tensor contiguous and on a 16-byte boundary, which a view into another one may not be."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % LOAD_BYTES else tensor


@cache
def _nvrtc() -> Any:
    try:
        module = import_module("cuda.bindings.nvrtc")
        _done_all(module.nvrtcVersion())
    except (ImportError, OSError, RuntimeError) as error:
        # The last is what the bindings raise if they find no library.
        reason = " ".join(str(error).split())
        raise KernelUnavailableError(f"NVRTC cannot be loaded ({reason[:120]}); {INSTALL}") from None
    return module


@cache
def _driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ImportError as error:
        raise KernelUnavailableError(f"the CUDA driver cannot be called ({error}); {INSTALL}") from None


def _done_all(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of the bindings returned beside its status, which must be success."""
    status, *results = answer
    if int(status):
        raise RuntimeError(f"CUDA call failed: {status.name}")
    return tuple(results)


def _done(answer: tuple[Any, ...]) -> Any:
    results = _done_all(answer)
    return results[0] if results else None
