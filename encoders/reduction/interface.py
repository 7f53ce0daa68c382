"""What a reducer of tokens takes and gives back, and how the tokens that are left are told from the patches.

A reducer is an ``nn.Module`` that a plain vision transformer calls inside some of its blocks, between the
attention and the MLP:

- ``layers``: the blocks, counted from 1;
- ``forward(tokens: TokenSet) -> (x, index)``: the tokens that are left (B, T', C), class token first, and for
  each token that came in the row of ``x`` that holds it, (B, T).

It may also say

- ``proportional = True``: attention weighs a token by the patches it stands for (ToMe's);
- ``reads_keys = True``: :attr:`TokenSet.keys` are wanted;
- ``embed(images, embedding, positions) -> (x, rows)``: it makes the first tokens itself (CTS);
- ``batched = False``: images keep different numbers of tokens, so that they run one after the other (STEP).

A file of the user's own with such a module is a reducer: ``reduction=mine.py:Mine``.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.options import Option, Options
from segmeter.encoders.reduction.limits import check_layers


@dataclass(frozen=True)
class TokenSet:
    """The tokens inside a block.

    Attributes:
        x: (B, T, C), the class token first.
        rows: (B, N) row of ``x`` that holds each patch of the image, in raster order.
        grid: patches of the image, (high, wide).
        layer: number of the block, from 1.
        keys: (B, T, C / heads) mean of the attention's keys over its heads, if asked for.
        protected: leading tokens that have to stay: 1 for a class token, 0 in SegFormer.
    """

    x: Tensor
    rows: Tensor
    grid: tuple[int, int]
    layer: int
    keys: Tensor | None = None
    protected: int = 1

    @property
    def sizes(self) -> Tensor:
        """(B, T) patches that each token stands for; 1 for the class token."""
        return sizes_of(self.rows, self.x.shape[1]).to(self.x.dtype)


@dataclass(frozen=True)
class PatchTokens:
    """What is left of an image's patches after the last block.

    Attributes:
        x: (B, T, C), without the class token.
        rows: (B, N) row of ``x`` that holds each patch; -1 for a patch whose token was halted. None where
            every patch has its own token.
        grid: patches of the image, (high, wide).
        canvas: (B, N, K) map logits of the halted tokens, each as the head that halted it left them; None
            where no token was.
    """

    x: Tensor
    rows: Tensor | None
    grid: tuple[int, int]
    canvas: Tensor | None = None

    def restore(self, values: Tensor) -> Tensor:
        """Values of the tokens (B, T, K) as values of the patches (B, N, K)."""
        if self.rows is None:
            return values
        if self.canvas is None:
            return take_rows(values, self.rows)
        if not values.shape[1]:  # every patch is halted
            return self.canvas.to(values.dtype)
        restored = take_rows(values, self.rows.clamp(min=0))
        return torch.where(self.rows[..., None] < 0, self.canvas.to(restored.dtype), restored)


@dataclass(frozen=True, kw_only=True)
class ReducerKind:
    """A reducer: how it is built, and what it is.

    Attributes:
        name: as a user writes it.
        title: as a paper writes it.
        summary: what it does, in one line.
        source: the paper.
        build: takes the options by name, completed by ``published``, and returns the module.
        options: see :class:`encoders.options.Options`; None stands for the published value.
        published: a backbone's name -> the values of its published row.
        decoder: takes the options, the width and the number of classes, and returns the decoder that has to
            stand in the place of the system's own; None where the system's own does.
        context: whether ``build`` also takes what the model is: ``dim``, ``num_classes`` and ``depth``.
        depends_on_image: whether the number of tokens that it leaves depends on what the image shows.
        needs_training: whether that number means nothing before a part of it is trained.
        identity: tells two of the user's own of one name apart.
    """

    name: str
    title: str
    summary: str
    source: str
    build: Callable[..., nn.Module]
    options: tuple[Option, ...] = ()
    published: Callable[[str], Mapping[str, Any]] = field(default=lambda backbone: {})
    decoder: Callable[[Mapping[str, Any], int, int], nn.Module | None] = field(
        default=lambda values, dim, num_classes: None
    )
    context: bool = False
    depends_on_image: bool = False
    needs_training: bool = False
    takes_any: bool = False
    identity: Hashable = None

    @property
    def settings(self) -> Options:
        """Its options, to read, check and title them."""
        return Options(owner=self.name, known=self.options, takes_any=self.takes_any)

    def values(self, backbone: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its options complete: as given, else as published for the backbone, else their defaults.

        Raises:
            ValueError: an unknown option or a value that is not allowed, in one line.
        """
        checked = self.settings.check({name: value for name, value in given.items() if value is not None})
        return {**self.settings.defaults, **self.published(backbone), **checked}


def layers_of(reduction: nn.Module, name: str, where: str, last: int) -> tuple[int, ...]:
    """The blocks or stages in which a reducer says that it works; () where it says none.

    Args:
        reduction: the reducer.
        name: of it, for a message.
        where: begins a message on layers that there are not, such as "ViT-S/16 has layers".
        last: number of the last.

    Raises:
        ValueError: they are no whole numbers from 1 to the last.
    """
    layers = getattr(reduction, "layers", ())
    if not isinstance(layers, list | tuple | range | set | frozenset):
        raise ValueError(f"layers of {name} must be whole numbers such as (2, 5), got {layers!r}")
    check_layers(layers, name, where, last)
    return tuple(layers)


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """``values[b, rows[b, n]]``: (B, T, K) and (B, N) -> (B, N, K)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def sizes_of(rows: Tensor, tokens: int) -> Tensor:
    """(B, T) how many patches each of ``tokens`` rows holds, float32; at least 1, as the class token's is."""
    sizes = torch.zeros((rows.shape[0], tokens), device=rows.device)
    return sizes.scatter_add_(1, rows, torch.ones_like(rows, dtype=sizes.dtype)).clamp_(min=1)


def first_rows(batch: int, patches: int, device: torch.device) -> Tensor:
    """(B, N) rows of patches that follow a class token: 1, 2, 3, ..."""
    return torch.arange(1, patches + 1, device=device).expand(batch, patches)
