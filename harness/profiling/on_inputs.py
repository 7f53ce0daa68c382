"""The work of a model on the very inputs that it is timed on, where its work depends on them."""

from collections.abc import Sequence

from torch import Tensor, nn

from segmeter.harness.counting import Figures, apply_convention, mean_figures, run_and_count
from segmeter.harness.models import component_finder

CONVENTION = "published"


def work_on_inputs(model: nn.Module, inputs: Sequence[Tensor], depth: int) -> dict[str, float]:
    """MACs of one image in each component to a depth, and "total", as the papers count; the inputs' mean.

    Args:
        model: as it is timed.
        inputs: batches (B, 3, H, W); what a batch costs is shared out over its images.
        depth: levels of components.
    """
    find = component_finder(model)
    figures: list[tuple[Figures, int]] = []
    for images in inputs:
        _, count = run_and_count(model, images)
        figures.append((apply_convention(count, find, CONVENTION), len(images)))
    batch = len(inputs[0])
    mean = mean_figures(figures)
    names = {".".join(name.split(".")[:depth]) for name in mean.by_component}
    return {name: mean.of(name) / batch for name in sorted(names)} | {"total": mean.total / batch}
