"""A whole segmentation model: backbone, encoder, masked decoder, post-processing.

Source: Mask2Former (arXiv 2112.01527); official code facebookresearch/Mask2Former,
``maskformer_model.py``. Images are RGB on 0..255, normalised, then padded with zeros at the right
and bottom to multiples of 32.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.table import build_backbone, default_num_queries
from segmeter.encoders.segmenter.decoder import MaskedDecoder
from segmeter.encoders.segmenter.postprocess import PostProcess, SegmentationOutput
from segmeter.encoders.table import build_encoder

# ImageNet statistics of R, G, B.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
SIZE_DIVISOR = 32


class Segmenter(nn.Module):
    """The four parts in a row; their costs are the four parts of the papers' totals.

    Args:
        backbone: images (B, 3, H, W) -> ``res2`` to ``res5``.
        encoder: see :mod:`encoders.interface`.
        decoder: maps and mask features -> class and mask logits.
        postprocess: logits -> results at the original size.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module,
        decoder: MaskedDecoder,
        postprocess: PostProcess,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.decoder = decoder
        self.postprocess = postprocess

    def forward(
        self,
        images: Tensor,
        image_size: tuple[int, int] | None = None,
        original_size: tuple[int, int] | None = None,
    ) -> SegmentationOutput:
        """Segment a batch of images.

        Args:
            images: (B, 3, H, W), from :func:`normalise` and :func:`pad_to_multiple`.
            image_size: (height, width) of the images without padding; None for the padded size.
            original_size: (height, width) of the results; None for the padded size.

        Raises:
            ValueError: the images have another shape, or H or W is no multiple of 32.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {shape}")
        padded_size = (shape[2], shape[3])
        fitting = _padded(padded_size, SIZE_DIVISOR)
        if padded_size != fitting:
            raise ValueError(
                f"image height and width must be multiples of {SIZE_DIVISOR}, got "
                f"{shape[2]}x{shape[3]}; pad_to_multiple makes it {fitting[0]}x{fitting[1]}"
            )
        encoded = self.encoder(self.backbone(images))
        decoded = self.decoder(encoded.multi_scale, encoded.mask_features)
        return self.postprocess(
            decoded.class_logits,
            decoded.mask_logits,
            padded_size,
            image_size or padded_size,
            original_size or padded_size,
        )


def build_segmenter(
    encoder: str,
    backbone: str,
    num_classes: int,
    num_queries: int | None = None,
    **encoder_options: Any,
) -> Segmenter:
    """Build a whole model with random weights on the current default device.

    Args:
        encoder: a key of :data:`encoders.ENCODERS`.
        backbone: a name that :func:`encoders.backbones.table.build_backbone` knows.
        num_classes: classes without "no object".
        num_queries: mask queries; None for the papers' choice for this backbone.
        encoder_options: see :func:`encoders.encoder_options`.

    Raises:
        ValueError: an unknown name, option or value, or a count below 1.
    """
    if num_queries is None:
        num_queries = default_num_queries(backbone)
    # The decoder is built first: it checks the counts, and is far quicker to build than a backbone.
    decoder = MaskedDecoder(num_classes, num_queries)
    extractor = build_backbone(backbone)
    return Segmenter(
        extractor,
        build_encoder(encoder, extractor.channels, **encoder_options),
        decoder,
        PostProcess(),
    )


def normalise(image: np.ndarray) -> Tensor:
    """An RGB image, uint8 (H, W, 3), as the network wants it: float32 (3, H, W).

    Raises:
        ValueError: another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


def pad_to_multiple(images: Tensor, multiple: int = SIZE_DIVISOR) -> Tensor:
    """Pad (..., H, W) with zeros at the bottom and right until both are multiples of ``multiple``.

    Raises:
        ValueError: ``multiple`` below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    height, width = images.shape[-2:]
    padded_height, padded_width = _padded((height, width), multiple)
    return F.pad(images, (0, padded_width - width, 0, padded_height - height))


def _padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The next size up, at least one multiple each way."""
    height, width = (max(1, -(-side // multiple)) * multiple for side in size)
    return height, width
