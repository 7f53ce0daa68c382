"""Images as networks want them: normalised and padded."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmeter.encoders.chain import DEFAULT_PIXELS, SIZE_DIVISOR, next_multiple

# ImageNet statistics of R, G, B.
PIXEL_MEAN = DEFAULT_PIXELS.mean
PIXEL_STD = DEFAULT_PIXELS.std


def normalise(
    image: np.ndarray, mean: tuple[float, ...] = PIXEL_MEAN, std: tuple[float, ...] = PIXEL_STD
) -> Tensor:
    """An RGB image, uint8 (H, W, 3), as the network wants it: float32 (3, H, W).

    ``mean`` and ``std`` are of R, G and B on 0..255.

    Raises:
        ValueError: another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)
    centre, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (pixels - centre) / scale


def pad_to_multiple(images: Tensor, multiple: int = SIZE_DIVISOR) -> Tensor:
    """Pad (..., H, W) with zeros at the bottom and right until both are multiples of ``multiple``.

    Raises:
        ValueError: ``multiple`` below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    height, width = images.shape[-2:]
    padded_height, padded_width = next_multiple((height, width), multiple)
    return F.pad(images, (0, padded_width - width, 0, padded_height - height))
