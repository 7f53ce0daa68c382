"""MaskDINO: DINO's queries on Mask2Former's pixel decoder with a fourth level; each has a box and a mask.

Source: MaskDINO (arXiv 2206.02777); official code IDEA-Research/MaskDINO,
``modeling/pixel_decoder/maskdino_encoder.py`` and ``modeling/transformer_decoder/``, whose state-dict names
and outputs the modules carry. Of its masks those are made that a result depends on: the last, and those of
the selected tokens where boxes begin as the boxes around them (``task=instance``).

Legend: B batch, K tokens, Q queries, N classes, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import Host
from segmeter.encoders.m2f import DIM, EXTRA_LEVEL, DeformablePixelDecoder, LayerStack
from segmeter.encoders.naming import Naming
from segmeter.encoders.options import Option
from segmeter.encoders.parts.boxes import Proposals, best_tokens, inverse_sigmoid, picked
from segmeter.encoders.parts.layers import NORM_EPS, Levels, to_tokens
from segmeter.encoders.parts.query_layers import Mlp, deformable_query_layer, query_layer_components
from segmeter.encoders.rules import OneOf, WholeNumber
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskEmbedding, MaskProduct
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage
from segmeter.encoders.segmenter.postprocess import Scoring
from segmeter.encoders.systems.dino import LEVEL_EMBED, BoxLayers, moved
from segmeter.encoders.systems.hosting import CHOOSER, Hosting

FFN_DIM = 2048
DECODER_LAYERS = 9
QUERIES = 300
BOX_EPS = 1e-5
# Where a mask is empty, its box ends before it begins.
EMPTY = 1e8
LEVELS = {3: ("res3", "res4", "res5"), 4: ("res3", "res4", "res5", EXTRA_LEVEL)}
TASKS = {
    "panoptic": "boxes begin where tokens predict them; a semantic map is made",
    "instance": "boxes begin around the selected tokens' masks; no semantic map",
}
# Focal loss: every class has a score of its own, made sharper for panoptic and semantic results.
SCORING = Scoring(no_object=False, temperature=0.06, threshold=0.25)


@dataclass(frozen=True, kw_only=True)
class MaskedBoxOutput(DecoderOutput):
    """A class distribution, a mask and a box for each query.

    Attributes:
        boxes: (D, B, Q, 4) after each of D layers, in [0, 1] of the padded image.
    """

    boxes: Tensor


class MaskedBoxDecoder(nn.Module):
    """Queries that begin as the best tokens, with their boxes; masks from the last layer.

    Args:
        num_classes: N.
        num_queries: Q.
        levels: of tokens.
        boxes_from_masks: whether the first boxes are those around the selected tokens' masks.
    """

    def __init__(self, num_classes: int, num_queries: int, levels: int, boxes_from_masks: bool) -> None:
        super().__init__()
        self.num_queries, self.boxes_from_masks = num_queries, boxes_from_masks
        self.enc_output = nn.Linear(DIM, DIM)
        self.enc_output_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.class_embed = nn.Linear(DIM, num_classes)
        # For training with noised boxes alone.
        self.label_enc = nn.Embedding(num_classes, DIM)
        self.mask_embed = MaskEmbedding(DIM, DIM)
        self.mask_product = MaskProduct()
        layers = [deformable_query_layer(DIM, FFN_DIM, levels) for _ in range(DECODER_LAYERS)]
        self.decoder = BoxLayers(layers, BOX_EPS)
        self.bbox_embed = Mlp(DIM, DIM, DIM, 4)

    def forward(self, multi_scale: Sequence[Tensor], mask_features: Tensor) -> MaskedBoxOutput:
        """Decode an encoder's maps (B, C, h, w), low to high resolution, and pixel embeddings.

        Raises:
            ValueError: fewer tokens than queries.
        """
        tokens = torch.cat([to_tokens(level) for level in multi_scale], dim=1)
        levels = Levels.of(multi_scale)
        proposals = Proposals.of(levels)
        candidates = self.enc_output_norm(self.enc_output(tokens * proposals.valid.to(tokens.dtype)))
        chosen = best_tokens(self.class_embed(candidates), self.num_queries)
        queries = picked(candidates, chosen)
        if self.boxes_from_masks:
            masks = self.mask_product(self.mask_embed(self.decoder.norm(queries)), mask_features)
            references = inverse_sigmoid(boxes_around(masks), BOX_EPS)
        else:
            references = picked(self.bbox_embed(candidates).float() + proposals.references, chosen)
        normed, used = self.decoder(queries.detach(), references.detach(), tokens, levels, self.bbox_embed)
        boxes = [
            moved(before, self.bbox_embed(after), BOX_EPS) for before, after in zip(used, normed, strict=True)
        ]
        # The official heads norm the layers' normed output once more.
        last = self.decoder.norm(normed[-1])
        return MaskedBoxOutput(
            class_logits=self.class_embed(last),
            mask_logits=self.mask_product(self.mask_embed(last), mask_features),
            boxes=torch.stack(boxes),
        )

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            **query_layer_components("decoder.layers.*"),
            "decoder.norm": "norms",
            "decoder.ref_point_head": "query_position",
            "enc_output": "selection.tokens",
            "enc_output_norm": "norms",
            "class_embed": "class_prediction",
            "bbox_embed": "box_prediction",
            "mask_embed": "mask_prediction.embedding",
            "mask_product": "mask_prediction.product",
            "": "elementwise",
        }


def boxes_around(mask_logits: Tensor) -> Tensor:
    """Mask logits (B, Q, h, w) -> boxes (B, Q, 4) in float32 around what is above 0: centre and sides.

    In shares of the map; as in the official code, a box ends at the last pixel's index, not behind it.
    """
    height, width = mask_logits.shape[-2:]
    inside = mask_logits > 0
    ends = []
    for across, size in ((-2, width), (-1, height)):
        there = inside.any(dim=across)
        index = torch.arange(size, device=mask_logits.device, dtype=torch.float32)
        first = torch.where(there, index, EMPTY).amin(dim=-1)
        last = torch.where(there, index, 0.0).amax(dim=-1)
        ends.append(((first + last) / 2 / size, (last - first) / size))
    (x, box_width), (y, box_height) = ends
    return torch.stack((x, y, box_width, box_height), dim=-1)


def build_own(in_channels: Mapping[str, int], options: Mapping[str, Any]) -> DeformablePixelDecoder:
    """Six layers over all tokens, the stride-4 path of Mask2Former."""
    levels = LEVELS[options["levels"]]
    stack = LayerStack(6, Host(levels=levels, ffn_dim=FFN_DIM))
    return DeformablePixelDecoder(in_channels, stack, "conv", levels)


HOSTING = Hosting(
    title="MaskDINO",
    host=Host(levels=LEVELS[4][::-1], ffn_dim=FFN_DIM),
    build_own=build_own,
    own_options=(
        Option(
            name="levels",
            default=4,
            check=WholeNumber(3, 4),
            help="Levels of tokens: strides 8 to 64, or 8 to 32.",
            title=lambda levels: f"{levels} levels",
        ),
    ),
    own_levels=lambda options: LEVELS[options["levels"]][::-1],
)
TASK = Option(
    name="task",
    default="panoptic",
    check=OneOf(tuple(TASKS)),
    help="Which official configuration.",
    choices=TASKS,
    read=str,
    title=lambda task: task,
)


def stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, encoder, decoder with selection of queries, post-processing."""
    classes, queries = choice.num_classes, choice.num_queries
    levels = len(HOSTING.levels(choice.options))
    instance = choice.options["task"] == "instance"
    return (
        backbone_stage(choice.backbone),
        HOSTING.stage(choice, ("task",)),
        Stage(
            name="decoder",
            key=("MaskDINO decoder", classes, queries, levels, instance),
            build=lambda built: MaskedBoxDecoder(classes, queries, levels, instance),
            call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale, encoded.mask_features),
        ),
        postprocess_stage(classes, semantic=not instance, scoring=SCORING),
    )


