"""DINO: a detector whose queries begin at the tokens that look most like objects.

Source: DINO (arXiv 2203.03605), section 3; official code IDEA-Research/DINO, ``models/dino``, whose
state-dict names and outputs this system carries. Deformable layers over four levels (strides 8 to 64) or five
(stride 4 too), no stride-4 path; 900 queries, 6 decoder layers, each of which predicts.

Legend: B batch, K tokens, Q queries, N classes, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import Host, MultiScaleOutput
from segmeter.encoders.m2f import DIM, EXTRA_LEVEL, DeformableEncoder, LayerStack
from segmeter.encoders.naming import Naming, Shapes
from segmeter.encoders.options import Option
from segmeter.encoders.parts.boxes import (
    BoxOutput,
    DetectionPostProcess,
    Proposals,
    best_tokens,
    box_code,
    inverse_sigmoid,
    picked,
)
from segmeter.encoders.parts.layers import NORM_EPS, Levels, to_tokens
from segmeter.encoders.parts.query_layers import (
    Mlp,
    QueryLayer,
    deformable_query_layer,
    query_layer_components,
)
from segmeter.encoders.rules import WholeNumber
from segmeter.encoders.systems.hosting import CHOOSER, Hosting, detector_backbone

FFN_DIM = 2048
DECODER_LAYERS = 6
QUERIES = 900
# COCO's 80 classes have numbers up to 90.
CLASSES = 91
POSITION_TEMPERATURE = 20.0
BOX_EPS = 1e-3
# Official order: high to low resolution.
LEVELS = {
    4: ("res3", "res4", "res5", EXTRA_LEVEL),
    5: ("res2", "res3", "res4", "res5", EXTRA_LEVEL),
}


@dataclass(frozen=True, kw_only=True)
class SelectedQueries(MultiScaleOutput):
    """What the decoder starts from.

    Attributes:
        queries: (B, Q, C).
        references: (B, Q, 4) boxes before their sigmoid, in float32.
    """

    queries: Tensor
    references: Tensor


def flattened(multi_scale: Sequence[Tensor]) -> tuple[Tensor, Levels]:
    """Maps from low to high resolution -> tokens (B, K, C) from high to low, and their geometry."""
    maps = list(multi_scale)[::-1]
    return torch.cat([to_tokens(level) for level in maps], dim=1), Levels.of(maps)


class QuerySelection(nn.Module):
    """The boxes of the tokens that score highest become the references of learned queries.

    Args:
        num_classes: N.
        num_queries: Q.
        boxes_of_all: whether boxes are predicted for all tokens, or (Lite-DETR) for the selected ones.
    """

    def __init__(self, num_classes: int, num_queries: int = QUERIES, boxes_of_all: bool = True) -> None:
        super().__init__()
        self.boxes_of_all = boxes_of_all
        self.enc_output = nn.Linear(DIM, DIM)
        self.enc_output_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.enc_out_class_embed = nn.Linear(DIM, num_classes)
        self.enc_out_bbox_embed = Mlp(DIM, DIM, DIM, 4)
        self.tgt_embed = nn.Embedding(num_queries, DIM)
        # For training with noised boxes alone.
        self.label_enc = nn.Embedding(num_classes + 1, DIM)

    def forward(self, multi_scale: Sequence[Tensor]) -> SelectedQueries:
        """Select from an encoder's maps (B, C, h, w), low to high resolution.

        Raises:
            ValueError: fewer tokens than queries.
        """
        tokens, levels = flattened(multi_scale)
        proposals = Proposals.of(levels)
        candidates = self.enc_output_norm(self.enc_output(tokens * proposals.valid.to(tokens.dtype)))
        chosen = best_tokens(self.enc_out_class_embed(candidates), self.tgt_embed.num_embeddings)
        anchors = proposals.references.expand(tokens.shape[0], -1, -1)
        if self.boxes_of_all:
            references = picked(self.enc_out_bbox_embed(candidates).float() + anchors, chosen)
        else:
            deltas = self.enc_out_bbox_embed(picked(candidates, chosen))
            references = deltas.float() + picked(anchors, chosen)
        return SelectedQueries(
            multi_scale=list(multi_scale),
            queries=self.tgt_embed.weight.expand(tokens.shape[0], -1, -1),
            references=references,
        )

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "enc_output": "tokens",
            "enc_output_norm": "norms",
            "enc_out_class_embed": "class_prediction",
            "enc_out_bbox_embed": "box_prediction",
            "": "elementwise",
        }


class BoxLayers(nn.Module):
    """Query layers, each of which moves the queries' boxes; ``decoder`` is the official name.

    Args:
        layers: query layers.
        box_eps: how near to 0 and 1 a box may come before the next layer moves it.
    """

    def __init__(self, layers: Sequence[QueryLayer], box_eps: float = BOX_EPS) -> None:
        super().__init__()
        self.box_eps = box_eps
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.ref_point_head = Mlp(2 * DIM, DIM, DIM)

    def forward(
        self, queries: Tensor, references: Tensor, tokens: Tensor, levels: Levels, box_head: nn.Module
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the layers.

        Args:
            queries: (B, Q, C).
            references: (B, Q, 4), before the sigmoid.
            tokens: (B, K, C).
            levels: geometry of the K tokens.
            box_head: queries (B, Q, C) -> (B, Q, 4) steps of their references.

        Returns:
            After each layer, the normed queries (B, Q, C) and the boxes (B, Q, 4) that went in.
        """
        boxes = references.sigmoid()
        normed, used = [], []
        for number, layer in enumerate(self.layers, start=1):
            position = self.ref_point_head(box_code(boxes).to(queries.dtype))
            queries = layer(queries, position, boxes, tokens, levels)
            normed.append(self.norm(queries))
            used.append(boxes)
            if number < len(self.layers):
                boxes = moved(boxes, box_head(queries), self.box_eps).detach()
        return normed, used


