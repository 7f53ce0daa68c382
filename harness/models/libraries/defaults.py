"""What transformers' own defaults lack: the options without which ``hf:CLASS`` would build nothing.

Each is what the class's configuration page or the checkpoints that it was written for have.
"""

from collections.abc import Mapping
from typing import Any

_EDGETAM = {"vision_config.backbone_config.architecture": "repvit_m1"}
_LW_DETR = {"backbone_config.out_indices": (2, 4, 5, 9), "projector_scale_factors": (1.0,)}
# Class -> options.
COMPLETED: Mapping[str, Mapping[str, Any]] = {
    "BeitForSemanticSegmentation": {"out_indices": (3, 5, 7, 11)},
    "EdgeTamModel": _EDGETAM,  # its default misspells the backbone's name
    "EdgeTamVisionModel": {"backbone_config.architecture": "repvit_m1"},
    "LwDetrForObjectDetection": _LW_DETR,
    "LwDetrModel": _LW_DETR,
}
