"""Energy and state of an NVIDIA GPU by NVML: the total-energy counter, else sampled power.

The counter (Volta and later) ticks about every 100 ms, so a window of some seconds is read over a loop of
calls; a reading of zero is an error, never 0 J (Zeus, ml-energy/zeus). Power sampling sees only a part of
the time on some GPUs (Yang et al., arXiv 2312.02741), so the record says which of the two was used.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

WINDOW_SECONDS = 5.0
SAMPLE_SECONDS = 0.05
# Names of NVML's clock event reasons, by bit (nvml.h, nvmlClocksEventReason...).
THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "clocks set by the user",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


class EnergyUnavailable(Exception):
    """No energy can be read here; the reason on one line."""


@dataclass(frozen=True)
class Energy:
    """Energy of a loop of calls.

    Attributes:
        joules_per_call: of the whole GPU, its idle power included.
        watts: mean over the window.
        seconds: length of the window.
        calls: calls in it.
        method: ``total-energy counter`` or ``sampled power``.
    """

    joules_per_call: float
    watts: float
    seconds: float
    calls: int
    method: str


def nvml_handle(device: torch.device) -> tuple[Any, Any]:
    """NVML and the handle of a torch device, found by its UUID so that hidden devices do not matter.

    Raises:
        EnergyUnavailable: not a GPU, no NVML, or no permission.
    """
    if device.type != "cuda":
        raise EnergyUnavailable(f"energy is read by NVML from an NVIDIA GPU; the device is {device.type}")
    try:
        import pynvml
    except ImportError:
        raise EnergyUnavailable("NVML's Python package is missing: pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
    except pynvml.NVMLError as error:
        raise EnergyUnavailable(f"NVML refuses: {error}") from None


def measure_energy(
    call: Callable[[], object], device: torch.device, seconds: float = WINDOW_SECONDS
) -> Energy:
    """Loop ``call`` for at least ``seconds`` and read what the GPU used.

    Raises:
        EnergyUnavailable: why nothing can be read, a counter that stands still included.
    """
    nvml, handle = nvml_handle(device)
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return _sampled(call, device, seconds, nvml, handle)
    torch.cuda.synchronize(device)
    try:
        before, start = nvml.nvmlDeviceGetTotalEnergyConsumption(handle), time.monotonic()
        calls = _loop(call, device, start + seconds)
        joules = (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3
    except nvml.NVMLError as error:
        raise EnergyUnavailable(f"NVML refuses: {error}") from None
    elapsed = time.monotonic() - start
    if joules <= 0:
        raise EnergyUnavailable(f"the energy counter did not move in {elapsed:.1f} s")
    return Energy(joules / calls, joules / elapsed, elapsed, calls, "total-energy counter")


def _sampled(
    call: Callable[[], object], device: torch.device, seconds: float, nvml: Any, handle: Any
) -> Energy:
    samples: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            try:
                samples.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
            except nvml.NVMLError:
                return
            stop.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    start = time.monotonic()
    thread.start()
    try:
        calls = _loop(call, device, start + seconds)
    finally:
        stop.set()
        thread.join()
    elapsed = time.monotonic() - start
    if not samples or not any(samples):
        raise EnergyUnavailable("this GPU reports neither total energy nor power")
    watts = sum(samples) / len(samples)
    return Energy(watts * elapsed / calls, watts, elapsed, calls, "sampled power")


def _loop(call: Callable[[], object], device: torch.device, end: float) -> int:
    calls = 0
    while calls == 0 or time.monotonic() < end:
        call()
        # A queue of launched but unfinished calls would run on after the window.
        torch.cuda.synchronize(device)
        calls += 1
    return calls


def gpu_state(device: torch.device) -> dict[str, Any]:
    """Clocks, temperature, power, throttle reasons and other processes; what is denied is left out."""
    try:
        nvml, handle = nvml_handle(device)
    except EnergyUnavailable as error:
        return {"unavailable": str(error)}
    readings: dict[str, Callable[[], Any]] = {
        "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "sm_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "throttle_reasons": lambda: throttle_names(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "other_processes": lambda: other_processes(
            [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)],
            os.getpid(),
            computing=torch.cuda.is_initialized(),
        ),
    }
    state: dict[str, Any] = {}
    for name, read in readings.items():
        try:
            state[name] = read()
        except nvml.NVMLError:
            continue
    return state


def other_processes(pids: list[int], own: int, *, computing: bool) -> int:
    """How many of NVML's processes are not this one.

    Inside a container NVML may give the numbers of the system outside, among which one's own is unknown: a
    process that computes on the GPU is one of those listed all the same.

    >>> other_processes([7, 8], own=7, computing=True), other_processes([4101], own=7, computing=True)
    (1, 0)
    """
    others = [pid for pid in pids if pid != own]
    unknown = computing and len(others) == len(pids) > 0
    return len(others) - unknown


def throttle_names(bits: int) -> list[str]:
    """Names of the reasons that are set, "idle" left out.

    >>> throttle_names(0x4 | 0x20)
    ['power cap', 'software thermal slowdown']
    """
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit and bit != 0x1]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
