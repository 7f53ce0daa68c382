"""Put a freshly built model into the state that it has after training, where its count depends on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# EoMT's probability of masked attention in each of its last blocks: 1 when training starts, 0 when it ends,
# and what is inferred with is the latter (Kerssies et al., "Your ViT is secretly an image segmentation
# model", section 3.3).
MASK_PROBABILITY = "attn_mask_probs"


def mask_probabilities(module: nn.Module) -> list[Tensor]:
    """EoMT's buffers of that name."""
    return [buffer for name, buffer in module.named_buffers() if name.rpartition(".")[2] == MASK_PROBABILITY]


def settle(module: nn.Module) -> nn.Module:
    """The module as inference runs it."""
    for buffer in mask_probabilities(module):
        buffer.zero_()
    return module


@contextmanager
def as_training_starts(module: nn.Module) -> Iterator[None]:
    """Within, the module is as it was built."""
    buffers = mask_probabilities(module)
    before = [buffer.clone() for buffer in buffers]
    with torch.no_grad():
        for buffer in buffers:
            buffer.fill_(1)
        try:
            yield
        finally:
            for buffer, values in zip(buffers, before, strict=True):
                buffer.copy_(values)
