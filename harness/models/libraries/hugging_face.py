"""Models of transformers: ``hf:ORG/NAME[@REVISION]``, ``hf:FOLDER``, or ``hf:CLASS`` for a class's defaults.

Of the Hub only ``config.json`` and ``preprocessor_config.json`` are read, a few kB, and no weights. A config
is data: it names classes of the installed transformers and nothing else. Code of a repository is never run.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from segmeter.harness.models.blame import error_line
from segmeter.harness.models.libraries import timm_models
from segmeter.harness.models.libraries.configs import MOST_LABELS, made_config, read_object
from segmeter.harness.models.libraries.defaults import COMPLETED
from segmeter.harness.models.libraries.families import TRANSFORMERS
from segmeter.harness.models.libraries.hub import config_files
from segmeter.harness.models.libraries.inputs import Inputs, check_side
from segmeter.harness.models.libraries.model import LibraryModel, Settings
from segmeter.harness.models.libraries.processors import image_size, post_processed
from segmeter.harness.models.libraries.prompts import PROMPTS, any_text, frames_in_images, frames_of
from segmeter.words import nearest

PREFIX = "hf"
DEFAULTS = "transformers' defaults"
# In this order the class is chosen where a config names none.
TASKS = (
    "UNIVERSAL_SEGMENTATION",
    "INSTANCE_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "IMAGE_SEGMENTATION",
    "MASK_GENERATION",
    "OBJECT_DETECTION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "DEPTH_ESTIMATION",
    "IMAGE_CLASSIFICATION",
)


def load(name: str) -> LibraryModel:
    """The model of a name without its ``hf:``.

    Raises:
        ValueError: transformers is not installed, no such repository, folder or class, or a config that is
            not a model's; one line.
    """
    _library()
    source = f"{PREFIX}:{name}"
    completed: Settings = {}
    if not re.search(r"[/\\.]", name) and not Path(name).is_dir():
        kind = _class_of_defaults(name)
        config, processor, origin = {"model_type": kind.config_class.model_type}, {}, DEFAULTS
        config["architectures"] = [kind.__name__]
        completed = COMPLETED.get(kind.__name__, {})
    else:
        texts = config_files(name)
        config = read_object(texts["config.json"], f"{source}: config.json")
        processor = read_processor(texts, source)
        origin = "preprocessor_config.json"
        if "model_type" not in config and isinstance(config.get("pretrained_cfg"), Mapping):
            return _of_timm(source, config)
    family, kind = _family_and_class(source, config)
    text = json.dumps([config, processor], sort_keys=True, default=str)

    def build(settings: Settings) -> nn.Module:
        chosen = _chosen_class(source, kind, settings)
        made = made_config(source, config, {**completed, **settings}, chosen)
        try:
            return chosen(made)
        except Exception as error:
            if origin != DEFAULTS:
                raise
            raise ValueError(
                f"{source}: {DEFAULTS} make no model ({type(error).__name__}: {error_line(error)}); name a "
                "repository or a folder with its config.json"
            ) from error

    return LibraryModel(
        source=source,
        title=_title(name),
        library=f"transformers {version('transformers')}",
        family=family,
        patterns=TRANSFORMERS.get(family, {}),
        reads=lambda: post_processed(family),
        version=text,
        build=build,
        inputs=lambda settings: _inputs(source, config, processor, kind, origin, {**completed, **settings}),
    )


def _of_timm(source: str, config: Mapping[str, Any]) -> LibraryModel:
    """The model of timm's that a repository of timm's weights describes in its own form."""
    architecture, classes, pretrained = (
        config.get(name) for name in ("architecture", "num_classes", "pretrained_cfg")
    )
    if not isinstance(architecture, str):
        raise ValueError(f"{source}: config.json is not a model's: it has no architecture")
    model = timm_models.load(architecture)
    fixed = {"num_classes": classes} if isinstance(classes, int) and 0 <= classes <= MOST_LABELS else {}
    shape = pretrained.get("input_size") if isinstance(pretrained, Mapping) else None

    def inputs(settings: Settings) -> Inputs:
        made = model.inputs(settings)
        if "img_size" in settings or not (isinstance(shape, list) and len(shape) == 3):
            return made
        return Inputs(check_side((shape[1], shape[2]), "config.json"), "config.json: pretrained_cfg")

    return replace(
        model,
        source=source,
        version=json.dumps(config, sort_keys=True, default=str),
        build=lambda settings: model.build({**fixed, **settings}),
        inputs=inputs,
    )


def _title(name: str) -> str:
    path = Path(name)
    return path.resolve().name if path.is_dir() else name.rpartition("/")[2]


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError("hf: models need transformers: pip install 'segmeter[hf]'") from None
    transformers.logging.set_verbosity_error()
    return transformers


def read_processor(texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """The preprocessing config, where there is one."""
    text = texts.get("preprocessor_config.json")
    return read_object(text, f"{source}: preprocessor_config.json") if text else {}


def _family_and_class(source: str, config: Mapping[str, Any]) -> tuple[str, Any]:
    """The model type, and the class of the installed transformers that the config names."""
    transformers = _library()
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ValueError(f"{source}: config.json is not a model's: it has no model_type")
    shown = family[:80]
    if family not in transformers.CONFIG_MAPPING:
        if "auto_map" in config:
            raise ValueError(
                f"{source} needs code from its own repository (model_type {shown!r}), which is never run"
            )
        known = list(transformers.CONFIG_MAPPING.keys())
        raise ValueError(
            f"{source}: transformers {version('transformers')} has no model_type {shown!r}"
            f"{nearest(shown, known)}"
        )
    named = config.get("architectures")
    names = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    for name in [*names, *_preferred_classes(family)]:
        kind = _installed_class(name)
        if kind is not None and kind.config_class.model_type == family:
            _check_sees_images(source, kind)
            if "auto_map" in config and names and name not in names:
                raise ValueError(
                    f"{source} needs code from its own repository ({names[0][:80]!r}), which is never run"
                )
            return family, kind
    raise ValueError(f"{source}: transformers has no model that takes images for model_type {shown!r}")


def _preferred_classes(family: str) -> Iterator[str]:
    """Names of a family's classes, those that segment before others."""
    from transformers.models.auto import modeling_auto

    yield from (name for name, listed in UNLISTED.items() if listed == family)
    for task in TASKS:
        named = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).get(family, ())
        yield from (named,) if isinstance(named, str) else named
    base = modeling_auto.MODEL_MAPPING_NAMES.get(family, ())
    yield from (base,) if isinstance(base, str) else base


