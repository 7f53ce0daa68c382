"""Compiling the CUDA kernels: how a problem is laid out on threads, and NVRTC, which needs no GPU.

Torch's CUDA wheels bring NVRTC and ``cuda-bindings``, so that neither nvcc nor a host compiler nor CUDA's
headers are needed, and a build knows nothing of torch's binary interface. One build serves one problem
kind (dtype, heads, channels, levels, points) on one architecture: with these known the compiler unrolls the
loops over samples, and a build takes a fraction of a second.
"""

import re
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from segmeter.compiler import KernelUnavailableError, cached_file, digest, replaced_file

SOURCES = Path(__file__).parent / "csrc"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ITEM_BYTES = {number: dtype.itemsize for dtype, number in DTYPES.items()}
ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)
# NVRTC of CUDA 13 begins with the latter.
FIRST_OF_CUDA_13 = 75
LOAD_BYTES = 16  # the widest load of one thread
# What any GPU gives a block without being asked for more.
SHARED_BYTES = 48 * 1024
WARP = 32
# -v: the assembler reports registers and spills.
OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True, eq=False)
class Kind:
    """What a build is specialised on; the names are those of csrc/gpu.cu, in lower case.

    :func:`choose_kind` makes each one once: they are told apart as objects, quicker than number by number.
    """

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
    reduce: int

    @property
    def pairs_per_block(self) -> int:
        """Pairs of a query and a head that one block works on: a tile of queries, and one head."""
        return self.threads // self.lanes

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of the tile."""
        width = min(8, self.pairs_per_block)
        return self.pairs_per_block // width, width

    def shared_bytes(self) -> int:
        """The most shared memory that a block of either kernel takes, as csrc/gpu.cu lays it out."""
        wide = 8 if self.dtype == DTYPES[torch.float64] else 4
        samples = self.levels * self.points * (16 + 4 * wide)
        # Rows are odd multiples of 16 bytes.
        row = samples + (32 if samples // 16 % 2 else 16)
        pairs = self.pairs_per_block
        arrays = [12 * self.levels, 4 * pairs, pairs * row]
        if self.reduce:
            entries = 4 * pairs * self.levels * self.points
            buckets = 32
            while buckets < min(1024, entries / 2):
                buckets *= 2
            arrays += [4 * buckets, 2 * entries, pairs * self.dim * ITEM_BYTES[self.dtype]]
        if self.fused:
            arrays += [wide * pairs, wide * pairs]
        # The assembler puts them in an order of its own.
        return sum(-(-array // 16) * 16 for array in arrays)

    def options(self) -> list[str]:
        """The compiler's -D options."""
        names = [field.name.upper() for field in fields(self)]
        return [f"-D{name}={value}" for name, value in zip(names, astuple(self), strict=True)]


@cache
def choose_kind(
    dtype: torch.dtype, heads: int, dim: int, levels: int, points: int, *, fused: bool
) -> Kind | None:
    """How the work is laid out on threads; None if a pair has more samples or levels than a block holds."""
    width = LOAD_BYTES // dtype.itemsize
    while dim % width:
        width //= 2
    # A pair's threads lie in one warp; those beyond its channels idle.
    lanes = 1
    while lanes < min(dim // width, WARP):
        lanes *= 2
    # Fewer pairs a block while their samples do not fit: first fewer warps, then more lanes a pair.
    threads = 256
    reduce = True
    while True:
        # 64 registers a thread; float64 takes two for each number.
        min_blocks = min((512 if dtype is torch.float64 else 1024) // threads, 16)
        kind = Kind(
            dtype=DTYPES[dtype],
            heads=heads,
            dim=dim,
            levels=levels,
            points=points,
            fused=int(fused),
            width=width,
            lanes=lanes,
            threads=threads,
            min_blocks=min_blocks,
            reduce=int(reduce),
        )
        if kind.shared_bytes() <= SHARED_BYTES:
            return kind
        if reduce:
            reduce = False
        elif threads > WARP:
            threads //= 2
        elif lanes < WARP:
            lanes *= 2
        else:
            return None


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

    def shared_bytes(self) -> dict[str, int]:
        """Per kernel, shared memory of a block."""
        return {
            name: int(size)
            for name, size in re.findall(r"properties for (\w+)\s.*?(\d+) bytes smem", self.log, re.S)
        }

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
    options = [f"--gpu-architecture=sm_{architecture}", *OPTIONS, *kind.options()]
    program = checked(nvrtc.nvrtcCreateProgram(source, b"gpu.cu", 1, [header], [b"sample.h"]))
    try:
        outcome = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])[0]
        log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").rstrip("\0 \n")
        if int(outcome):
            first = next((line for line in text.splitlines() if "error" in line), outcome.name)
            hint = "a newer torch brings a newer NVRTC"
            if architecture < FIRST_OF_CUDA_13:
                hint = "NVRTC of CUDA 12, which a torch for CUDA 12 brings, is the last that does"
            raise KernelUnavailableError(
                f"NVRTC {nvrtc_version()} could not build for sm_{architecture}: {first}; {hint}"
            )
        cubin = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
        checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Build(cubin, text)


