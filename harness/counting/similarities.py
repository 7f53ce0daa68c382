"""What reducers of tokens compare by: lengths of tokens, and cosines of pairs that no matrix product makes.

Both are dot products: C multiply-accumulates for a token or a pair of C elements. To the papers' counter they
are nothing, and in torch's operators they are elementwise work. They are told apart inside a reducer alone; a
norm anywhere else stays elementwise work.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from segmeter.encoders.reduction.interface import TokenSet
from segmeter.encoders.reduction.merging import mean_cosine
from segmeter.harness.counting.products import Cost, multiplied

SIMILARITY, NORM = "local_similarities", "token_norms"
_NORMS = ("aten::linalg_vector_norm", "aten::norm")


def is_reducer_call(inputs: Any) -> bool:
    """Whether a module that is called with these is a reducer."""
    return bool(inputs) and isinstance(inputs[0], TokenSet)


def norm_costs(operator: str, args: Any) -> list[Cost] | None:
    """Cost of an operator that takes Euclidean lengths (x, order, ...); None for any other."""
    if operator not in _NORMS or (len(args) > 1 and args[1] not in (None, 2)):
        return None
    return multiplied(NORM, args[0].numel())


def _windows(unit: torch.Tensor) -> list[Cost]:
    """Each distinct pair of the tokens (B, W, k, C) of a window."""
    batch, windows, size, channels = unit.shape
    return multiplied(SIMILARITY, batch * windows * size * (size - 1) // 2 * channels)


def _cosines(x1: torch.Tensor, x2: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> list[Cost]:
    """Each pair, and the lengths of both sides."""
    elements = prod(np.broadcast_shapes(tuple(x1.shape), tuple(x2.shape)))
    return [
        *multiplied(SIMILARITY, elements),
        *multiplied(NORM, x1.numel() + x2.numel()),
        Cost("elementwise", 0, x1.numel() + x2.numel()),
    ]


# A function of a reducer -> what a call with the same arguments costs.
SIMILARITIES: dict[Any, Callable[..., list[Cost]]] = {
    mean_cosine: _windows,
    F.cosine_similarity: _cosines,
}
