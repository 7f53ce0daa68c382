"""Which installed libraries' models the op would speed up, and what else there is to run them with.

Nothing of a library is imported: loading one takes seconds, and may fail.
"""

import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segmeter.cuda_ops import stands_in

# Layers as :mod:`cuda_ops.families` recognises them by class.
LAYER = re.compile(
    r"^class (?:MultiScaleDeformableAttention|RTDetrV2MultiscaleDeformableAttention"
    r"|\w*PixelDecoderEncoderMultiscaleDeformableAttention)\(|ms_deformable_attn_core = ",
    re.M,
)
EXTENSION = "MultiScaleDeformableAttention"
OTHERS = {
    "mmcv": "its MultiScaleDeformableAttention layer",
    "detectron2": "MSDeformAttn of codes built on it, such as Mask2Former's and MaskDINO's",
}
RUNTIMES = {"onnxruntime": "pip install 'segmeter[export]'", "openvino": "pip install openvino"}
# The longest modeling file of transformers has a third of that.
MAX_BYTES = 4 * 2**20


def library_rows() -> list[dict[str, Any]]:
    """For each library: ``name``, ``version`` (None if it is not installed), ``accelerated``, ``note``."""
    families = transformers_families()
    rows: list[dict[str, Any]] = [
        {
            "name": "transformers",
            "version": _version("transformers"),
            "accelerated": families,
            "note": "segmeter.accelerate(model)",
        }
    ]
    for name, what in OTHERS.items():
        rows.append(
            {
                "name": name,
                "version": _version(name),
                "accelerated": [what],
                "note": "segmeter.accelerate(model), or segmeter.ops.install() before it is imported",
            }
        )
    return rows


def transformers_families() -> list[str]:
    """Models of the installed transformers whose deformable attention is known; empty if it is not there."""
    found = find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        return []
    models = Path(found.submodule_search_locations[0]) / "models"
    families = []
    for path in sorted(models.glob("*/modeling_*.py")):
        # modeling_NAME.py beside those of other frameworks.
        if path.stem == f"modeling_{path.parent.name}" and path.stat().st_size <= MAX_BYTES:
            text = path.read_text(encoding="utf-8", errors="replace")
            if "eformable" in text and LAYER.search(text):
                families.append(path.parent.name)
    return families


def drop_ins() -> list[dict[str, str]]:
    """What is at hand beside the op: ``name`` and ``state``, which says what is missing and how to get it."""
    spec = find_spec(EXTENSION) if _importable(EXTENSION) else None
    if stands_in():
        official = "segmeter.ops.install() stands in for it"
    elif spec is None:
        official = "not installed; segmeter.ops.install() stands in for it"
    else:
        official = f"{spec.origin or 'loaded'}; segmeter.ops.install() must come before its import"
    rows = [{"name": EXTENSION, "state": official}]
    for name, how in RUNTIMES.items():
        rows.append({"name": name, "state": _version(name) or f"not installed: {how}"})
    nvcc = shutil.which("nvcc")
    rows.append({"name": "nvcc", "state": nvcc or "not found, and not needed: kernels are built by NVRTC"})
    return rows


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:
        # Loaded already, by something that says nothing of where it is from.
        return False


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
