"""Models of timm: ``timm:NAME``, with the arguments of its constructor as options."""

import inspect
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

from torch import nn

from segmeter.harness.models.libraries.inputs import Inputs, check_side
from segmeter.harness.models.libraries.model import LibraryModel, Settings
from segmeter.words import nearest

PREFIX = "timm"
# They load weights or files.
REFUSED = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
DEFAULT = (224, 224)


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All architectures, without the tags of their weights."""
    import timm

    return tuple(timm.list_models())


def load(name: str) -> LibraryModel:
    """The model of a name without its ``timm:``; a tag of weights chooses the input size alone.

    Raises:
        ValueError: timm has no such model.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if architecture not in names():
        raise ValueError(f"timm has no model {name[:80]!r}{nearest(architecture[:80], names())}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights {name[:80]!r}{nearest(tag[:80], tags)}")
    return LibraryModel(
        source=f"{PREFIX}:{name}",
        title=architecture,
        library=f"timm {version('timm')}",
        family=timm.model_entrypoint(architecture).__module__.rpartition(".")[2],
        version=name,
        build=partial(_build, name),
        inputs=partial(_inputs, name),
    )


def _build(name: str, settings: Settings) -> nn.Module:
    import timm

    for option in settings:
        if option in REFUSED:
            raise ValueError(f"timm:{name} is built with random weights; got {option!r}")
    try:
        module = timm.create_model(name.partition(".")[0], pretrained=False, **dict(settings))
    except TypeError as error:
        unknown = next((each for each in settings if f"'{each}'" in str(error)), None)
        if unknown is None:
            raise
        raise ValueError(f"timm:{name} has no option {unknown!r}{nearest(unknown, _options(name))}") from None
    return module


def _options(name: str) -> list[str]:
    """Names of the arguments of a model's class, as far as they show."""
    import timm

    entry = timm.model_entrypoint(name.partition(".")[0])
    kinds = [
        each
        for each in vars(inspect.getmodule(entry)).values()
        if isinstance(each, type) and issubclass(each, nn.Module) and each.__module__ == entry.__module__
    ]
    found = [
        parameter
        for kind in kinds
        if "num_classes" in inspect.signature(kind.__init__).parameters
        for parameter in inspect.signature(kind.__init__).parameters
    ]
    return sorted({*found, "features_only", "out_indices"} - {"self", "kwargs", "args"})


def _inputs(name: str, settings: Settings) -> Inputs:
    import timm

    given = settings.get("img_size")
    if given:
        pair = (given, given) if isinstance(given, int) else tuple(given)
        return Inputs(check_side(pair, "img_size"), "img_size")
    config: Any = timm.get_pretrained_cfg(name)
    size: Mapping[str, Any] = config.to_dict() if config else {}
    shape = size.get("test_input_size") if size.get("fixed_input_size") else None
    shape = shape or size.get("input_size")
    return Inputs(tuple(shape[-2:]) if shape else DEFAULT, "timm's pretrained_cfg" if shape else "no config")
