"""Where a measurement ran: hardware, driver, software, op implementation, revision, load."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from segmeter.harness.machine.watch import cpu_mhz, cpu_temperature

ROOT = Path(__file__).parents[2]
# What changes how memory is taken from the system, and with it a CPU's times.
ALLOCATOR_VARIABLES = (
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
    "THP_MEM_ALLOC_ENABLE",
)
PACKAGES = ("segmeter", "torch", "torchvision", "timm", "numpy", "nvidia-ml-py", "triton")


def read_environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a measurement; unknown things are None."""
    found: dict[str, Any] = {
        "device": device.type,
        "device_name": device_name(device),
        "cpu": {"name": cpu_name(), "cores": os.cpu_count(), "usable_cores": _usable_cores()},
        "memory_bytes": _memory("MemTotal"),
        "memory_free_bytes": _memory("MemAvailable"),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "op_implementation": op_implementation(device, dtype),
        "git": git_state(ROOT),
        "threads": torch.get_num_threads(),
        "settings": {
            "matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "mkldnn": torch.backends.mkldnn.is_available(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "allocator": {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ},
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "clocks": {"cpu_mhz": cpu_mhz(), "cpu_temperature_c": cpu_temperature()},
    }
    if device.type == "cuda":
        from segmeter.harness.machine.energy import gpu_state

        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        state = gpu_state(device)
        found["gpu"]["driver"] = state.pop("driver", None)
        found["clocks"].update(state)
    return found


def device_name(device: torch.device) -> str:
    """The processor's or GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def op_implementation(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Which implementation of the deformable sampling runs, and why."""
    from segmeter.cuda_ops import implementation_for

    found = implementation_for(device, dtype)
    return {"name": found.name, "reason": found.reason}


def git_state(root: Path) -> dict[str, Any]:
    """Revision of segmeter's own files and whether they differ from it; None outside a repository."""
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return {"revision": None, "dirty": None}
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory(field: str) -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
