"""Peak arithmetic of devices, dense, as their makers state it.

Each figure was held to a public copy of its source, and to clock, cores and operations a clock where the
source gives these: 4352 cores x 2 x 1.635 GHz are the 14.2 of an RTX 2080 Ti. Of variants the fastest stands
here (SXM, Founders Edition), of accumulations the faster one. Devices without peaks are known by name only.
"""

import re
from dataclasses import dataclass, field

_WEB = "https://www.nvidia.com/content/dam/en-zz/Solutions"
_TURING = (
    f"{_WEB}/design-visualization/technologies/turing-architecture/NVIDIA-Turing-Architecture-Whitepaper.pdf"
)


@dataclass(frozen=True)
class Device:
    """A device: what it is called in tables, TFLOP/s by precision, whose statement that is and where."""

    name: str
    called: str
    peaks: dict[str, float] = field(default_factory=dict)
    source: str = ""
    url: str = ""


DEVICES = (
    Device(
        "P100",
        r"p100",
        {"float32": 10.6, "float16": 21.2},
        "NVIDIA, Tesla P100 white paper (SXM2)",
        "https://images.nvidia.com/content/pdf/tesla/whitepaper/pascal-architecture-whitepaper.pdf",
    ),
    Device(
        "GTX 1080 Ti",
        r"1080 ?ti",
        {"float32": 11.3},
        "NVIDIA, GeForce GTX 1080 Ti specifications: 3584 cores at 1582 MHz",
        "https://www.nvidia.com/en-us/geforce/10-series/",
    ),
    Device(
        "V100",
        r"v100",
        {"float32": 15.7, "float16": 125},
        "NVIDIA, V100 data sheet (SXM2)",
        "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf",
    ),
    Device(
        "T4",
        r"t4",
        {"float32": 8.1, "float16": 65, "int8": 130},
        "NVIDIA, T4 data sheet",
        f"{_WEB}/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf",
    ),
    Device(
        "RTX 2080 Ti",
        r"2080 ?ti",
        {"float32": 14.2, "float16": 113.8, "int8": 227.7},
        "NVIDIA, Turing architecture white paper (Founders Edition)",
        _TURING,
    ),
    Device(
        "A100",
        r"a100",
        {"float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312, "int8": 624},
        "NVIDIA, A100 data sheet",
        f"{_WEB}/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
    ),
    Device(
        "RTX 3090",
        r"3090(?! ?ti)",
        {"float32": 35.6, "tf32": 35.6, "float16": 142, "bfloat16": 71, "int8": 284},
        "NVIDIA, GA102 architecture white paper, Appendix A",
        "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf",
    ),
    Device(
        "A10",
        r"a10(?!g)",
        {"float32": 31.2, "tf32": 62.5, "float16": 125, "bfloat16": 125, "int8": 250},
        "NVIDIA, A10 data sheet",
        f"{_WEB}/Data-Center/a10/pdf/datasheet-new/nvidia-a10-datasheet.pdf",
    ),
    Device(
        "RTX 4090",
        r"4090",
        {"float32": 82.6, "tf32": 82.6, "float16": 330.3, "bfloat16": 165.2, "int8": 660.6},
        "NVIDIA, Ada architecture white paper",
        "https://images.nvidia.com/aem-dam/Solutions/Data-Center/l4/"
        "nvidia-ada-gpu-architecture-whitepaper-v2.1.pdf",
    ),
    Device(
        "H100",
        r"h[12]00",
        {"float32": 66.9, "tf32": 494.7, "float16": 989.4, "bfloat16": 989.4, "int8": 1978.9},
        "NVIDIA, H100 architecture white paper (SXM5); H200 alike",
        "https://resources.nvidia.com/en-us-tensor-core",
    ),
    Device("A10G", r"a10g"),
    Device("RTX 3090 Ti", r"3090 ?ti"),
    Device("RTX 5090", r"5090"),
    Device("Titan Xp", r"titan ?xp"),
    Device("RTX A6000", r"a6000"),
    Device("L4", r"l4"),
    Device("L40", r"l40s?"),
    Device("B200", r"b200"),
    Device("Jetson", r"jetson"),
)
_CALLED = tuple((re.compile(rf"(?<![a-z0-9]){d.called}(?![0-9])", re.IGNORECASE), d) for d in DEVICES)


def find_device(text: str) -> Device | None:
    """The one device that a text names; None for none, or for several."""
    found = [device for called, device in _CALLED if called.search(text)]
    return found[0] if len(found) == 1 else None


def peak(device: Device, dtype: str | None) -> tuple[float, str]:
    """The most TFLOP/s that a precision can have, and in which; (0, "") where no peak is known.

    float32 may run as TF32, which frameworks do unasked; an unsaid precision may be any.
    """
    if not device.peaks:
        return 0.0, ""
    allowed = {"float32": ("float32", "tf32"), None: tuple(device.peaks)}.get(dtype, (dtype or "",))
    known = {name: device.peaks[name] for name in allowed if name in device.peaks} or device.peaks
    best = max(known, key=lambda name: known[name])
    return known[best], best
