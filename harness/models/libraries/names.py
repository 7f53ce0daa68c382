"""Which library a written model is of, and its system: one stage, the model itself."""

from collections.abc import Mapping
from typing import Any

from segmeter.encoders.chain import System
from segmeter.harness.models.libraries.model import LibraryModel
from segmeter.harness.models.own import OwnModel, whole_system
from segmeter.model_text import library_name


def library_model(source: str) -> LibraryModel:
    """The model of ``hf:``, ``timm:`` or ``torchvision:`` and a name.

    Raises:
        ValueError: no such model; one line with the nearest.
    """
    from segmeter.harness.models.libraries import hugging_face, timm_models, torchvision_models

    loaders = {"hf": hugging_face.load, "timm": timm_models.load, "torchvision": torchvision_models.load}
    library, name = library_name(source) or ("", source)
    return loaders[library](name)


def library_system(source: str) -> System:
    """The system of a library's model.

    Raises:
        ValueError: as :func:`library_model`.
    """
    model = library_model(source)

    def check(options: Mapping[str, Any]) -> None:
        model.inputs_of(options)

    own = OwnModel(
        source=source,
        build=lambda **options: model.built(options),
        is_encoder=False,
        options=None,
        identity=model,
        check=check,
        describe=model.described,
    )
    return whole_system(own, title=model.title, source=model.library)


def library_names() -> dict[str, str]:
    """Every name that an installed library offers, each with what it is; nothing is built."""
    from segmeter.harness.models.libraries import hugging_face, timm_models, torchvision_models

    found = {f"timm:{name}": "timm" for name in timm_models.names()}
    found |= {f"torchvision:{name}": "torchvision" for name in torchvision_models.names()}
    try:
        classes = hugging_face.image_classes()
    except ValueError:
        return found  # transformers is not installed
    shown = {f"hf:{name}": f"transformers, model type {family}" for name, family in classes.items()}
    return shown | found
