"""Models of transformers: ``hf:ORG/NAME[@REVISION]``, ``hf:FOLDER``, or ``hf:CLASS`` for a class's defaults.

Of the Hub only ``config.json`` and ``preprocessor_config.json`` are read, a few kB, and no weights. A config
is data: it names classes of the installed transformers and nothing else. Code of a repository is never run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from segmeter.harness.models.libraries.hub import config_files
from segmeter.harness.models.libraries.inputs import Inputs
from segmeter.harness.models.libraries.model import LibraryModel, Settings
from segmeter.harness.models.libraries.processors import image_size
from segmeter.harness.models.libraries.prompts import PROMPTS, frames_of
from segmeter.words import nearest

PREFIX = "hf"
MAX_BYTES = 4 * 2**20
# Layers or other repetitions; more is no model that anybody trained, and building would not end.
MOST_REPEATED = 1000
# Classes; transformers makes a name for each.
MOST_LABELS = 100_000
# Objects in objects; a model's config has four or five.
DEEPEST = 50
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
# What a config may hold that would load weights, choose kernels of other repositories, or name code.
DROPPED = frozenset(
    {
        *("auto_map", "custom_pipelines", "quantization_config", "compression_config", "kernel_config"),
        *("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "use_kernels"),
        *("_experts_implementation", "experts_implementation", "_name_or_path", "name_or_path"),
        *("_commit_hash", "torch_dtype", "dtype", "peft_config", "checkpoint_path", "pretrained"),
        *(
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "cache_dir",
            "use_pretrained_backbone",
            "adapter_kwargs",
        ),
    }
)


def load(name: str) -> LibraryModel:
    """The model of a name without its ``hf:``.

    Raises:
        ValueError: transformers is not installed, no such repository, folder or class, or a config that is
            not a model's; one line.
    """
    _library()
    source = f"{PREFIX}:{name}"
    if not re.search(r"[/\\.]", name) and not Path(name).is_dir():
        kind = _class_of_defaults(name)
        config, processor, origin = {"model_type": kind.config_class.model_type}, {}, "transformers' defaults"
        config["architectures"] = [kind.__name__]
    else:
        texts = config_files(name)
        config = read_object(texts["config.json"], f"{source}: config.json")
        processor = read_processor(texts, source)
        origin = "preprocessor_config.json"
    family, kind = _family_and_class(source, config)
    text = json.dumps([config, processor], sort_keys=True, default=str)

    def build(settings: Settings) -> nn.Module:
        chosen = _chosen_class(source, kind, settings)
        return chosen(made_config(source, config, settings, chosen))

    return LibraryModel(
        source=source,
        title=_title(name),
        library=f"transformers {version('transformers')}",
        family=family,
        version=text,
        build=build,
        inputs=partial(_inputs, source, config, processor, kind, origin),
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


def read_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object from a file that anybody may have written.

    Raises:
        ValueError: too long, not JSON, or no object.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{what} has {len(text):,} characters; a model's has a few thousand")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"{what} is nested beyond reason") from None
    except ValueError as error:
        raise ValueError(f"{what} is not JSON (line {getattr(error, 'lineno', '?')})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{what} is not a model's config: expected an object, got {type(content).__name__}")
    layer: list[Any] = [content]
    for _ in range(DEEPEST):
        layer = [each for part in layer for each in _parts(part)]
        if not layer:
            return content
    raise ValueError(f"{what} is nested beyond reason")


def _parts(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return list(content.values())
    return content if isinstance(content, list) else []


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
    import inspect

    return "pixel_values" in inspect.signature(kind.forward).parameters


def made_config(source: str, config: Mapping[str, Any], settings: Settings, kind: Any) -> Any:
    """The configuration with the options set, and nothing in it that would act.

    Raises:
        ValueError: an option that the configuration does not have, or a value that it refuses.
    """
    plain = cleaned(source, config)
    options = {name: value for name, value in settings.items() if name != "architecture"}
    if options:
        known = kind.config_class.from_dict(plain).to_dict()
        for name, value in options.items():
            _set(source, plain, known, name, value)
    try:
        made = kind.config_class.from_dict(cleaned(source, plain))
    except Exception as error:
        # Whatever a configuration class raises at values that anybody may have written.
        said = " ".join(str(error).split())
        raise ValueError(
            f"{source}: {kind.config_class.__name__} refuses its configuration: {said}"
        ) from None
    if not hasattr(made, "use_pretrained_backbone") or made.use_pretrained_backbone:
        made.use_pretrained_backbone = False
    return made


def cleaned(source: str, config: Any, key: str = "") -> Any:
    """A configuration without what :data:`DROPPED` names, at any depth.

    Raises:
        ValueError: a number of repetitions beyond all reason, or a backbone that is another repository's.
    """
    if isinstance(config, dict):
        _check_backbone(source, config)
        return {k: cleaned(source, v, str(k)) for k, v in config.items() if k not in DROPPED}
    repeated = re.search(r"layers|depth|blocks|num_stages", key)
    if isinstance(config, list | tuple):
        whole = [each for each in config if isinstance(each, int)]
        if repeated and sum(whole) > MOST_REPEATED:
            raise ValueError(f"{source}: {key} are more than {MOST_REPEATED} in all")
        return [cleaned(source, each, key) for each in config]
    if key == "num_labels" and isinstance(config, int) and config > MOST_LABELS:
        raise ValueError(f"{source}: num_labels = {config:,} is more than {MOST_LABELS:,}")
    if repeated and isinstance(config, int) and not isinstance(config, bool) and config > MOST_REPEATED:
        raise ValueError(f"{source}: {key} = {config:,} is more than {MOST_REPEATED}")
    return config


def _check_backbone(source: str, config: Mapping[str, Any]) -> None:
    """Backbones of timm are built by name: only names that timm has, which load and import nothing."""
    is_timm = bool(config.get("use_timm_backbone")) or config.get("model_type") == "timm_backbone"
    name = (
        config.get("architecture") if config.get("model_type") == "timm_wrapper" else config.get("backbone")
    )
    if not isinstance(name, str) or (config.get("backbone_config") and not is_timm):
        return
    if not (is_timm or config.get("model_type") == "timm_wrapper"):
        raise ValueError(
            f"{source}: its backbone is described in another repository, {name[:80]!r}; write that config "
            "into backbone_config"
        )
    import timm

    if name.partition(".")[0] not in timm.list_models():
        raise ValueError(
            f"{source}: timm has no backbone {name[:80]!r}{nearest(name[:80], timm.list_models())}"
        )


def _set(source: str, config: dict[str, Any], known: Any, name: str, value: Any) -> None:
    """Set ``a.b.c`` in a configuration, if the configuration has it."""
    *above, last = name.split(".")
    for part in above:
        known = known.get(part) if isinstance(known, dict) else None
        config = config.setdefault(part, dict(known) if isinstance(known, dict) else {})
    if not isinstance(known, dict) or last not in known or last in DROPPED:
        names = [each for each in known if each not in DROPPED] if isinstance(known, dict) else []
        prefix = "".join(f"{part}." for part in above)
        raise ValueError(
            f"{source} has no option {name!r}{nearest(last, names)}".replace(
                "did you mean '", f"did you mean '{prefix}"
            )
        )
    before = known[last]
    if isinstance(before, list | tuple) and not isinstance(value, list | tuple):
        value = (value,)
    config[last] = list(value) if isinstance(value, tuple) else value


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
    prompts = PROMPTS.get(made.model_type, lambda config: ())(made)
    parameters = _parameters(chosen)
    return Inputs(
        size=size,
        source=where,
        image="pixel_values_videos" if video else "pixel_values",
        frames=frames_of(made) if video else 0,
        extras=tuple(extra for extra in prompts if extra.name in parameters),
    )


def _parameters(kind: Any) -> set[str]:
    import inspect

    return set(inspect.signature(kind.forward).parameters)
