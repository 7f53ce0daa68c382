"""The sizes of the levels, checked once: every implementation takes them from here."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Tokens are counted in 32 bits by the kernels, within one item of the batch.
MAX_TOKENS = 2**31 - 2

# Reading a tensor from a GPU waits for the GPU; the encoder's layers share one tensor of sizes, so that
# it is read once per forward pass. The value is the tensor's version and its content.
_read_before = WeakTensorKeyDictionary()


def check_geometry(spatial_shapes: Tensor, level_start_index: Tensor, num_tokens: int) -> None:
    """Check that the levels follow each other without gaps and together hold ``num_tokens`` tokens.

    While a CUDA graph is captured nothing can be read from the GPU, and sizes not seen before go
    unchecked; the CUDA kernels read no token that does not exist in any case.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if num_tokens > MAX_TOKENS:
        raise ValueError(f"value must have at most {MAX_TOKENS} tokens, got {num_tokens}")
    shapes, starts = _content(spatial_shapes), _content(level_start_index)
    if shapes is None or starts is None:
        return
    if any(height < 1 or width < 1 for height, width in shapes):
        raise ValueError(f"spatial_shapes must be at least 1x1, got {shapes}")
    counts = [height * width for height, width in shapes]
    if sum(counts) != num_tokens:
        raise ValueError(
            f"spatial_shapes {shapes} hold {sum(counts)} tokens in all, but value has {num_tokens}"
        )
    expected = [sum(counts[:level]) for level in range(len(counts))]
    if starts != expected:
        raise ValueError(f"level_start_index must be {expected} for these spatial_shapes, got {starts}")


def known_sizes(spatial_shapes: Tensor) -> tuple[tuple[int, int], ...] | None:
    """(H, W) of each level, or None where they cannot be read now: see :func:`check_geometry`."""
    content = _content(spatial_shapes)
    return None if content is None else tuple((height, width) for height, width in content)


def remember(tensor: Tensor, content: list) -> None:
    """Note what a tensor holds, so that it need not be read from the GPU."""
    if tensor.is_cuda:
        _read_before[tensor] = (_version(tensor), content)


def _content(tensor: Tensor) -> list | None:
    """The tensor as nested lists, or None where it cannot be read now."""
    if not tensor.is_cuda:
        return tensor.tolist()
    known = _read_before.get(tensor)
    if known is not None and known[0] == _version(tensor):
        return known[1]
    if torch.cuda.is_current_stream_capturing():
        return None
    content: list = tensor.tolist()
    remember(tensor, content)
    return content


def _version(tensor: Tensor) -> int | None:
    # Tensors made in inference mode do not count their versions.
    return None if tensor.is_inference() else tensor._version
