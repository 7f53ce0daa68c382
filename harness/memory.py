"""Peak memory of one call: allocated and reserved on CUDA, resident set over the start on a CPU."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

SAMPLE_SECONDS = 0.002


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def peak_memory(call: Callable[[], object], device: torch.device) -> tuple[dict[str, float | None], str]:
    """Bytes at the peak of one call, and how they were taken.

    Returns:
        CUDA: ``peak_allocated_bytes``, ``peak_reserved_bytes`` (weights included). CPU:
        ``peak_rss_over_start_bytes``, ``start_rss_bytes``. What the system does not give is None.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return {
            "peak_allocated_bytes": float(torch.cuda.max_memory_allocated(device)),
            "peak_reserved_bytes": float(torch.cuda.max_memory_reserved(device)),
        }, "torch's caching allocator, peak of one call after emptying the cache"
    _give_back()
    start = _rss("VmRSS")
    if start is None:
        return {"peak_rss_over_start_bytes": None, "start_rss_bytes": None}, "no /proc/self/status here"
    if _reset_peak():
        call()
        peak, how = _rss("VmHWM"), "the kernel's high-water mark, reset before the call"
    else:
        with _sampled_peak() as sampled:
            call()
        peak, how = max(sampled), f"resident set sampled every {SAMPLE_SECONDS * 1e3:.0f} ms"
    over = None if peak is None else float(max(0, peak - start))
    return {"peak_rss_over_start_bytes": over, "start_rss_bytes": float(start)}, how


def _rss(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _give_back() -> None:
    """Hand freed memory back to the system (glibc), so that earlier calls do not hide this one's peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def _sampled_peak() -> Iterator[list[int]]:
    seen = [_rss("VmRSS") or 0]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            seen.append(_rss("VmRSS") or 0)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
