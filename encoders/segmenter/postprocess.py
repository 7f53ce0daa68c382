"""From mask logits to results: semantic map, panoptic segments, instances.

Source: Mask2Former (arXiv 2112.01527); official code facebookresearch/Mask2Former,
``maskformer_model.py``. :class:`PostProcess` holds all that the papers' totals count; panoptic and
instance results are read off its output and are in no published figure.

Legend: B batch, Q queries, K classes, H and W of the original image.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A pixel belongs to a mask from this probability on.
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Scoring:
    """How class logits become scores.

    Attributes:
        no_object: whether the last entry is "no object", and scores are a softmax; otherwise every entry is a
            class of its own, and scores are sigmoids.
        temperature: of the softmax over sigmoids that sharpens the scores of semantic and panoptic results.
        threshold: queries whose best class scores no more than this are in no panoptic result.
    """

    no_object: bool = True
    temperature: float = 1.0
    threshold: float = 0.8

    def classes(self, class_logits: Tensor) -> int:
        """Number of classes."""
        return class_logits.shape[-1] - self.no_object

    def scores(self, class_logits: Tensor) -> Tensor:
        """(..., K + 1) or (..., K) logits -> (..., K) scores, as instances have them."""
        return class_logits.softmax(dim=-1)[..., :-1] if self.no_object else class_logits.sigmoid()

    def sharp(self, class_logits: Tensor) -> Tensor:
        """Scores (..., K) for semantic and panoptic results."""
        scores = self.scores(class_logits)
        return scores if self.no_object else (scores / self.temperature).softmax(dim=-1)

    def confident(self, class_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (Q, ...) -> which queries are sure of a class, (Q,) bool, and each one's score and class."""
        if self.no_object:
            scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
            return (labels != class_logits.shape[-1] - 1) & (scores > threshold), scores, labels
        best = class_logits.sigmoid().max(dim=-1).values
        scores, labels = self.sharp(class_logits).max(dim=-1)
        return best > threshold, scores, labels


SOFTMAX = Scoring()


@dataclass(frozen=True, kw_only=True)
class SegmentationOutput:
    """What a segmentation model returns.

    Attributes:
        semantic: (B, K, H, W) class scores at the original size, not normalised over classes; None from a
            system that makes none (:meth:`semantic_map` does then).
        masks: (B, Q, H, W) mask logits at the original size.
        class_logits: (B, Q, K + 1); the last entry is "no object", unless the scoring knows none.
        scoring: how they become scores.
    """

    semantic: Tensor | None
    masks: Tensor
    class_logits: Tensor
    scoring: Scoring = SOFTMAX

    def semantic_map(self) -> Tensor:
        """The class scores (B, K, H, W), worked out from masks and classes if they are not there."""
        if self.semantic is not None:
            return self.semantic
        return semantic_scores(self.class_logits, self.masks, self.scoring)


@dataclass(frozen=True)
class Segment:
    """One panoptic segment: its value in the segmentation (from 1 on) and what it is."""

    id: int
    category_id: int
    isthing: bool


@dataclass(frozen=True)
class PanopticResult:
    """One image's panoptic segmentation.

    Attributes:
        segmentation: (H, W) int32, a segment id per pixel; 0 is void.
        segments: the segments, by id.
    """

    segmentation: Tensor
    segments: list[Segment]


@dataclass(frozen=True)
class InstanceResult:
    """One image's instances, N of them, by falling class score.

    Attributes:
        masks: (N, H, W) bool.
        category_ids: (N,) int64.
        scores: (N,) class score times mean mask probability inside the mask.
    """

    masks: Tensor
    category_ids: Tensor
    scores: Tensor


