"""Peak memory of one call: allocated and reserved on CUDA, resident set over the start on a CPU."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
SAMPLE_SECONDS = 0.002


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def peak_memory(
    call: Callable[[], object], device: torch.device, weights: int = 0
) -> tuple[dict[str, float | None], str]:
    """Bytes at the peak of one call, and how they were taken.

    Args:
        call: one forward pass.
        device: where it runs.
        weights: bytes of the model's own parameters. On CUDA other models may lie beside it; their bytes
            are taken out and its own put in.

    Returns:
        CUDA: ``peak_allocated_bytes`` and ``peak_reserved_bytes``, weights included, and both as
        ``..._over_start_bytes``. CPU: ``peak_rss_over_start_bytes``, ``start_rss_bytes``. What the system
        does not give is None.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
        }
        call()
        torch.cuda.synchronize(device)
        peaks = {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
        }
        figures: dict[str, float | None] = {}
        for kind, bytes_ in peaks.items():
            figures[f"peak_{kind}_bytes"] = float(bytes_ - before[kind] + weights)
            figures[f"peak_{kind}_over_start_bytes"] = float(bytes_ - before[kind])
        return figures, "torch's caching allocator, peak of one call after emptying the cache"
    give_back()
    start = resident_bytes("VmRSS")
    if start is None:
        return {"peak_rss_over_start_bytes": None, "start_rss_bytes": None}, "no /proc/self/status here"
    if reset_peak():
        call()
        peak, how = resident_bytes("VmHWM"), "the kernel's high-water mark, reset before the call"
    else:
        with _sampled_peak() as sampled:
            call()
        peak, how = max(sampled), f"resident set sampled every {SAMPLE_SECONDS * 1e3:.0f} ms"
    over = None if peak is None else float(max(0, peak - start))
    return {"peak_rss_over_start_bytes": over, "start_rss_bytes": float(start)}, how


# What torch's CPU allocator, C++ and cuBLAS say; none of them has a class of its own for it.
SHORT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory is short."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT_OF_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def resident_bytes(field: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (the peak) of this process; None where there is no /proc."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def give_back() -> None:
    """Hand freed memory back to the system (glibc), so that earlier calls do not hide this one's peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


# The setting is the process's, and glibc cannot be asked for it.
_keeping = False


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of handing it back to the system, for the rest of this process.

    By default every large tensor of a forward pass is memory new from the system, whose pages the kernel must
    clear and map one by one, each call anew.

    Returns:
        False where the C library is not glibc.
    """
    # malloc.h's numbers; a threshold of -1 means never.
    trim_threshold, mmap_max = -1, -4
    try:
        options = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    global _keeping
    _keeping = bool(options(trim_threshold, -1)) and bool(options(mmap_max, 0))
    return _keeping


def keeps_freed_memory() -> bool:
    """Whether :func:`keep_freed_memory` was called in this process, for whatever measurement."""
    return _keeping


def lasting(make: Callable[[], T]) -> T:
    """What ``make`` returns; where freed memory is kept, allocated apart from what calls take for a while.

    Weights and Python objects that stay would part the memory that is kept, so that the next calls' largest
    tensors fit in no hole and the process grows with every copy of a model. glibc gives each thread memory
    of its own, so they are made in another one.
    """
    if not _keeping:
        return make()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(make).result()


def reset_peak() -> bool:
    """Set the peak back to what is resident now; False where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def _sampled_peak() -> Iterator[list[int]]:
    seen = [resident_bytes("VmRSS") or 0]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            seen.append(resident_bytes("VmRSS") or 0)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