@lru_cache(maxsize=256)
def _installed_class(name: str) -> Any:
    """A model class of the installed transformers by its exact name; None if it has none."""
    transformers = _library()
    if not re.fullmatch(r"[A-Za-z]\w{0,99}", name) or name not in class_names():
        return None
    kind = getattr(transformers, name)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return kind if is_model and kind.config_class is not None else None


@lru_cache(maxsize=1)
def class_names() -> frozenset[str]:
    """Names of everything that transformers offers, none of it imported."""
    return frozenset(dir(_library()))


def image_classes() -> dict[str, str]:
    """Class -> model type, of all that transformers lists for segmenting, detecting and depth."""
    _library()
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for task in TASKS[:-1]:
        for family, named in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).items():
            for name in (named,) if isinstance(named, str) else named:
                found.setdefault(name, family)
    found.update({name: family for name, family in UNLISTED.items() if name in class_names()})
    return found


# In no table of transformers' tasks.
UNLISTED = {"CLIPSegForImageSegmentation": "clipseg", "Sam3Model": "sam3"}


def _class_of_defaults(name: str) -> Any:
    """The class that a bare name means: a class's, or a model type's."""
    _library()
    if name in class_names():
        kind = _installed_class(name)
        if kind is not None:
            return kind
    for each in _preferred_classes(name):
        kind = _installed_class(each)
        if kind is not None:
            return kind
    classes = image_classes()
    known = [*classes, *classes.values()]
    raise ValueError(
        f"unknown model {PREFIX}:{name[:80]}: no folder, no class of transformers and, without a slash, no "
        f"repository{nearest(name[:80], known)}"
    )


def _chosen_class(source: str, kind: Any, settings: Settings) -> Any:
    """The class that the option ``architecture`` names, or the config's."""
    name = settings.get("architecture")
    if name is None:
        return kind
    chosen = _installed_class(str(name))
    if chosen is None or chosen.config_class is not kind.config_class:
        same = [
            each
            for each in class_names()
            if each.startswith(kind.config_class.__name__.removesuffix("Config"))
        ]
        raise ValueError(f"{source} has no architecture {name!r}{nearest(str(name), sorted(same))}")
    return chosen


def _check_sees_images(source: str, kind: Any) -> None:
    if kind.main_input_name not in ("pixel_values", "pixel_values_videos") and not _takes_pixels(kind):
        raise ValueError(f"{source}: {kind.__name__} takes {kind.main_input_name}, no images")


def _takes_pixels(kind: Any) -> bool:
    return "pixel_values" in inspect.signature(kind.forward).parameters


def _inputs(
    source: str,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    kind: Any,
    origin: str,
    settings: Settings,
) -> Inputs:
    chosen = _chosen_class(source, kind, settings)
    made = made_config(source, config, settings, chosen)
    size, where = image_size(made, processor, chosen, origin)
    video = chosen.main_input_name == "pixel_values_videos"
    parameters = {
        name: each
        for name, each in inspect.signature(chosen.forward).parameters.items()
        if name != "self" and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    prompts = PROMPTS.get(made.model_type, any_text)(made)
    image = "pixel_values_videos" if video else "pixel_values"
    return Inputs(
        size=size,
        source=where,
        image=image,
        frames=frames_of(made) if video else frames_in_images(made),
        extras=tuple(extra for extra in prompts if extra.name in parameters),
        takes={name: "Tensor" in str(each.annotation) for name, each in parameters.items()},
        required=tuple(n for n, each in parameters.items() if each.default is each.empty and n != image),
    )
