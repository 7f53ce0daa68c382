"""What a tracer takes for a constant in other libraries' code, written so that it sees the sizes."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Of transformers' Mask2Former, OneFormer and Deformable DETR; the first argument's name has changed.
PARAMETERS = ("valid_ratios", "device")
NAME = "get_reference_points"


@contextmanager
def sizes_seen(model: nn.Module) -> Iterator[None]:
    """Within, the reference points of transformers' encoders follow the sizes that are traced.

    They are made by ``torch.linspace`` there, whose number of steps a tracer takes for a constant. Undone at
    the end.
    """
    changed = [module for module in model.modules() if _makes_points(module)]
    for module in changed:
        setattr(module, NAME, reference_points)
    try:
        yield
    finally:
        for module in changed:
            delattr(module, NAME)


def _makes_points(module: nn.Module) -> bool:
    makes = getattr(type(module), NAME, None)
    if makes is None or NAME in module.__dict__ or not type(module).__module__.startswith("transformers."):
        return False
    return tuple(inspect.signature(makes).parameters)[1:] == PARAMETERS


def reference_points(
    spatial_shapes: Sequence[tuple[int, int]], valid_ratios: Tensor, device: torch.device
) -> Tensor:
    """The centre of each token, of all levels one after another, as a share of what is no padding.

    Args:
        spatial_shapes: (H, W) of each level.
        valid_ratios: (B, L, 2), (x, y), the share of each map that is no padding.
        device: of the result.

    Returns:
        (B, S, L, 2), (x, y).
    """
    points = []
    for level, (height, width) in enumerate(spatial_shapes):
        y, x = (
            (torch.arange(side, dtype=valid_ratios.dtype, device=device) + 0.5) / side
            for side in (height, width)
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        points.append(grid[None] / valid_ratios[:, None, level])
    return torch.cat(points, 1)[:, :, None] * valid_ratios[:, None]
