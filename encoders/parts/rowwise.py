"""Modules that a CPU's inference may run row by row, in memory of the caller's: see :mod:`cuda_ops.rows`.

Each is the module of torch whose name it has, with the same parameters, and works as that one does unless it
is given memory to write to. Whoever gives it has asked :func:`cuda_ops.rows.by_rows`.

Legend: K rows (tokens or pixels), C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops import rows


class Linear(nn.Linear):
    """A linear layer."""

    def forward(
        self, x: Tensor, out: Tensor | None = None, relu: bool = False, panels: Tensor | None = None
    ) -> Tensor:
        """(..., C_in) -> (..., C_out); (K, C_in) -> (K, C_out) with what :func:`rows.product` takes."""
        if out is not None:
            return rows.product(x, self.weight, self.bias, out, relu, panels)
        if x.dim() < 2 or not rows.serve(x, self):
            return super().forward(x)
        each = x.flatten(0, -2)
        found = rows.product(each, self.weight, self.bias, rows.empty(len(each), self.out_features))
        return found.view(*x.shape[:-1], self.out_features)


class LayerNorm(nn.LayerNorm):
    """A layer norm of one tensor, or of the sum of two."""

    def forward(self, x: Tensor, others: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); with ``others`` and ``out``, (K, C) each, of their sum."""
        if others is None or out is None:
            return super().forward(x)
        return rows.add_norm(x, others, self, out)


class GroupNorm(nn.GroupNorm):
    """A group norm that can work in place."""

    def forward(self, x: Tensor, in_place: bool = False, relu: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); in place, of maps channels last, then ReLU if asked for."""
        if not in_place:
            return super().forward(x)
        for image in x:
            rows.group_norm_(rows.pixels(image).flatten(0, 1), self, relu)
        return x


class Conv2d(nn.Conv2d):
    """A convolution; a 1x1 one is a matrix product of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return (
            rows.pointwise(x, self) if rows.is_pointwise(self) and rows.serve(x, self) else super().forward(x)
        )


def normed_(x: Tensor, norm: "GroupNorm", *owners: nn.Module, relu: bool = False) -> Tensor:
    """A map that its owners have just made, normed, then ReLU if asked for; in place if it may be."""
    if rows.by_rows(x, norm, *owners) and all(rows.pixels(image).is_contiguous() for image in x):
        return norm(x, in_place=True, relu=relu)
    found = norm(x)
    return F.relu(found, inplace=True) if relu else found
