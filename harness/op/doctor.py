"""What runs on this machine and, where it is not the compiled op, why; and building the op ahead of use."""

import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from segmeter.compiler import KernelUnavailableError, cache_folder, find_compiler
from segmeter.cuda_ops import cpu_kernel, cuda_build, implementation_for
from segmeter.harness.op.libraries import drop_ins, library_rows

SCHEMA = "segmeter.doctor/1"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What the encoders ask for: 8 heads of 32 channels, 4 points, 1 to 4 levels (PRO-SCALE's stages, M2F,
# Lite-M2F).
HEADS, HEAD_DIM, POINTS, LEVELS = 8, 32, 4, (1, 2, 3, 4)
ARCHITECTURES = cuda_build.ARCHITECTURES
HOT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def diagnose() -> dict[str, Any]:
    """A record of schema ``segmeter.doctor/1``: versions, tools, implementations, what they speed up."""
    return {
        "schema": SCHEMA,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cache": str(cache_folder()),
        "compiler": _or_reason(lambda: find_compiler().version),
        "nvrtc": _or_reason(cuda_build.nvrtc_version),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "implementations": [
            {
                "device": device,
                "dtype": str(dtype).removeprefix("torch."),
                "name": chosen.name,
                "reason": chosen.reason,
            }
            for device in ("cpu", "cuda")
            for dtype in DTYPES
            for chosen in [implementation_for(device, dtype)]
        ],
        "libraries": library_rows(),
        "drop_ins": drop_ins(),
    }


def architectures_at_hand() -> list[int]:
    """Architectures of the GPUs of this machine, e.g. ``[90]``."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return sorted(10 * major + minor for major, minor in found)


def build_ahead(architectures: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Build the CPU kernel, and the encoders' CUDA kernels for these architectures or the GPUs at hand.

    Returns:
        One dict for each build: ``what``, ``ok``, ``seconds`` and ``detail`` (where it lies, or why not).

    Raises:
        ValueError: an architecture that the kernels are not made for.
    """
    for architecture in architectures:
        if architecture not in ARCHITECTURES:
            known = ", ".join(map(str, ARCHITECTURES))
            raise ValueError(f"unknown architecture {architecture}: expected one of {known}")
    rows = [_built("CPU kernel", lambda: cpu_kernel.library()._name)]
    for architecture in architectures or architectures_at_hand():
        rows.append(_built(f"CUDA kernels for sm_{architecture}", partial(_build_cuda, architecture)))
    return rows


def _build_cuda(architecture: int) -> str:
    folder = ""
    for dtype in HOT_DTYPES:
        for levels in LEVELS:
            for fused in (False, True):
                kind = cuda_build.choose_kind(dtype, HEADS, HEAD_DIM, levels, POINTS, fused=fused)
                assert kind is not None, "the encoders' shapes fit a block"
                folder = str(cuda_build.prepare(kind, architecture).parent)
    return folder


def _built(what: str, build: Callable[[], str]) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        detail, ok = build(), True
    except KernelUnavailableError as error:
        detail, ok = str(error), False
    return {"what": what, "ok": ok, "seconds": time.perf_counter() - begin, "detail": detail}


def _gpu(index: int) -> dict[str, Any]:
    major, minor = torch.cuda.get_device_capability(index)
    return {"name": torch.cuda.get_device_name(index), "architecture": 10 * major + minor}


def _or_reason(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except KernelUnavailableError as error:
        return f"none: {error}"
