"""``segmeter`` told that there is a GPU, where there is none: ``python gpu_stand_in.py ARGUMENTS...``.

Tensors stay on the processor and events read its clock; everything that segmeter does around them is its own.
With :func:`build_nvml`'s folder in LD_LIBRARY_PATH the real pynvml calls a stand-in for NVML's library.
"""

import contextlib
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

MEBIBYTE = 2**20
# What CAPABILITY in the environment says, e.g. 7.5; a Hopper otherwise.
MAJOR, MINOR = (int(number) for number in os.environ.get("CAPABILITY", "9.0").split("."))
GPU = types.SimpleNamespace(
    name="Stand-in GPU",
    total_memory=2**37,
    multi_processor_count=132,
    major=MAJOR,
    minor=MINOR,
    uuid="01234567-89ab-cdef-0123-456789abcdef",
)


def build_nvml(folder: Path) -> dict[str, str]:
    """Build the stand-in for NVML's library, or skip; the environment in which a process finds it."""
    from segmeter.compiler import KernelUnavailableError, find_compiler

    if sys.platform != "linux":
        pytest.skip("NVML's library has another name there")
    try:
        compiler = find_compiler()
    except KernelUnavailableError as error:
        pytest.skip(str(error))
    library, source = folder / "libnvidia-ml.so.1", Path(__file__).with_name("nvml_stand_in.cpp")
    built = [compiler.path, "-std=c++17", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    return {**os.environ, "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


class Event:
    """As ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self, stream: Any = None) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return (end.seconds - self.seconds) * 1e3


class Stream:
    """As ``torch.cuda.Stream``."""

    cuda_stream = 0

    def wait_stream(self, other: "Stream") -> None:
        pass


def _staying(to: Any) -> Any:
    def moved(self: Any, *arguments: Any, **named: Any) -> Any:
        where = arguments[0] if arguments else None
        if isinstance(where, torch.device) and where.type == "cuda":
            return self
        return to(self, *arguments, **named)

    return moved


def install() -> None:
    """Put the stand-ins into torch, for the rest of this process."""

    def nothing(*_: Any) -> None:
        pass

    cuda: Any = torch.cuda
    for name, stand_in in {
        **{name: nothing for name in ("synchronize", "empty_cache", "reset_peak_memory_stats")},
        **{name: lambda *_: True for name in ("is_available", "is_initialized")},
        **{name: lambda *_: contextlib.nullcontext() for name in ("device", "stream", "graph")},
        **{"Event": Event, "Stream": Stream, "current_stream": lambda *_: Stream()},
        **{"current_device": lambda: 0, "is_current_stream_capturing": lambda: False},
        **{"memory_allocated": lambda *_: MEBIBYTE, "memory_reserved": lambda *_: 2 * MEBIBYTE},
        **{"max_memory_allocated": lambda *_: 5 * MEBIBYTE, "max_memory_reserved": lambda *_: 8 * MEBIBYTE},
        **{"get_device_properties": lambda *_: GPU, "get_device_name": lambda *_: GPU.name},
        **{"get_device_capability": lambda *_: (GPU.major, GPU.minor)},
        **{"CUDAGraph": lambda: types.SimpleNamespace(replay=nothing)},
    }.items():
        setattr(cuda, name, stand_in)
    torch.backends.cudnn.version = lambda: 91000  # type: ignore[method-assign]
    for kind in (torch.Tensor, torch.nn.Module):
        kind.to = _staying(kind.to)  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    install()
    import segmeter.harness.profiling.run
    from segmeter.commands.main import main
    from segmeter.harness.profiling.roofline import Peaks

    # Its products are sized for a GPU.
    segmeter.harness.profiling.run.measure_peaks = lambda *_: Peaks(tflops=60.0, gbytes_per_s=4000.0)
    sys.exit(main(sys.argv[1:]))
