"""A configuration of transformers from a file that anybody may have written: read, bounded, and made.

A config is data. What in it would load weights, choose kernels or name code is dropped.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from segmeter.words import nearest

MAX_BYTES = 4 * 2**20
# Layers or other repetitions; more is no model that anybody trained, and building would not end.
MOST_REPEATED = 1000
# Classes; transformers makes a name for each.
MOST_LABELS = 100_000
# Objects in objects; a model's config has four or five.
DEEPEST = 50
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


def made_config(source: str, config: Mapping[str, Any], settings: Mapping[str, Any], kind: Any) -> Any:
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
