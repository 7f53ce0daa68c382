"""Peak arithmetic of devices, dense, as their makers state it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A device: what it is called in tables, TFLOP/s by precision, whose statement that is."""

    name: str
    called: str
    peaks: dict[str, float]
    source: str


DEVICES = (
    Device("P100", r"p100", {"float32": 10.6, "float16": 21.2}, "NVIDIA, Tesla P100 data sheet (SXM2)"),
    Device("GTX 1080 Ti", r"1080 ?ti", {"float32": 11.3}, "NVIDIA, GeForce GTX 1080 Ti specifications"),
    Device("V100", r"v100", {"float32": 15.7, "float16": 125}, "NVIDIA, V100 data sheet (SXM2)"),
    Device("T4", r"t4", {"float32": 8.1, "float16": 65, "int8": 130}, "NVIDIA, T4 data sheet"),
    Device(
        "RTX 2080 Ti",
        r"2080 ?ti",
        {"float32": 14.2, "float16": 113.8, "int8": 227.7},
        "NVIDIA, Turing architecture white paper (Founders Edition)",
    ),
    Device(
        "A100",
        r"a100",
        {"float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312, "int8": 624},
        "NVIDIA, A100 data sheet",
    ),
    Device(
        "RTX 3090",
        r"3090",
        {"float32": 35.6, "tf32": 35.6, "float16": 142, "bfloat16": 71, "int8": 284},
        "NVIDIA, GA102 architecture white paper",
    ),
    Device(
        "A10",
        r"a10g?",
        {"float32": 31.2, "tf32": 62.5, "float16": 125, "bfloat16": 125, "int8": 250},
        "NVIDIA, A10 data sheet",
    ),
    Device(
        "RTX 4090",
        r"4090",
        {"float32": 82.6, "tf32": 82.6, "float16": 330.3, "bfloat16": 165.2, "int8": 660.6},
        "NVIDIA, Ada architecture white paper",
    ),
    Device(
        "H100",
        r"h[12]00",
        {"float32": 67, "tf32": 494.7, "float16": 989.4, "bfloat16": 989.4, "int8": 1978.9},
        "NVIDIA, H100 data sheet (SXM)",
    ),
)
_CALLED = tuple((re.compile(rf"(?<![a-z0-9]){d.called}(?![0-9])", re.IGNORECASE), d) for d in DEVICES)


def find_device(text: str) -> Device | None:
    """The one device that a text names; None for none, or for several."""
    found = [device for called, device in _CALLED if called.search(text)]
    return found[0] if len(found) == 1 else None


def peak(device: Device, dtype: str | None) -> tuple[float, str]:
    """The most TFLOP/s that a precision can have, and in which.

    float32 may run as TF32, which frameworks do unasked; an unsaid precision may be any.
    """
    allowed = {"float32": ("float32", "tf32"), None: tuple(device.peaks)}.get(dtype, (dtype or "",))
    known = {name: device.peaks[name] for name in allowed if name in device.peaks} or device.peaks
    best = max(known, key=lambda name: known[name])
    return known[best], best
