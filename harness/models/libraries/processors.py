"""The size of the images that a model of transformers is made for."""

import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from segmeter.harness.inputs import ResizeRule, Size, format_size
from segmeter.harness.models.libraries.inputs import PHOTO, check_side
from segmeter.plain import shown

# Where nothing says more.
DEFAULT = (640, 640)
# Their configurations' `image_size` says nothing: the networks take any size.
ANY_SIZE = frozenset({"segformer", "mobilenet_v2", "beit", "seggpt"})
# What models predict under transformers' usual names, where no processor has a post-processing.
PREDICTIONS = frozenset({"logits", "pred_boxes", "pred_masks", "predicted_depth"})
# Whose backbone cuts the image into windows of patches.
WINDOWED = frozenset({"rf_detr", "lw_detr"})


def image_size(config: Any, processor: Mapping[str, Any], kind: Any, origin: str) -> tuple[Size, str]:
    """(H, W) and where it is from: the preprocessing config, the model's config, the processor's default.

    Raises:
        ValueError: a size that is none.
    """
    found = _from_processor(processor, exact=True)
    if found:
        return check_side(found, origin), origin
    if config.model_type in WINDOWED and hasattr(config.backbone_config, "num_windows"):
        return _windowed(config.backbone_config), "config.json: backbone_config"
    for name in ("", "vision_config", "backbone_config"):
        part = getattr(config, name, None) if name else config
        side = getattr(part, "image_size", None)
        if side and config.model_type not in ANY_SIZE and name != "backbone_config":
            what = f"config.json: {name}.image_size" if name else "config.json: image_size"
            return check_side(_pair(side), what), what
    found = _from_processor(processor, exact=False)
    if found:
        return check_side(found, origin), f"{origin}, for a {format_size(PHOTO)} image"
    default = _processor_class(config.model_type)
    found = _from_processor(_class_settings(default), exact=False)
    if default is not None and found:
        fixed = _from_processor(_class_settings(default), exact=True)
        where = "" if fixed else f", for a {format_size(PHOTO)} image"
        return check_side(found, default.__name__), f"the defaults of {default.__name__}{where}"
    return DEFAULT, "nothing says more"


def _windowed(backbone: Any) -> Size:
    """The size of the position table, up to a whole number of windows."""
    height, width = _pair(backbone.image_size)
    patch = _pair(backbone.patch_size)[0]
    windows = backbone.num_windows if hasattr(backbone, "num_register_tokens") else backbone.num_windows_side
    step = patch * windows
    return -(-height // step) * step, -(-width // step) * step


def _from_processor(settings: Mapping[str, Any], exact: bool) -> Size | None:
    """The size that a processor's settings give; with ``exact`` only one that is the same for all images."""
    for name in ("pad_size", "size"):
        size = settings.get(name)
        if isinstance(size, int):
            size = {"height": size, "width": size} if exact or name == "pad_size" else {"shortest_edge": size}
        if not isinstance(size, Mapping):
            continue
        if size.get("height") and size.get("width"):
            return size["height"], size["width"]
        short, long = size.get("shortest_edge"), size.get("longest_edge")
        if isinstance(short, int) and not exact:
            resized = ResizeRule(short, long if isinstance(long, int) else 10 * short).apply(PHOTO)
            step = settings.get("size_divisor") or settings.get("size_divisibility") or 1
            return -(-resized[0] // step) * step, -(-resized[1] // step) * step
    return None


@lru_cache(maxsize=256)
def post_processed(family: str) -> frozenset[str]:
    """Names of the outputs that the post-processing of a family's image processor reads, from its source.

    Empty where it reads none by name, as SAM's, which is handed the masks: then all may be predictions.
    """
    processor = _processor_class(family)
    names = [name for name in dir(processor) if name.startswith("post_process")] if processor else []
    if not names:
        return PREDICTIONS
    found: set[str] = set()
    for name in names:
        try:
            source = inspect.getsource(getattr(processor, name))
        except (OSError, TypeError):
            return frozenset()
        found |= {a or b for a, b in re.findall(r"\boutputs(?:\.(\w+)|\[[\"'](\w+)[\"']\])", source)}
    return frozenset(found)


def _class_settings(processor: Any) -> dict[str, Any]:
    return {name: getattr(processor, name, None) for name in ("pad_size", "size", "size_divisor")}


def _processor_class(family: str) -> Any:
    """The image processor's class of a family, the one that needs no PIL."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(family)
    name = named.get("torchvision") if isinstance(named, Mapping) else None
    return getattr(transformers, name, None) if isinstance(name, str) else None


def _pair(side: Any) -> Size:
    if not isinstance(side, list | tuple):
        return side, side
    if len(side) != 2:
        raise ValueError(f"config.json asks for images of {shown(side)}, expected a height and a width")
    return side[0], side[1]
