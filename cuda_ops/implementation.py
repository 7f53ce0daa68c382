"""Which implementation of the op runs for a device and a dtype, and why; and how to force the reference."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from segmeter.compiler import Reasons
from segmeter.cuda_ops import cpu_kernel, cuda_kernel

ASKED = "asked for by SEGMETER_OP or use_implementation"
CHOICES = ("auto", "reference")
NAMES = {"cpu": "cpu-kernel", "cuda": "cuda-kernel"}
_missing = Reasons()
_KERNELS: dict[str, ModuleType] = {"cpu": cpu_kernel, "cuda": cuda_kernel}
_forced: ContextVar[str | None] = ContextVar("segmeter_op", default=None)


@dataclass(frozen=True)
class Implementation:
    """What runs.

    Attributes:
        name: ``cpu-kernel``, ``cuda-kernel`` or ``reference``.
        reason: one line; for the reference it says what is missing and what to install.
    """

    name: str
    reason: str


@contextmanager
def use_implementation(choice: str) -> Iterator[None]:
    """Within this context the op runs as ``auto`` (compiled where it can be) or ``reference``.

    It wins over the environment variable ``SEGMETER_OP``, which takes the same two words. A backward pass
    takes what held in its forward pass.

    Raises:
        ValueError: another word.
    """
    _check(choice, "the implementation")
    token = _forced.set(choice)
    try:
        yield
    finally:
        _forced.reset(token)


def current_choice() -> str:
    """``auto`` or ``reference``: what holds here and now.

    Raises:
        ValueError: ``SEGMETER_OP`` holds something else.
    """
    chosen = _forced.get() or os.environ.get("SEGMETER_OP") or "auto"
    _check(chosen, "SEGMETER_OP")
    return chosen


def implementation_for(device: torch.device | str, dtype: torch.dtype) -> Implementation:
    """What runs for tensors of this device and dtype; builds the CPU kernel if it is not there yet.

    Raises:
        ValueError: ``SEGMETER_OP`` holds something else than ``auto`` or ``reference``.
    """
    kind = torch.device(device).type
    reason = _why_reference(torch.device(device), dtype)
    if reason:
        return Implementation("reference", reason)
    return Implementation(NAMES[kind], f"compiled for this {'processor' if kind == 'cpu' else 'GPU'}")


def kernel_for(value: Tensor, places: Tensor, *, fused: bool = False) -> ModuleType | None:
    """The module with the compiled ``forward`` and ``backward`` for a call, or None for the reference.

    Says once on stderr why the reference runs where nobody asked for it.
    """
    kind = value.device.type
    reason = _why_reference(value.device, value.dtype)
    if not reason:
        reason = _KERNELS[kind].refusal(value, places, fused=fused)
        if not reason:
            return _KERNELS[kind]
    if reason != ASKED:
        notice(kind, reason)
    return None


@cache
def notice(kind: str, reason: str) -> None:
    """One line on stderr, once for each device type and reason."""
    sys.stderr.write(f"segmeter: deformable attention on {kind} runs the slow reference: {reason}\n")


def _why_reference(device: torch.device, dtype: torch.dtype) -> str:
    if current_choice() == "reference":
        return ASKED
    if device.type not in _KERNELS:
        return f"there is no compiled kernel for device {device.type}"
    if dtype not in cpu_kernel.DTYPES:
        return f"there is no compiled kernel for {dtype}"
    return _why_missing(device)


def _why_missing(device: torch.device) -> str:
    if device.type == "cpu":
        return _missing.of("cpu", cpu_kernel.library)
    # Two GPUs of one machine may be of different ages.
    index = device.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    return _missing.of(index, lambda: cuda_kernel.check_available(index))


def _check(choice: str, what: str) -> None:
    if choice not in CHOICES:
        raise ValueError(f"{what} must be auto or reference, got {choice!r}")
