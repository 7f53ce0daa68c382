"""The blocks of a library's model as layers that tell their tokens, found by running it once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.interface import LayerTokens
from segmeter.harness.inputs import Size
from segmeter.harness.models import tensors_in

# Sides of patches, and strides of stages.
STRIDES = (4, 8, 14, 16, 32)
# Tokens beside the patches: a class token, registers, the queries of EoMT's last blocks. More is no map.
MOST_BESIDE = 0.25
FEW = 16


@torch.inference_mode()
def tell_tokens(model: nn.Module, size: Size) -> int:
    """Let each repeated block that maps tokens (B, T, C) to tokens of the same shape tell them.

    Blocks are members of lists, the outermost; their tokens are a map's patches, row by row, after what
    stands beside them.

    Args:
        model: with weights; called once with a black image.
        size: of the network's input (H, W).

    Returns:
        The number of blocks.
    """
    seen: set[str] = set()

    def note(path: str) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, named: Any, output: Any) -> None:
            given: Any
            made: Any
            given, made = (next(tensors_in(value), None) for value in ((args, named), output))
            same = given is not None and made is not None and given.shape == made.shape
            if same and given.dim() == 3 and grid_of(given.shape[1], size) is not None:
                seen.add(path)

        return after

    handles = [
        child.register_forward_hook(note(f"{path}.{name}" if path else name), with_kwargs=True)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
        for name, child in module.named_children()
    ]
    try:
        model(next(model.parameters()).new_zeros((1, 3, *size)))
    finally:
        for handle in handles:
            handle.remove()
    blocks = [path for path in seen if not any(path.startswith(f"{other}.") for other in seen)]

    def told(*args: Any, **named: Any) -> LayerTokens:
        # The first tensor that a block is called with, by place or by keyword.
        x: Tensor = next(tensors_in((args, named)))
        grid = grid_of(x.shape[1], size)
        patches = grid[0] * grid[1] if grid else x.shape[1]
        return LayerTokens(x[:, x.shape[1] - patches :], (grid,) if grid else (), patches)

    for path in blocks:
        model.get_submodule(path).layer_tokens = told  # type: ignore[assignment]
    return len(blocks)


def grid_of(tokens: int, size: Size) -> Size | None:
    """(high, wide) of the map that a number of tokens is, the one that leaves the fewest beside it.

    >>> grid_of(1 + 14 * 14, (224, 224)), grid_of(200 + 5 + 1600, (640, 640)), grid_of(100, (640, 640))
    ((14, 14), (40, 40), None)
    """
    grids = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
    fitting = [
        grid
        for grid in grids
        if 0 < grid[0] * grid[1] <= tokens and tokens - grid[0] * grid[1] <= max(FEW, MOST_BESIDE * tokens)
    ]
    return max(fitting, key=lambda grid: grid[0] * grid[1], default=None)
