"""What reducers share: the best match of every token, and the mean of tokens that become one.

No table of all similarities is kept: rows are compared a part at a time, and only each row's maximum stays.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import wrap_torch_function

# Similarities held at a time: 4 MiB of float32.
AT_A_TIME = 1 << 20


class Matching(nn.Module):
    """Best match of each source among the destinations, by cosine; it has no parameters.

    As a module of its own its cost shows under its own name.
    """

    def forward(self, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
        """Compare.

        Args:
            sources: (B, S, C).
            destinations: (B, D, C).

        Returns:
            The highest cosine (B, S) of each source, and the destination (B, S) that it is with.
        """
        unit = F.normalize(sources, dim=-1)
        targets = F.normalize(destinations, dim=-1).transpose(1, 2)
        batch, number = sources.shape[:2]
        rows = max(1, AT_A_TIME // max(1, batch * destinations.shape[1]))
        best, to = [], []
        for start in range(0, number, rows):
            value, place = torch.bmm(unit[:, start : start + rows], targets).max(2)
            best.append(value)
            to.append(place)
        return torch.cat(best, 1), torch.cat(to, 1)


@wrap_torch_function(lambda unit: (unit,))
def mean_cosine(unit: Tensor) -> Tensor:
    """Mean dot product of the distinct pairs of tokens in each window.

    As a function of its own, it can be told from the elementwise work that it is made of: the sum over all
    ordered pairs is |sum u|^2 - sum |u|^2, so that no pair is formed.

    Args:
        unit: (B, W, k, C) tokens of windows at length 1.

    Returns:
        (B, W).
    """
    size = unit.shape[2]
    pairs = unit.sum(2).square().sum(-1) - unit.square().sum((2, 3))
    return pairs / (size * (size - 1))


class WindowMatching(nn.Module):
    """Mean cosine of the distinct pairs of tokens in each window; it has no parameters."""

    def forward(self, windows: Tensor) -> Tensor:
        """(B, W, k, C) tokens of windows -> (B, W)."""
        return mean_cosine(F.normalize(windows, dim=-1, eps=1e-8))


class Gathering(nn.Module):
    """Tokens that are left and the means of those that became one; it has no parameters."""

    def forward(self, x: Tensor, index: Tensor, rows: int, sizes: Tensor | None = None) -> Tensor:
        """Average.

        Args:
            x: (B, T, C).
            index: (B, T) row of the result that holds each token; every row holds one at least.
            rows: of the result.
            sizes: (B, T) weight of each token; None where all weigh the same.

        Returns:
            (B, rows, C).
        """
        weights = torch.ones(index.shape, device=x.device) if sizes is None else sizes.float()
        total = torch.zeros((len(x), rows), device=x.device).scatter_add_(1, index, weights)
        share = (weights / total.gather(1, index)).to(x.dtype)
        # One product and one sum of all tokens, in the order of the rows.
        out = torch.zeros((len(x), rows, x.shape[2]), dtype=x.dtype, device=x.device)
        return out.scatter_add_(1, index[..., None].expand(-1, -1, x.shape[2]), x * share[..., None])
