"""What every encoder takes and returns, and how it names its components.

An encoder (the papers' "pixel decoder") is an ``nn.Module`` with

- ``forward(features: dict[str, Tensor]) -> EncoderOutput``, features NCHW at strides 4, 8, 16 and 32
  under the names ``res2`` to ``res5``;
- ``components() -> dict[str, str]``: a pattern over its submodules' names (``*`` matches within one
  name, as in ``fnmatch``) -> the component that submodule belongs to, dotted for depth. The first
  pattern that matches a module or one of its parents wins, the innermost module first.

A layer whose tokens are to be looked at says which they are: :class:`TokenLayer`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from segmeter.encoders.options import Option, Options
from segmeter.words import nearest

FEATURE_NAMES = ("res2", "res3", "res4", "res5")
FEATURE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@dataclass(frozen=True, kw_only=True)
class MultiScaleOutput:
    """What an encoder hands to a decoder of boxes.

    Attributes:
        multi_scale: (B, C, h, w) maps from low to high resolution: strides 32, 16 and 8 in Mask2Former, where
            other systems have strides 64 and 4 as well.
    """

    multi_scale: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class EncoderOutput(MultiScaleOutput):
    """What an encoder hands to the mask decoder.

    Attributes:
        mask_features: (B, C, H/4, W/4) pixel embeddings (H/8, W/8 for RT-M2F).
    """

    mask_features: Tensor


@runtime_checkable
class Encoder(Protocol):
    """An encoder of your own: an ``nn.Module`` that is built with the channels of its features.

    The class takes ``in_channels``, the channels of ``res2`` to ``res5`` by name, and further arguments by
    name as it likes. It may have ``components()`` too.
    """

    def forward(self, features: dict[str, Tensor]) -> EncoderOutput:
        """Mask features and three maps from NCHW features at strides 4 to 32, ``res2`` to ``res5``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the system around an encoder asks of it.

    Attributes:
        levels: of tokens, names of feature levels from low to high resolution; ``res6`` is a further one at
            stride 64, projected from ``res5`` by a 3x3 convolution of stride 2.
        ffn_dim: hidden channels of the FFN in the encoder's layers.
        has_masks: whether it wants pixel embeddings; without them an encoder gives a
            :class:`MultiScaleOutput` and has no stride-4 path.
    """

    levels: tuple[str, ...] = ("res5", "res4", "res3")
    ffn_dim: int = 1024
    has_masks: bool = True


MASK2FORMER = Host()


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """An encoder: how it is built, and what it is.

    Attributes:
        name: as a user writes it.
        title: as a paper writes it.
        summary: what it does, in one line.
        source: the paper.
        build: takes the channels of ``res2`` to ``res5`` and the options by name.
        options: see :class:`encoders.options.Options`.
        hosted: its options inside another system than Mask2Former; its ``build`` then takes that ``host`` by
            name as well. None where it goes into no other system.
        levels: the levels of its maps in a host with these options, from low to high resolution.
        is_own: whether it is the user's own.
        identity: tells two encoders of the user's own of one name apart.
    """

    name: str
    title: str
    summary: str
    source: str
    build: Callable[..., nn.Module]
    options: tuple[Option, ...] = ()
    together: Callable[[Mapping[str, Any]], None] = field(default=lambda values: None)
    hosted: Callable[[Host], tuple[Option, ...]] | None = None
    levels: Callable[[Host, Mapping[str, Any]], tuple[str, ...]] = field(
        default=lambda host, options: host.levels
    )
    takes_any: bool = False
    is_own: bool = False
    identity: Hashable = None

    @property
    def settings(self) -> Options:
        """Its options, to read, check and title them."""
        return Options(
            owner=self.name,
            known=self.options,
            takes_any=self.takes_any,
            takes_components=self.is_own,
            together=self.together,
        )


@dataclass(frozen=True)
class LayerTokens:
    """The tokens of one call of a layer.

    Attributes:
        tokens: (B, K, C) all tokens that the layer reads.
        sizes: (H, W) of each level in the order of the tokens; empty where they are of one map whose sides
            the layer is not told.
        updated: how many tokens it updates; its output has those. They are whole levels.
        first: the first of them; 0 where the tokens run from low to high resolution.
    """

    tokens: Tensor
    sizes: tuple[tuple[int, int], ...]
    updated: int
    first: int = 0


@runtime_checkable
class TokenLayer(Protocol):
    """A layer that tells its tokens: called with the arguments of ``forward`` by whoever watches it."""

    def layer_tokens(self, *args: Any, **kwargs: Any) -> LayerTokens:
        """The tokens of a call with these arguments."""


def check_channels(in_channels: Mapping[str, int], needed: Sequence[str]) -> None:
    """Check the channel table an encoder is built with.

    Raises:
        ValueError: a level is missing, unknown, or has no positive channel count.
    """
    for name in in_channels:
        if name not in FEATURE_NAMES:
            raise ValueError(f"unknown feature level {name!r}{nearest(name, FEATURE_NAMES)}")
    for name in needed:
        channels = in_channels.get(name)
        if channels is None:
            raise ValueError(f"in_channels lacks {name!r}; needed: {', '.join(needed)}")
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"in_channels[{name!r}] must be a positive integer, got {channels!r}")


def check_features(
    features: Mapping[str, Tensor], in_channels: Mapping[str, int], needed: Sequence[str]
) -> None:
    """Check that the feature maps are there, NCHW, with the channels the encoder was built for.

    Raises:
        ValueError: a level is missing or its shape does not fit.
    """
    for name in needed:
        if name not in features:
            raise ValueError(f"features lack {name!r}; got: {', '.join(sorted(features)) or 'none'}")
        shape = tuple(features[name].shape)
        if len(shape) != 4 or shape[1] != in_channels[name]:
            raise ValueError(f"features[{name!r}] must be (B, {in_channels[name]}, H, W), got {shape}")
