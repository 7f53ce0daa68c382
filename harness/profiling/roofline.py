"""Achieved TFLOP/s, the machine's measured peaks, and which of the two peaks bounds a component.

Roofline model: Williams, Waterman and Patterson, CACM 2009. Traffic is what the operators read and write,
each tensor once per operator and nothing fused: an upper bound on traffic, so a lower bound on intensity.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from segmeter.harness.counting import apply_convention, run_and_count
from segmeter.harness.models import DispatchMode, component_finder, named_parts, run_plainly

# Tries of a product or a copy: at least three, and more while the time lasts.
TRIES, TRY_SECONDS = (3, 30), 0.3


@dataclass(frozen=True)
class Work:
    """FLOPs, bytes moved and bytes of new activations of one component, for one call."""

    flops: float
    traffic_bytes: float
    activation_bytes: float

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte moved."""
        return self.flops / self.traffic_bytes if self.traffic_bytes else None


@dataclass(frozen=True)
class Peaks:
    """What the machine reached, with the threads and dtype of the measurement."""

    tflops: float
    gbytes_per_s: float

    def best(self, other: "Peaks") -> "Peaks":
        """The higher of each of two measurements."""
        return Peaks(max(self.tflops, other.tflops), max(self.gbytes_per_s, other.gbytes_per_s))

    @property
    def ridge(self) -> float:
        """Intensity, in FLOPs per byte, where the two roofs meet."""
        return self.tflops * 1e3 / self.gbytes_per_s

    def bound(self, intensity: float) -> str:
        """``compute`` or ``memory``."""
        return "compute" if intensity >= self.ridge else "memory"


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Best of a matrix product and two convolutions, and of a copy larger than the caches; some tries each.

    A convolution is another library's product: on a CPU the 3x3 one, with channels last, may reach more
    than twice the rate of a matrix product (MKL on AMD), and on a GPU convolutions may use TF32 where float32
    matrix products may not. An algorithm that saves multiplications (Winograd) counts with those it saves.
    """
    side, wide, channels, copied = (
        (8192, 4096, 512, 2**28) if device.type == "cuda" else (2048, 1024, 128, 2**25)
    )
    a = torch.randn(side, side, device=device).to(dtype)
    pixels = torch.randn(1, wide, 64, 64, device=device).to(dtype)
    pointwise = torch.randn(wide, wide, 1, 1, device=device).to(dtype)
    image = torch.randn(1, channels, 128, 256, device=device).to(dtype, memory_format=torch.channels_last)
    square = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    source = torch.empty(copied, device=device, dtype=torch.float32).fill_(1)
    target = torch.empty_like(source)
    rate = max(
        2 * side**3 / _best_seconds(lambda: a @ a, device),
        2 * wide**2 * 64 * 64 / _best_seconds(lambda: F.conv2d(pixels, pointwise), device),
        2 * 9 * channels**2 * 128 * 256 / _best_seconds(lambda: F.conv2d(image, square, padding=1), device),
    )
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Peaks(rate / 1e12, 2 * 4 * copied / copy / 1e9)


def _best_seconds(call: Any, device: torch.device) -> float:
    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    fewest, most = TRIES
    end = time.perf_counter() + TRY_SECONDS
    seconds = [once() for _ in range(fewest)]
    while len(seconds) < most and time.perf_counter() < end:
        seconds.append(once())
    return min(seconds)


def component_work(
    model: nn.Module, image_shape: tuple[int, ...], element_size: int, depth: int
) -> dict[str, Work]:
    """Work of each component of a model on the meta device; the sum over components is the model's.

    Args:
        model: on the meta device.
        image_shape: (B, 3, H, W).
        element_size: bytes of the measured dtype; floating-point traffic of float32 is scaled by it.
        depth: names of a component to keep.
    """
    find = component_finder(model)
    with torch.inference_mode(False):
        images = torch.empty(image_shape, device="meta")

    def short(component: str) -> str:
        return ".".join(component.split(".")[:depth]) or "other"

    # Inference mode hands whole layers to the counters; without it they see the operators inside.
    with torch.inference_mode(False):
        _, count = run_and_count(model, images)
    flops: dict[str, float] = defaultdict(float)
    for component, units in apply_convention(count, find, "flops").by_component.items():
        flops[short(component)] += units
    traffic = _Traffic(element_size)
    with torch.inference_mode(False), torch.no_grad(), traffic, _paths(model, traffic):
        model(images)
    moved: dict[str, float] = defaultdict(float)
    written: dict[str, float] = defaultdict(float)
    for path, (all_bytes, new_bytes) in traffic.bytes.items():
        moved[short(find(path))] += all_bytes
        written[short(find(path))] += new_bytes
    return {name: Work(flops[name], moved[name], written[name]) for name in sorted({*flops, *moved})}


class _Traffic(DispatchMode):
    """Bytes that the running module's operators read and write."""

    def __init__(self, element_size: int) -> None:
        super().__init__()
        self.path = [""]
        self.element_size = element_size
        self.bytes: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = run_plainly(func, args, kwargs or {})
        if not func.is_view:
            read = sum(self._size(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            written = sum(self._size(t) for t in tree_leaves(out) if isinstance(t, Tensor))
            total = self.bytes[self.path[-1]]
            total[0] += read + written
            total[1] += written
        return out

    def _size(self, tensor: Tensor) -> int:
        size = self.element_size if tensor.dtype == torch.float32 else tensor.element_size()
        return tensor.numel() * size


@contextmanager
def _paths(model: nn.Module, traffic: _Traffic) -> Iterator[None]:
    names = {id(module): name for name, module in named_parts(model)}

    def enter(module: nn.Module, inputs: Any) -> None:
        traffic.path.append(names.get(id(module), traffic.path[-1]))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        traffic.path.pop()

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
