"""Work on each token by itself, a few tokens at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from segmeter.cuda_ops import may_keep

# Of 256 channels in float32 a slice has 1 MiB, and 4 MiB of an FFN's hidden ones.
ROWS = 1024


def in_slices(update: Callable[..., Tensor], tokens: Tensor, *others: Tensor) -> Tensor:
    """``update(tokens, *others)`` of (B, K, C) each, where ``update`` looks at no token's neighbours.

    A CPU does inference in slices: what lies between stays in the caches, and is small enough that memory
    freed is used again. All of an FFN's hidden channels at 512x1024 are 42 MiB, which glibc fetches from the
    system, page by page, at each call. Whoever counts or traces the pass sees it whole.
    """
    batch, length = tokens.shape[:2]
    if tokens.device.type != "cpu" or torch.is_grad_enabled() or not may_keep(tokens) or length <= ROWS:
        return update(tokens, *others)
    parts = []
    for image in range(batch):
        for first in range(0, length, ROWS):
            here = (slice(image, image + 1), slice(first, first + ROWS))
            parts.append(update(tokens[here], *(other[here] for other in others)))
    return torch.cat(parts, dim=1).view(batch, length, -1)