def moved(boxes: Tensor, steps: Tensor, eps: float) -> Tensor:
    """Boxes (B, Q, 4) moved by steps before the sigmoid, in float32."""
    return (steps.float() + inverse_sigmoid(boxes, eps)).sigmoid()


class BoxDecoder(nn.Module):
    """DINO's decoder with its heads; all layers share both.

    Args:
        num_classes: N.
        layers: query layers.
    """

    def __init__(self, num_classes: int, layers: Sequence[QueryLayer]) -> None:
        super().__init__()
        self.decoder = BoxLayers(layers)
        self.bbox_embed = Mlp(DIM, DIM, DIM, 4)
        self.class_embed = nn.Linear(DIM, num_classes)

    def forward(self, selected: SelectedQueries) -> BoxOutput:
        """Decode selected queries: classes and boxes after each layer."""
        tokens, levels = flattened(selected.multi_scale)
        normed, used = self.decoder(selected.queries, selected.references, tokens, levels, self.bbox_embed)
        boxes = [
            moved(before, self.bbox_embed(queries), BOX_EPS)
            for before, queries in zip(used, normed, strict=True)
        ]
        return BoxOutput(
            class_logits=torch.stack([self.class_embed(queries) for queries in normed]),
            boxes=torch.stack(boxes),
        )

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            **query_layer_components("decoder.layers.*"),
            "decoder.norm": "norms",
            "decoder.ref_point_head": "query_position",
            "bbox_embed": "box_prediction",
            "class_embed": "class_prediction",
            "": "elementwise",
        }


def build_own(in_channels: Mapping[str, int], options: Mapping[str, Any]) -> DeformableEncoder:
    """Six layers over all tokens."""
    levels = LEVELS[options["levels"]]
    stack = LayerStack(6, Host(levels=levels, ffn_dim=FFN_DIM))
    return DeformableEncoder(in_channels, stack, levels, POSITION_TEMPERATURE)


