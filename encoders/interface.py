"""What every encoder takes and returns, and how it names its components.

An encoder (the papers' "pixel decoder") is an ``nn.Module`` with

- ``forward(features: dict[str, Tensor]) -> EncoderOutput``, features NCHW at strides 4, 8, 16 and 32
  under the names ``res2`` to ``res5``;
- ``components() -> dict[str, str]``: a pattern over its submodules' names (``*`` matches within one
  name, as in ``fnmatch``) -> the component that submodule belongs to, dotted for depth. The first
  pattern that matches a module or one of its parents wins, the innermost module first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor

FEATURE_NAMES = ("res2", "res3", "res4", "res5")
FEATURE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """What an encoder hands to the mask decoder.

    Attributes:
        mask_features: (B, C, H/4, W/4) pixel embeddings (H/8, W/8 for RT-M2F).
        multi_scale: (B, C, h, w) maps from low to high resolution: strides 32, 16 and 8.
    """

    mask_features: Tensor
    multi_scale: list[Tensor]


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


def nearest(word: str, choices: Sequence[str]) -> str:
    """The end of an error line: the nearest valid choice, or all of them.

    >>> nearest("pro-scal", ["m2f", "pro-scale"])
    "; did you mean 'pro-scale'?"
    """
    close = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(choices)}"
