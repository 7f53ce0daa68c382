"""Models of torchvision: ``torchvision:NAME``, with the arguments of its builder as options."""

import inspect
import sys
from functools import partial
from importlib.metadata import version
from typing import Any

from torch import nn

from segmeter.harness.models.libraries.families import TORCHVISION
from segmeter.harness.models.libraries.inputs import Inputs
from segmeter.harness.models.libraries.model import LibraryModel, Settings
from segmeter.words import nearest

PREFIX = "torchvision"
REFUSED = ("weights", "weights_backbone", "progress")
DETECTION, SEGMENTATION, VIDEO = "detection", "segmentation", "video"
# What the reference scripts of torchvision evaluate at.
SIZES = {DETECTION: ((800, 1088), "the COCO resize"), SEGMENTATION: ((520, 520), "the reference script")}
DEFAULT = ((224, 224), "ImageNet's crop")


def names() -> list[str]:
    """All models that take single images."""
    import torchvision

    return [name for name in torchvision.models.list_models() if _task(name) not in (VIDEO, "optical_flow")]


def load(name: str) -> LibraryModel:
    """The model of a name without its ``torchvision:``.

    Raises:
        ValueError: torchvision has no such model.
    """
    if name not in names():
        raise ValueError(f"torchvision has no model {name[:80]!r}{nearest(name[:80], names())}")
    return LibraryModel(
        source=f"{PREFIX}:{name}",
        title=name,
        library=f"torchvision {version('torchvision')}",
        family=_builder(name).__module__.rpartition(".")[2],
        version=name,
        patterns=TORCHVISION.get(_builder(name).__module__.rpartition(".")[2], {}),
        reads=lambda: frozenset({"out"}),
        build=partial(_build, name),
        inputs=lambda settings: Inputs(*SIZES.get(_task(name), DEFAULT)),
    )


def _builder(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model_builder(name)


def _task(name: str) -> str:
    return next((part for part in _builder(name).__module__.split(".")[2:-1]), "")


def _build(name: str, settings: Settings) -> nn.Module:
    for option in settings:
        if option in REFUSED:
            raise ValueError(f"torchvision:{name} is built with random weights; got {option!r}")
    builder = _builder(name)
    known = inspect.signature(builder).parameters
    none = {each: None for each in ("weights", "weights_backbone") if each in known}
    options = [each for each in known if each not in (*REFUSED, "kwargs")]
    try:
        module: nn.Module = builder(**none, **dict(settings))
    except TypeError as error:
        unknown = next((each for each in settings if f"'{each}'" in str(error)), None)
        if unknown is None:
            raise
        raise ValueError(f"torchvision:{name} has no option {unknown!r}{nearest(unknown, options)}") from None
    # Some builders take any keyword and drop what they do not know.
    taken = _taken(builder, module)
    for option in settings:
        if option not in taken:
            choices = [*options, *sorted(taken - set(options) - set(REFUSED))]
            raise ValueError(f"torchvision:{name} has no option {option!r}{nearest(option, choices)}")
    return module


def _taken(builder: Any, module: nn.Module) -> set[str]:
    """Names of the arguments of a builder, of the functions that it may hand them to, and of its classes."""
    own = [each for each in vars(sys.modules[builder.__module__]).values() if inspect.isfunction(each)]
    makers = [each for each in own if each.__module__ == builder.__module__ and each.__name__.startswith("_")]
    classes = [kind for kind in type(module).__mro__ if kind.__module__.startswith(PREFIX)]
    found = {name for each in (builder, *makers, *classes) for name in inspect.signature(each).parameters}
    return found - {"args", "kwargs"}
