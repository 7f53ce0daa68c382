"""What a tracer takes for a constant, or cannot prove, in libraries' code, so that it sees the sizes."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.windows import whole_parts

# Of transformers' Mask2Former, OneFormer and Deformable DETR; the first argument's name has changed.
PARAMETERS = ("valid_ratios", "device")
POINTS = "get_reference_points"
# Of transformers' Swin and its kin: blocks, which have windows, and merging layers.
PADDED = ("height", "width")
PAD = "maybe_pad"


@contextmanager
def sizes_seen(model: nn.Module) -> Iterator[None]:
    """Within, reference points and padding of transformers' models follow the sizes that are traced.

    Reference points are made by ``torch.linspace`` there, whose number of steps a tracer takes for a
    constant; Swin's maps are padded by remainders, of which it cannot prove in minutes that windows divide
    the result. Undone at the end.
    """
    changed: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        for name, value in _in_place_of(module):
            setattr(module, name, value)
            changed.append((module, name))
    try:
        yield
    finally:
        for module, name in changed:
            delattr(module, name)


def _in_place_of(module: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    if not type(module).__module__.startswith("transformers."):
        return
    if _takes(module, POINTS) == PARAMETERS:
        yield POINTS, reference_points
    if "Swin" not in type(module).__name__ or _takes(module, PAD)[1:] != PADDED:
        return
    if isinstance(getattr(module, "window_size", None), int):
        yield PAD, partial(whole_windows, module)
    elif hasattr(module, "reduction"):
        yield PAD, even_sides


def _takes(module: nn.Module, name: str) -> tuple[str, ...]:
    """The parameters of a method of the module's class, if the module itself has none of that name."""
    method = getattr(type(module), name, None)
    return () if method is None or name in vars(module) else tuple(inspect.signature(method).parameters)[1:]


def whole_windows(block: Any, maps: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
    """A map (B, H, W, C) padded at its right and bottom to whole windows of the block, and the padding.

    Where there is nothing to cut off afterwards, it is cut off all the same: the padding says so.
    """
    side = block.window_size
    right, bottom = whole_parts(width, side) * side - width, whole_parts(height, side) * side - height
    return F.pad(maps, (0, 0, 0, right, 0, bottom)), (0, 0, 0, 1, 0, 1)


def even_sides(maps: Tensor, height: int, width: int) -> Tensor:
    """A map (B, H, W, C) padded at its right and bottom to even sides."""
    return F.pad(maps, (0, 0, 0, 2 * whole_parts(width, 2) - width, 0, 2 * whole_parts(height, 2) - height))


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