HOSTING = Hosting(
    title="DINO",
    host=Host(levels=LEVELS[4][::-1], ffn_dim=FFN_DIM, has_masks=False),
    build_own=build_own,
    own_options=(
        Option(
            name="levels",
            default=4,
            check=WholeNumber(4, 5),
            help="Levels of tokens: strides 8 to 64; 5 has stride 4 too.",
            title=lambda levels: f"{levels}-scale",
            in_title=True,
        ),
    ),
    own_levels=lambda options: LEVELS[options["levels"]][::-1],
)


def detector_stages(choice: Choice, encoder: Stage, selection: Stage, decoder: Stage) -> tuple[Stage, ...]:
    """A detector's chain around its own stages."""
    return (
        detector_backbone(choice.backbone),
        encoder,
        selection,
        decoder,
        detections_stage(),
    )


def detections_stage() -> Stage:
    """Each query's classes and boxes -> the best boxes, in pixels."""
    return Stage(
        name="postprocess",
        key=("boxes in pixels",),
        build=lambda built: DetectionPostProcess(),
        call=lambda postprocess, decoded, sizes: postprocess(decoded, sizes),
        reads_sizes=True,
        full_precision=True,
    )


def stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, encoder, selection of queries, decoder, boxes in pixels."""
    classes, queries = choice.num_classes, choice.num_queries
    levels = len(HOSTING.levels(choice.options))
    return detector_stages(
        choice,
        HOSTING.stage(choice),
        Stage(
            name="selection",
            key=("DINO selection", classes, queries),
            build=lambda built: QuerySelection(classes, queries),
            call=lambda selection, encoded, sizes: selection(encoded.multi_scale),
        ),
        Stage(
            name="decoder",
            key=("DINO decoder", classes, levels),
            build=lambda built: BoxDecoder(
                classes, [deformable_query_layer(DIM, FFN_DIM, levels) for _ in range(DECODER_LAYERS)]
            ),
            call=lambda decoder, selected, sizes: decoder(selected),
        ),
    )


_SHARED = r"(?:transformer\.decoder\.)?"
RULES = (
    (r"backbone\.0\.body\.(.*)", r"backbone.trunk.\1"),
    (r"(input_proj\..*)", r"encoder.\1"),
    (r"(transformer\.(?:level_embed|encoder\..*))", r"encoder.\1"),
    (r"transformer\.((?:enc_out|tgt_embed).*)", r"selection.\1"),
    (r"(label_enc\..*)", r"selection.\1"),
    # The layers' heads are one head; a checkpoint repeats it for each layer, inside the decoder and outside.
    (_SHARED + r"(bbox_embed|class_embed)\.\d+\.(.*)", r"decoder.\1.\2"),
    (r"transformer\.(decoder\..*)", r"decoder.\1"),
)
LEVEL_EMBED = "encoder.transformer.level_embed"


def naming(sign: str, options: Callable[[Shapes], dict[str, Any]]) -> Naming:
    """The names of DINO's code."""
    return Naming(
        sign=sign,
        rules=RULES,
        ignored=(r".*num_batches_tracked",),
        shared=(r"decoder\.(bbox|class)_embed\..*",),
        options=options,
        classes="selection.enc_out_class_embed.weight",
        queries="selection.tgt_embed.weight",
    )


SYSTEM = System(
    name="dino",
    title="DINO",
    summary="detector: 900 queries from a selection of tokens, 6 deformable layers over four or five levels",
    source="DINO, arXiv 2203.03605",
    stages=stages,
    options=(HOSTING.option,),
    together=HOSTING.check_together,
    chooser=CHOOSER,
    further=HOSTING.further,
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
    default_classes=CLASSES,
    size_divisor=1,
    naming=naming(
        r"transformer\.enc_out_bbox_embed\..*",
        lambda shapes: {"levels": shapes[LEVEL_EMBED][0]} if LEVEL_EMBED in shapes else {},
    ),
)
