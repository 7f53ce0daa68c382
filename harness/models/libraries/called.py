"""A library's model as a spec has it: what it is called with, and at which sizes."""

from collections.abc import Callable

from segmeter.harness.inputs import ImageSize, Size, format_size
from segmeter.harness.models.blame import error_line
from segmeter.harness.models.libraries.inputs import Inputs
from segmeter.harness.models.libraries.model import LibraryModel
from segmeter.harness.models.own import split_components
from segmeter.harness.models.spec import ModelSpec

# Patches and windows of patches.
STEPS = (8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 128, 224, 256)
MOST_TRIED = 12


def model_of(spec: ModelSpec) -> LibraryModel | None:
    """The library's model that a spec is of; None for segmeter's and the user's own."""
    return spec.system.identity if isinstance(spec.system.identity, LibraryModel) else None


def inputs_of(spec: ModelSpec) -> Inputs | None:
    """What a library's model is called with; None for any other."""
    model = model_of(spec)
    return model.inputs_of(split_components(dict(spec.options))[0]) if model else None


def refusal(spec: ModelSpec, size: ImageSize, error: BaseException, runs: Callable[[ImageSize], bool]) -> str:
    """One line for a size that a library's model does not take: its own reason, the nearest that it takes.

    Args:
        spec: the model.
        size: what it was given.
        error: what it said.
        runs: whether it runs at a size; may raise where it does not.
    """
    cause = error.__cause__ or error
    line = f"{spec.encoder} does not take {format_size(size.padded)}: {error_line(cause)}"
    inputs = inputs_of(spec)
    assert inputs is not None
    for other in _nearby(size.padded, inputs.size):
        try:
            if other != size.padded and runs(ImageSize(other, other)):
                return f"{line}; the nearest size that it takes is {format_size(other)}"
        except Exception:
            # A model may raise anything at a size that it does not take.
            continue
    return line


def _nearby(size: Size, own: Size) -> list[Size]:
    """Sizes to try, the nearest first: sides at multiples of patches and windows, and the model's own."""
    near = {own}
    for step in STEPS:
        down = [max(step, side // step * step) for side in size]
        up = [-(-side // step) * step for side in size]
        near |= {(down[0], down[1]), (up[0], up[1])}

    def far(other: Size) -> int:
        return abs(other[0] - size[0]) + abs(other[1] - size[1])

    nearest = sorted(near, key=far)[:MOST_TRIED]
    return nearest if own in nearest else [*nearest, own]
