"""Merging inside SegFormer's attention, undone behind it: Segformer++'s modes.

Source: Segformer++ (MIPR 2024); official code KieDani/SegformerPlusPlus and tomesd 0.1.3. A mode takes the
tokens of a grid and gives fewer, and for each token of the grid the row that holds it.

- ``bsm``: the top left token of each cell is a destination; of all others, those most alike to a destination
  become one with it. Their number is fixed.
- ``n2d``, ``n1d``: means of cells of the grid, or of runs of the raster sequence.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops import Kept, may_keep
from segmeter.encoders.reduction.interface import TokenSet
from segmeter.encoders.reduction.merging import Gathering, Matching
from segmeter.encoders.reduction.modes import GridMode

T = TypeVar("T")


class BipartiteMerging(nn.Module):
    """``bsm``: a fixed share of the tokens joins the destinations that they are most alike to.

    Args:
        rate: share of the tokens that goes.
        stride: sides of a cell, (high, wide).
    """

    def __init__(self, rate: float, stride: tuple[int, int]) -> None:
        super().__init__()
        self.rate = rate
        self.stride = stride
        self.matching = Matching()
        self.gathering = Gathering()

    def forward(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`: the sources that stay, then the destinations.

        Raises:
            ValueError: no whole cell fits into the grid.
        """
        x, (high, wide) = tokens.x, tokens.grid
        down, across = self.stride
        if down > high or across > wide:
            raise ValueError(
                f"a cell of {down}x{across} tokens does not fit into the {high}x{wide} grid of stage "
                f"{tokens.layer}: choose a smaller stride or a larger image"
            )
        sources, destinations = of_size(cells, x, tokens.grid, self.stride)
        batch, number = x.shape[:2]
        gone = min(int(number * self.rate), len(sources))
        if not gone:
            return x, torch.arange(number, device=x.device).expand(batch, number)
        best, to = self.matching(x[:, sources], x[:, destinations])
        leaves = torch.zeros(best.shape, dtype=torch.bool, device=x.device)
        leaves.scatter_(1, best.topk(gone, dim=1).indices, value=True)
        kept = len(sources) - gone
        index = torch.empty((batch, number), dtype=torch.int64, device=x.device)
        index[:, sources] = torch.where(leaves, kept + to, (~leaves).cumsum(1) - 1)
        index[:, destinations] = torch.arange(kept, number - gone, device=x.device).expand(batch, -1)
        return self.gathering(x, index, number - gone), index


def make_cells(grid: tuple[int, int], stride: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of a grid's sources and destinations; what lies beyond the last whole cell is a source."""
    (high, wide), (down, across) = grid, stride
    corners = {
        row * down * wide + column * across for row in range(high // down) for column in range(wide // across)
    }
    sources = [place for place in range(high * wide) if place not in corners]
    return torch.tensor(sources, device=device), torch.tensor(sorted(corners), device=device)


def make_nearest(number: int, places: int, device: torch.device) -> Tensor:
    """Which of ``number`` cells each place is given by nearest resizing, (places,).

    As torch reckons it, in float32: where a border falls on a place, whole numbers can give another cell.
    """
    scale = np.float32(number) / np.float32(places)
    cell = (np.arange(places, dtype=np.float32) * scale).astype(np.int64)
    return torch.tensor(cell.clip(max=number - 1), device=device)


MOST_KEPT = 256
cells = Kept(make_cells, MOST_KEPT)
nearest = Kept(make_nearest, MOST_KEPT)


def of_size(kept: Kept[T], like: Tensor, *size: Any) -> T:
    """What goes with a size on a tensor's device, kept where it may be."""
    return (kept.of if may_keep(like) else kept.make)(*size, like.device)


class CellMeans(nn.Module):
    """``n2d``: the mean of each cell; a cell at the border averages what is there.

    The rows that give the tokens back are those of nearest resizing, which for sides that the cell does not
    divide are not the cells themselves.
    """

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`."""
        (high, wide), (down, across) = tokens.grid, self.stride
        maps = tokens.x.transpose(1, 2).unflatten(2, tokens.grid)
        pooled = F.avg_pool2d(maps, self.stride, ceil_mode=True, count_include_pad=False)
        rows, columns = -(-high // down), -(-wide // across)
        down_to, across_to = of_size(nearest, maps, rows, high), of_size(nearest, maps, columns, wide)
        index = (down_to[:, None] * columns + across_to).flatten().expand(len(maps), -1)
        return pooled.flatten(2).transpose(1, 2), index

    def restore(self, values: Tensor, index: Tensor, grid: tuple[int, int]) -> Tensor:
        """Values of the cells (B, T', C) as values of the grid's tokens (B, T, C)."""
        (high, wide), (down, across) = grid, self.stride
        maps = values.transpose(1, 2).unflatten(2, (-(-high // down), -(-wide // across)))
        return F.interpolate(maps, size=grid, mode="nearest").flatten(2).transpose(1, 2)


class RunMeans(nn.Module):
    """``n1d``: the mean of each run of the raster sequence; the last run averages what is there."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`."""
        number = tokens.x.shape[1]
        pooled = F.avg_pool1d(
            tokens.x.transpose(1, 2), self.length, ceil_mode=True, count_include_pad=False
        ).transpose(1, 2)
        return pooled, of_size(nearest, pooled, pooled.shape[1], number).expand(len(pooled), -1)


def build_merging(mode: GridMode) -> nn.Module | None:
    """The module of a mode; None for all tokens."""
    if mode.mode == "bsm":
        return BipartiteMerging(mode.rate, mode.stride)
    if mode.mode == "n2d":
        return CellMeans(mode.stride)
    return RunMeans(mode.stride[0]) if mode.mode == "n1d" else None
