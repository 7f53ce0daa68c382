"""The CUDA kernels of :mod:`cuda_ops.cuda_build`, launched through the driver on torch's current stream."""

import ctypes
import warnings
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from segmeter.compiler import KernelUnavailableError, Reasons
from segmeter.cuda_ops.cuda_build import (
    ARCHITECTURES,
    CudaError,
    Kind,
    checked,
    choose_kind,
    install_hint,
    mend,
    nvrtc_version,
    prepare,
)
from segmeter.cuda_ops.cuda_plan import Plan, for_wide_loads, kind_of, plan, refusal_of_size
from segmeter.plain import one_line

# What the driver says of a file that is no code for this GPU; anything else is no fault of the file.
DAMAGED = frozenset(
    f"CUDA_ERROR_{what}"
    for what in ("INVALID_IMAGE", "INVALID_SOURCE", "NO_BINARY_FOR_GPU", "INVALID_PTX", "FILE_NOT_FOUND")
)
_missing = Reasons()


def check_available(device_index: int) -> None:
    """Check that kernels can be compiled and loaded for a GPU, by building M2F's.

    Raises:
        KernelUnavailableError: saying what is missing.
    """
    if not torch.cuda.is_available():
        raise KernelUnavailableError(
            "torch sees no NVIDIA GPU; see `nvidia-smi`, and install torch with CUDA"
        )
    nvrtc_version()
    _driver()
    kind = choose_kind(torch.float32, 8, 32, 3, 4, fused=True)
    assert kind is not None, "the encoders' shapes fit a block"
    _kernels(kind, _architecture(device_index))


@cache
def _kernels(kind: Kind, architecture: int) -> dict[str, Any]:
    """The loaded kernels by name. A library belongs to no context: it serves all GPUs of its kind."""
    driver = _driver()
    if architecture < ARCHITECTURES[0]:
        raise KernelUnavailableError(
            f"this GPU is sm_{architecture}; the kernels need sm_{ARCHITECTURES[0]} or later"
        )
    code = prepare(kind, architecture).read_bytes()
    try:
        library = _load(code)
    except CudaError as error:
        if error.status not in DAMAGED:
            # Memory, or a GPU that another program broke: nothing is known against the file.
            raise KernelUnavailableError(
                f"the driver cannot load a kernel now ({error.status})", passing=True
            ) from None
        library = _mended(kind, architecture, error)
    return {
        name: checked(driver.cuLibraryGetKernel(library, name.encode()))
        for name in ("segmeter_forward", "segmeter_backward")
    }


def _load(code: bytes) -> Any:
    driver = _driver()
    try:
        found = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
    except (ImportError, OSError, RuntimeError) as error:
        # The bindings look for the driver's library with the first call.
        raise KernelUnavailableError(f"no NVIDIA driver can be loaded: {one_line(error)}") from None
    return checked(found)


def _mended(kind: Kind, architecture: int, error: CudaError) -> Any:
    """The library of a build that the driver does not take: after a full disk, say, it is built anew."""
    code = mend(kind, architecture)
    try:
        if code is not None:
            return _load(code)
    except CudaError as again:
        error = again
    raise KernelUnavailableError(
        f"the driver does not load what NVRTC {nvrtc_version()} built ({error}); "
        "a driver as new as torch's CUDA version would",
        passing=error.status not in DAMAGED,
    )


@cache
def _architecture(device_index: int) -> int:
    major, minor = torch.cuda.get_device_capability(device_index)
    return 10 * major + minor


def refusal(value: Tensor, places: Tensor, *, fused: bool) -> str:
    """Why this call cannot be served, or an empty string. Builds and loads the kernels of its kind."""
    kind = kind_of(value, places, fused=fused)
    reason = refusal_of_size(places, kind)
    if reason or kind is None:
        return reason
    architecture = _architecture(value.device.index)
    return _missing.of((kind, architecture), lambda: _kernels(kind, architecture))


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
    inputs = (value, spatial_shapes, level_start_index, places, weights, reference_points)
    _launch("segmeter_forward", plan(inputs, {"output": output}), value.device)
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
    inputs = (value, spatial_shapes, level_start_index, places, weights, reference_points)
    results = {
        "grad_output": for_wide_loads(grad_output),
        "grad_value": grad_value,
        "grad_places": grad_places,
        "grad_weights": grad_weights,
    }
    _launch("segmeter_backward", plan(inputs, results), value.device)
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


def _launch(name: str, launch: Plan, device: torch.device) -> None:
    driver = _driver()
    with torch.cuda.device(device):
        _ensure_context(device.index)
        kernels = _kernels(launch.kind, _architecture(device.index))
        function = checked(driver.cuKernelGetFunction(kernels[name]))
        stream = torch.cuda.current_stream(device).cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(launch.problem))
        threads = launch.kind.threads
        checked(
            driver.cuLaunchKernel(
                *(function, *launch.grid, threads, 1, 1, 0, stream),
                *(ctypes.addressof(arguments), 0),
            )
        )


def _ensure_context(device_index: int) -> None:
    """Make torch's context current: in a thread that has called nothing of CUDA's runtime, none is."""
    driver = _driver()
    if int(checked(driver.cuCtxGetCurrent())):
        return
    device = checked(driver.cuDeviceGet(device_index))
    checked(driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(device))))


@cache
def _driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ImportError as error:
        raise KernelUnavailableError(
            f"the CUDA driver cannot be called ({error}); {install_hint()}"
        ) from None