def semantic_scores(class_logits: Tensor, masks: Tensor, scoring: Scoring = SOFTMAX) -> Tensor:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, H, W) -> class scores (B, K, H, W)."""
    return torch.einsum("bqk,bqhw->bkhw", scoring.sharp(class_logits), masks.sigmoid())


class PostProcess(nn.Module):
    """Masks to the original image's size, and the semantic map.

    Masks are enlarged to the padded size, cut to the valid region and resized to the original size:
    two bilinear resizes, both run also where a size does not change, as in the official code.

    Args:
        semantic: whether a semantic map is made; configurations of some systems have it off.
        scoring: how class logits become scores.
    """

    def __init__(self, semantic: bool = True, scoring: Scoring = SOFTMAX) -> None:
        super().__init__()
        self.makes_semantic = semantic
        self.scoring = scoring

    def forward(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        original_size: tuple[int, int],
    ) -> SegmentationOutput:
        """Post-process one batch; the sizes (H, W), in pixels, hold for all its images.

        Args:
            class_logits: (B, Q, K + 1).
            mask_logits: (B, Q, h, w).
            padded_size: size of the tensor that the network saw.
            image_size: size of the image inside it, at its top left.
            original_size: size of the results.

        Raises:
            ValueError: a shape or size does not fit.
        """
        _check_logits(class_logits, mask_logits)
        _check_sizes(padded_size, image_size, original_size)
        height, width = image_size
        masks = _resize(mask_logits, padded_size)[..., :height, :width]
        masks = _resize(masks, original_size)
        semantic = semantic_scores(class_logits, masks, self.scoring) if self.makes_semantic else None
        return SegmentationOutput(
            semantic=semantic, masks=masks, class_logits=class_logits, scoring=self.scoring
        )


def panoptic(
    output: SegmentationOutput,
    thing_ids: Collection[int],
    object_mask_threshold: float | None = None,
    overlap_threshold: float = 0.8,
) -> list[PanopticResult]:
    """Panoptic segmentation of each image.

    Every pixel goes to the confident query whose class score times mask probability is highest. A
    query that won at least ``overlap_threshold`` of its own mask keeps what it won inside it.
    Stuff of one class is one segment.

    Args:
        output: of a segmentation model.
        thing_ids: the classes that are things; all others are stuff.
        object_mask_threshold: queries whose best class scores no more than this are dropped; None for the
            system's own, which is 0.8 in Mask2Former.
        overlap_threshold: smallest ratio of the pixels won to the pixels of the mask.

    Raises:
        ValueError: a threshold outside [0, 1] or an unknown class.
    """
    if object_mask_threshold is None:
        object_mask_threshold = output.scoring.threshold
    for name, threshold in (
        ("object_mask_threshold", object_mask_threshold),
        ("overlap_threshold", overlap_threshold),
    ):
        if not 0 <= threshold <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {threshold}")
    things = _thing_set(thing_ids, output)
    return [
        _panoptic_of(class_logits, masks, things, object_mask_threshold, overlap_threshold, output.scoring)
        for class_logits, masks in zip(output.class_logits, output.masks, strict=True)
    ]


def instances(
    output: SegmentationOutput, topk: int = 100, thing_ids: Collection[int] | None = None
) -> list[InstanceResult]:
    """Instances of each image: the ``topk`` best pairs of query and class.

    Args:
        output: of a segmentation model.
        topk: pairs taken, at most all Q * K, before things are selected.
        thing_ids: the classes to keep; None keeps all.

    Raises:
        ValueError: ``topk`` below 1 or an unknown class.
    """
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")
    things = None if thing_ids is None else _thing_set(thing_ids, output)
    return [
        _instances_of(class_logits, masks, topk, things, output.scoring)
        for class_logits, masks in zip(output.class_logits, output.masks, strict=True)
    ]


def _panoptic_of(
    class_logits: Tensor,
    mask_logits: Tensor,
    things: frozenset[int],
    object_mask_threshold: float,
    overlap_threshold: float,
    scoring: Scoring,
) -> PanopticResult:
    """One image: class logits (Q, K + 1) and mask logits (Q, H, W)."""
    confident, scores, labels = scoring.confident(class_logits, object_mask_threshold)
    scores, labels = scores[confident], labels[confident]
    probabilities = mask_logits[confident].sigmoid()

    segmentation = torch.zeros(mask_logits.shape[-2:], dtype=torch.int32, device=mask_logits.device)
    segments: list[Segment] = []
    if len(labels) == 0:
        return PanopticResult(segmentation, segments)

    winner = (scores[:, None, None] * probabilities).argmax(dim=0)
    stuff_ids: dict[int, int] = {}
    for query, category in enumerate(labels.tolist()):
        won = winner == query
        inside = probabilities[query] >= MASK_THRESHOLD
        region = won & inside
        # As in the official code, pixels won outside the mask count towards the ratio.
        if not region.any() or int(won.sum()) / int(inside.sum()) < overlap_threshold:
            continue
        segment_id = stuff_ids.get(category)
        if segment_id is None:
            segment_id = len(segments) + 1
            isthing = category in things
            segments.append(Segment(id=segment_id, category_id=category, isthing=isthing))
            if not isthing:
                stuff_ids[category] = segment_id
        segmentation[region] = segment_id
    return PanopticResult(segmentation, segments)


def _instances_of(
    class_logits: Tensor,
    mask_logits: Tensor,
    topk: int,
    things: frozenset[int] | None,
    scoring: Scoring,
) -> InstanceResult:
    """One image: class logits (Q, K + 1) and mask logits (Q, H, W)."""
    class_scores = scoring.scores(class_logits)
    num_classes = class_scores.shape[1]
    scores, pairs = class_scores.flatten().topk(min(topk, class_scores.numel()))
    queries, categories = pairs // num_classes, pairs % num_classes
    if things is not None:
        wanted = torch.tensor(sorted(things), dtype=categories.dtype, device=categories.device)
        keep = torch.isin(categories, wanted)
        scores, queries, categories = scores[keep], queries[keep], categories[keep]
    logits = mask_logits[queries]
    masks = logits > 0
    # An empty mask scores 0: the small number keeps the quotient finite.
    mask_scores = (logits.sigmoid() * masks).sum(dim=(1, 2)) / (masks.sum(dim=(1, 2)) + 1e-6)
    return InstanceResult(masks=masks, category_ids=categories, scores=scores * mask_scores)


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def _thing_set(thing_ids: Collection[int], output: SegmentationOutput) -> frozenset[int]:
    num_classes = output.scoring.classes(output.class_logits)
    for category in thing_ids:
        if not 0 <= category < num_classes:
            raise ValueError(f"thing_ids must lie in 0..{num_classes - 1}, got {category}")
    return frozenset(thing_ids)


def _check_logits(class_logits: Tensor, mask_logits: Tensor) -> None:
    classes, masks = tuple(class_logits.shape), tuple(mask_logits.shape)
    if len(classes) != 3 or classes[-1] < 2:
        raise ValueError(f"class_logits must be (B, Q, K + 1) with K at least 1, got {classes}")
    if len(masks) != 4 or masks[:2] != classes[:2]:
        raise ValueError(f"mask_logits must be ({classes[0]}, {classes[1]}, h, w), got {masks}")


def _check_sizes(
    padded_size: tuple[int, int], image_size: tuple[int, int], original_size: tuple[int, int]
) -> None:
    for name, size in (
        ("padded_size", padded_size),
        ("image_size", image_size),
        ("original_size", original_size),
    ):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"{name} must be a positive (height, width), got {size}")
    if image_size[0] > padded_size[0] or image_size[1] > padded_size[1]:
        raise ValueError(f"image_size {image_size} must fit into padded_size {padded_size}")
