"""Tensors that follow from a size alone, kept for the next pass of that size."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

T = TypeVar("T")


def may_keep(like: Tensor) -> bool:
    """Whether what goes with this tensor may be kept: it holds values, and nobody watches or traces the pass.

    Whoever counts operators must see them at every pass, not at the first alone.
    """
    return (
        type(like) is Tensor
        and like.device.type in ("cpu", "cuda")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
    )


class Kept(Generic[T]):
    """Results of ``make``, of which the last ``most`` are kept.

    A replay of a captured CUDA graph reads what its capture read, so that is kept for good.
    """

    def __init__(self, make: Callable[..., T], most: int) -> None:
        self.make = make
        self._captured: dict[tuple[Hashable, ...], T] = {}

        @lru_cache(maxsize=most)
        def recent(*key: Any) -> T:
            # Kept tensors must serve training too, whoever asked first.
            with torch.inference_mode(False), torch.no_grad():
                return make(*key)

        self._recent = recent

    def of(self, *key: Hashable) -> T:
        """``make(*key)``, now or earlier."""
        kept = self._captured[key] if key in self._captured else self._recent(*key)
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            self._captured[key] = kept
        return kept

    def clear(self) -> None:
        """Forget all but what captured graphs read."""
        self._recent.cache_clear()