def nvrtc_version() -> str:
    """NVRTC's version, e.g. ``13.2``.

    Raises:
        KernelUnavailableError: it is not installed.
    """
    return ".".join(map(str, checked_all(_nvrtc().nvrtcVersion())))


def install_hint() -> str:
    """What to install so that kernels can be compiled, for the CUDA version of this torch."""
    major = (torch.version.cuda or "").partition(".")[0]
    if not major:
        return "install a torch with CUDA: see pytorch.org"
    nvrtc = "nvidia-cuda-nvrtc-cu12" if major == "12" else f"nvidia-cuda-nvrtc=={major}.*"
    return f"pip install 'cuda-bindings=={major}.*' '{nvrtc}'"


def prepare(kind: Kind, architecture: int) -> Path:
    """The cached machine code of a kind, compiled if it is missing.

    Raises:
        KernelUnavailableError: it cannot be compiled, or the cache cannot be written.
    """
    return cached_file(
        _name(kind, architecture), lambda target: _write(target, compile_kind(kind, architecture).cubin)
    )


def mend(kind: Kind, architecture: int) -> bytes | None:
    """The machine code of a kind, compiled anew and kept; None if what the cache holds is just that.

    Raises:
        KernelUnavailableError: as :func:`prepare`; what the cache holds then stays.
    """
    cubin = compile_kind(kind, architecture).cubin
    if prepare(kind, architecture).read_bytes() == cubin:
        return None
    replaced_file(_name(kind, architecture), lambda target: _write(target, cubin))
    return cubin


def _name(kind: Kind, architecture: int) -> str:
    texts = [(SOURCES / name).read_text(encoding="utf-8") for name in ("gpu.cu", "sample.h")]
    return f"sm_{architecture}-{digest(*texts, nvrtc_version(), *OPTIONS, *kind.options())}.cubin"


def _write(target: Path, content: bytes) -> None:
    target.write_bytes(content)


@cache
def _nvrtc() -> Any:
    try:
        module = import_module("cuda.bindings.nvrtc")
        checked_all(module.nvrtcVersion())
    except (ImportError, OSError, RuntimeError) as error:
        # The last is what the bindings raise if they find no library.
        reason = " ".join(str(error).split())
        raise KernelUnavailableError(f"NVRTC cannot be loaded ({reason[:120]}); {install_hint()}") from None
    return module


class CudaError(RuntimeError):
    """A call of CUDA's libraries failed; ``status`` is their name for it, e.g. CUDA_ERROR_OUT_OF_MEMORY."""

    def __init__(self, status: str) -> None:
        super().__init__(f"CUDA call failed: {status}")
        self.status = status


def checked_all(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of the bindings returned beside its status, which must be success."""
    status, *results = answer
    if int(status):
        raise CudaError(status.name)
    return tuple(results)


def checked(answer: tuple[Any, ...]) -> Any:
    """As :func:`checked_all`, of a call with one result or none."""
    results = checked_all(answer)
    return results[0] if results else None
