"""What a command makes of its options: a model, the sizes to count it at, its count."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmeter.commands.console import progress_bar, user_input
from segmeter.commands.known import check_word, known
from segmeter.commands.options import InputSize
from segmeter.commands.written import check_model
from segmeter.model_text import library_name

if TYPE_CHECKING:
    from segmeter.harness.inputs import SizeSet
    from segmeter.harness.models import ModelSpec


def chosen_spec(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    options: Mapping[str, str] | None = None,
    inputs: Sequence[str] | None = None,
) -> "ModelSpec":
    """A model from its written form, from single options, or from both."""
    # Before torch is loaded: a typo is answered at once.
    check_model(model)
    check_model(encoder)
    from segmeter.harness.models import model_from_parts, resolve_preset, written_input

    if inputs and not library_name(model or ""):
        raise ValueError("--input is for a library's model, such as hf:ORG/NAME")
    given = {**(options or {}), **dict(written_input(text) for text in inputs or ())}
    return model_from_parts(resolve_preset(model), encoder, backbone, num_classes, num_queries, given)


def chosen_sizes(at: InputSize, model: str | None = None, backbone: str | None = None) -> "SizeSet":
    """The sizes to count at, from the options given; where none is, the model's own size if it has one."""
    from segmeter.harness.inputs import choose_sizes
    from segmeter.harness.models import usual_input

    asked = asdict(at)
    if model and not at.is_given:
        asked["padded_size"] = usual_input(model, backbone)[0]
    return choose_sizes(**asked)


def sizes_of(spec: "ModelSpec", sizes: "SizeSet", at: InputSize) -> "SizeSet":
    """The sizes to count a model at: a library's model's own, where the user gave none."""
    from segmeter.harness.inputs import ImageSize, SizeSet, format_size
    from segmeter.harness.models import inputs_of

    inputs = inputs_of(spec)
    if inputs is None or at.is_given:
        return sizes
    return SizeSet(format_size(inputs.size), {ImageSize(inputs.size, inputs.size): 1}, inputs.source)


def chosen_classes(num_classes: int | None, sizes: "SizeSet", model: str | None = None) -> int:
    """The number of classes given, or the data set's; away from Cityscapes' size the model's own, if any."""
    from segmeter.harness.inputs import CITYSCAPES_CLASSES, default_classes
    from segmeter.harness.models import usual_input

    if num_classes is not None:
        return num_classes
    classes = default_classes(sizes)
    own = usual_input(model, None)[1] if model else None
    return classes if own is None or classes == CITYSCAPES_CLASSES else own


def check_convention(convention: str) -> None:
    """Raise ValueError unless it is one of the three conventions."""
    check_word("convention", convention, known()["conventions"])


def count_on_images(
    spec: "ModelSpec",
    sizes: "SizeSet",
    convention: str,
    images: Sequence[Path],
    batch: int,
    weights: Path | None = None,
) -> Any:
    """The record of one model counted on each photo, with a progress bar."""
    from segmeter.harness.counting import count_images, images_record, readable_photos
    from segmeter.harness.weights import load_model

    with user_input():
        if len(sizes.images) != 1:
            raise ValueError("--images goes with one size: --padded-size HxW")
        model, source = None, "random, from one seed"
        if weights is not None:
            model, spec, _ = load_model(weights, spec)
            source = str(weights)
        photos, faults = readable_photos(images)
        steps = len(photos) * (2 if batch > 1 else 1)
        with progress_bar(f"counting {spec.title}", steps) as advance:
            counted = count_images(
                spec,
                next(iter(sizes.images)),
                photos,
                convention,
                batch=batch,
                model=model,
                weights=source,
                skipped=faults,
                progress=advance,
            )
        return images_record(counted)


def count_at(spec: "ModelSpec", sizes: "SizeSet", convention: str, photos: Sequence[Path] = ()) -> Any:
    """The record of one model at one size, or its mean over a data set, with a progress bar.

    ``photos`` are for a model of the user's own whose work depends on its input.
    """
    from segmeter.harness.counting import count_dataset, count_model, flops_record
    from segmeter.harness.inputs import find_photos

    with user_input():
        if len(sizes.images) == 1:
            found = find_photos(photos) if photos else []
            return flops_record(count_model(spec, next(iter(sizes.images)), convention, found))
        with progress_bar(f"counting {spec.title}", len(sizes.images)) as advance:
            return flops_record(count_dataset(spec, sizes, convention, lambda done: advance()))