_PREDICTOR = r"sem_seg_head\.predictor\."

SYSTEM = System(
    name="maskdino",
    title="MaskDINO",
    summary="300 queries with boxes and masks from a selection of tokens; a fourth level, FFN 2048",
    source="MaskDINO, arXiv 2206.02777",
    stages=stages,
    options=(TASK, HOSTING.option),
    together=HOSTING.check_together,
    chooser=CHOOSER,
    further=HOSTING.further,
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    # The task leaves no trace, nor does the number of queries.
    naming=Naming(
        sign=r"sem_seg_head\.predictor\.enc_output\..*",
        base="detectron2",
        rules=(
            (_PREDICTOR + r"_bbox_embed\.(.*)", r"decoder.bbox_embed.\1"),
            (_PREDICTOR + r"(?:decoder\.)?bbox_embed\.\d+\.(.*)", r"decoder.bbox_embed.\1"),
            (_PREDICTOR + r"decoder_norm\.(.*)", r"decoder.decoder.norm.\1"),
        ),
        shared=(r"decoder\.bbox_embed\..*", r"decoder\.decoder\.norm\..*"),
        options=lambda shapes: {"levels": shapes[LEVEL_EMBED][0]} if LEVEL_EMBED in shapes else {},
        classes="decoder.class_embed.weight",
    ),
)
