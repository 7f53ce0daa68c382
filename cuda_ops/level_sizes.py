"""The levels' sizes and first tokens as tensors, which the op and the official extension take.

Making them on a GPU copies numbers to it, and reading them back to check them waits for it. Neither is
needed twice for one size: a plain pass keeps them, and a compiled one copies what is kept within the GPU.

Legend: L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from segmeter.cuda_ops.geometry import remember
from segmeter.cuda_ops.kept import Kept

Sizes = Sequence[tuple[int, int]]


def level_tensors(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes (L, 2) and first tokens (L,) of levels of the given (H, W), int64.

    They may be kept for the next layer and the next pass: do not change them.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return _traced(sizes, device)
    if torch.compiler.is_compiling():
        return compiled_level_tensors(sizes, device)
    if _get_current_dispatch_mode() is None and device.type in ("cpu", "cuda"):
        return _kept.of(tuple((int(height), int(width)) for height, width in sizes), device)
    return _made(sizes, device)


def compiled_level_tensors(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """:func:`level_tensors` for a pass that torch compiles, as one operator."""
    # An operator finds its device by its tensors.
    like = torch.empty(0, device=device)
    shapes, starts = torch.ops.segmeter.level_tensors(like, [side for size in sizes for side in size])
    return shapes, starts


def _made(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor([list(size) for size in sizes], dtype=torch.int64, device=device),
        torch.tensor(_starts(sizes), dtype=torch.int64, device=device),
    )


_kept = Kept(_made, most=256)


def _traced(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of sizes that may be symbols, by the device itself."""

    def row(numbers: Sequence[int]) -> Tensor:
        return torch.stack([torch.full((), each, dtype=torch.int64, device=device) for each in numbers])

    return torch.stack([row(size) for size in sizes]), row(_starts(sizes))


def _starts(sizes: Sizes) -> list[int]:
    starts = [0]
    for height, width in sizes[:-1]:
        starts.append(starts[-1] + height * width)
    return starts


def _compiled(like: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What a compiled pass calls: new tensors, as it may write into memory that it has read last."""
    pairs = tuple(zip(sizes[::2], sizes[1::2], strict=True))
    shapes, starts = (each.clone() for each in _kept.of(pairs, like.device))
    remember(shapes, [list(pair) for pair in pairs])
    remember(starts, _starts(pairs))
    return shapes, starts


def _compiled_fake(like: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    levels = len(sizes) // 2
    return (
        like.new_empty((levels, 2), dtype=torch.int64),
        like.new_empty((levels,), dtype=torch.int64),
    )


_library = torch.library.Library("segmeter", "FRAGMENT")
_library.define(
    "level_tensors(Tensor like, SymInt[] sizes) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,)
)
_library.impl("level_tensors", _compiled, "CompositeExplicitAutograd")
torch.library.register_fake("segmeter::level_tensors", _compiled_fake, lib=_library)
