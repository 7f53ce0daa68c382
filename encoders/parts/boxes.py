"""Boxes as references of queries: codes, proposals from tokens, results in pixels.

Source: DINO (arXiv 2203.03605), section 3; official code IDEA-Research/DINO, ``models/dino/utils.py``, which
MaskDINO and RT-DETR follow. A box is (centre x, centre y, width, height) in [0, 1] of the padded image;
before its sigmoid it is called a reference.

Legend: B batch, K tokens, Q queries, N classes, C channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Sizes
from segmeter.encoders.parts.layers import Levels

# Proposals of the first level are this large, as a share of the image; each further level doubles it.
PROPOSAL_SIDE = 0.05
# A proposal nearer to a border is none.
PROPOSAL_MARGIN = 0.01
MAX_DETECTIONS = 300


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """The logit of x in [0, 1], neither end nearer than ``eps``."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def box_code(boxes: Tensor, channels: int = 128) -> Tensor:
    """Sine code of boxes (B, Q, 4) -> (B, Q, 4 * channels): y, then x, width and height, at 2 pi."""
    index = torch.arange(channels, device=boxes.device, dtype=torch.float32)
    frequency = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angle = boxes[..., [1, 0, 2, 3], None] * (2 * math.pi) / frequency
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(2)


@dataclass(frozen=True)
class Proposals:
    """A box for each token.

    Attributes:
        references: (1, K, 4) float32 logits; infinite where a token has no proposal.
        valid: (1, K, 1) bool.
    """

    references: Tensor
    valid: Tensor

    @classmethod
    def of(cls, levels: Levels) -> "Proposals":
        """Boxes around the tokens' centres, as large as the level's place in the order says."""
        sides = [
            torch.full((height * width, 2), PROPOSAL_SIDE * 2.0**place, device=levels.centres.device)
            for place, (height, width) in enumerate(levels.sizes)
        ]
        boxes = torch.cat((levels.centres.float(), torch.cat(sides)), dim=1)[None]
        inside = (boxes > PROPOSAL_MARGIN) & (boxes < 1 - PROPOSAL_MARGIN)
        valid = inside.all(dim=-1, keepdim=True)
        references = torch.log(boxes / (1 - boxes)).masked_fill(~valid, float("inf"))
        return cls(references, valid)


def best_tokens(class_logits: Tensor, number: int) -> Tensor:
    """Indices (B, number) of the tokens whose best class scores highest; class_logits (B, K, N).

    Raises:
        ValueError: there are fewer tokens.
    """
    tokens = class_logits.shape[1]
    if tokens < number:
        raise ValueError(f"the image has {tokens} tokens, fewer than the {number} queries; take a larger one")
    return class_logits.max(dim=-1).values.topk(number, dim=1).indices


def picked(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of (B, K, D) -> (B, Q, D)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre and sides -> left, top, right, bottom."""
    centre, sides = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - sides / 2, centre + sides / 2), dim=-1)


@dataclass(frozen=True, kw_only=True)
class BoxOutput:
    """What a decoder of boxes returns: each layer's prediction, the last one's last.

    Attributes:
        class_logits: (D, B, Q, N), D layers; scored by a sigmoid, without "no object".
        boxes: (D, B, Q, 4), in [0, 1] of the padded image.
    """

    class_logits: Tensor
    boxes: Tensor


@dataclass(frozen=True, kw_only=True)
class DetectionOutput:
    """What a detector returns, by falling score.

    Attributes:
        scores: (B, R).
        labels: (B, R) int64 classes.
        boxes: (B, R, 4) left, top, right, bottom in pixels of the original image.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor


class DetectionPostProcess(nn.Module):
    """The best pairs of query and class, with their boxes in pixels; no suppression of overlaps."""

    def __init__(self, max_detections: int = MAX_DETECTIONS) -> None:
        super().__init__()
        self.max_detections = max_detections

    def forward(self, output: BoxOutput, sizes: Sizes) -> DetectionOutput:
        """Post-process the last layer's prediction of a batch."""
        logits, boxes = output.class_logits[-1].float(), output.boxes[-1].float()
        classes = logits.shape[-1]
        scores = logits.sigmoid().flatten(1)
        scores, pairs = scores.topk(min(self.max_detections, scores.shape[1]), dim=1)
        chosen = picked(corners(boxes), torch.div(pairs, classes, rounding_mode="floor"))
        (padded_height, padded_width), (height, width), (out_height, out_width) = (
            sizes.padded,
            sizes.image,
            sizes.original,
        )
        scale = (padded_width / width * out_width, padded_height / height * out_height)
        return DetectionOutput(
            scores=scores, labels=pairs % classes, boxes=chosen * chosen.new_tensor(scale * 2)
        )
