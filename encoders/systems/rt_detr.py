"""RT-DETR: a hybrid encoder of convolutions and one transformer layer, and a decoder over three levels.

Source: RT-DETR (arXiv 2304.08069); official code lyuwenyu/RT-DETR, ``rtdetr_pytorch/src/zoo/rtdetr``, whose
state-dict names and outputs this system carries. The encoder has two forms: as it is trained, with two
branches in each RepVGG block, and as it runs afterwards, with one 3x3 convolution.

Legend: B batch, K tokens, Q queries, N classes, C channels.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import Host
from segmeter.encoders.naming import Naming
from segmeter.encoders.options import Option
from segmeter.encoders.parts.boxes import (
    BoxOutput,
    Proposals,
    best_tokens,
    picked,
)
from segmeter.encoders.parts.layers import NORM_EPS, Levels
from segmeter.encoders.parts.query_layers import (
    Mlp,
    QueryLayer,
    deformable_query_layer,
    query_layer_components,
)
from segmeter.encoders.rt_m2f import DIM, INPUT_LEVELS, HybridEncoder
from segmeter.encoders.rules import OneOf
from segmeter.encoders.systems.dino import detections_stage, flattened, moved
from segmeter.encoders.systems.hosting import CHOOSER, Hosting, detector_backbone

FFN_DIM = 1024
DECODER_LAYERS = 6
QUERIES = 300
CLASSES = 80
BOX_EPS = 1e-5
FORMS = {
    "train": "RepVGG blocks of a 3x3 and a 1x1 branch, each with its norm",
    "deploy": "RepVGG blocks fused into one 3x3 convolution",
}


class RtDetrEncoder(HybridEncoder):
    """The hybrid encoder, whose attention is one fused call in the official code."""

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {**super().components(), "encoder.*.layers.*.self_attn": "hybrid.fused_attention"}


class DecoderLayers(nn.Module):
    """The official nesting: ``decoder.layers``."""

    def __init__(self, layers: Sequence[QueryLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class RtDetrDecoder(nn.Module):
    """Projections, selection of queries among all tokens, query layers with heads of their own.

    Args:
        num_classes: N.
        num_queries: Q.
        levels: of tokens.
    """

    def __init__(self, num_classes: int, num_queries: int, levels: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.input_proj = nn.ModuleList(
            nn.Sequential(
                OrderedDict(conv=nn.Conv2d(DIM, DIM, kernel_size=1, bias=False), norm=nn.BatchNorm2d(DIM))
            )
            for _ in range(levels)
        )
        # For training with noised boxes alone.
        self.denoising_class_embed = nn.Embedding(num_classes + 1, DIM, padding_idx=num_classes)
        self.query_pos_head = Mlp(4, 2 * DIM, DIM)
        self.enc_output = nn.Sequential(nn.Linear(DIM, DIM), nn.LayerNorm(DIM, eps=NORM_EPS))
        self.enc_score_head = nn.Linear(DIM, num_classes)
        self.enc_bbox_head = Mlp(DIM, DIM, DIM, 4)
        self.decoder = DecoderLayers(
            [
                deformable_query_layer(DIM, FFN_DIM, levels, self_norm_first=True)
                for _ in range(DECODER_LAYERS)
            ]
        )
        # Each layer has a score head for training; inference reads the last one's.
        self.dec_score_head = nn.ModuleList(nn.Linear(DIM, num_classes) for _ in range(DECODER_LAYERS))
        self.dec_bbox_head = nn.ModuleList(Mlp(DIM, DIM, DIM, 4) for _ in range(DECODER_LAYERS))

    def forward(self, multi_scale: Sequence[Tensor]) -> BoxOutput:
        """Decode an encoder's maps (B, C, h, w), low to high resolution; only the last layer scores.

        Raises:
            ValueError: fewer tokens than queries.
        """
        # The official order of projections and tokens is high to low.
        projected = [
            project(level) for project, level in zip(self.input_proj, multi_scale[::-1], strict=True)
        ]
        tokens, levels = flattened(projected[::-1])
        queries, boxes = self._select(tokens, levels)
        for layer, box_head in zip(self.decoder.layers, self.dec_bbox_head, strict=True):
            position = self.query_pos_head(boxes.to(queries.dtype))
            queries = layer(queries, position, boxes, tokens, levels)
            boxes = moved(boxes, box_head(queries), BOX_EPS)
        return BoxOutput(class_logits=self.dec_score_head[-1](queries)[None], boxes=boxes[None])

    def _select(self, tokens: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """The best tokens as queries (B, Q, C), and their boxes (B, Q, 4) in float32."""
        proposals = Proposals.of(levels)
        candidates = self.enc_output(tokens * proposals.valid.to(tokens.dtype))
        chosen = best_tokens(self.enc_score_head(candidates), self.num_queries)
        references = picked(self.enc_bbox_head(candidates).float() + proposals.references, chosen)
        return picked(candidates, chosen).detach(), references.detach().sigmoid()

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            **query_layer_components("decoder.layers.*", "self_attention.fused_attention"),
            "input_proj": "input_projection",
            "query_pos_head": "query_position",
            "enc_output": "selection.tokens",
            "enc_score_head": "selection.class_prediction",
            "enc_bbox_head": "selection.box_prediction",
            "dec_score_head": "class_prediction",
            "dec_bbox_head": "box_prediction",
            "": "elementwise",
        }


def build_own(in_channels: Mapping[str, int], options: Mapping[str, Any]) -> RtDetrEncoder:
    """The hybrid encoder in either form."""
    return RtDetrEncoder(in_channels, fused=options["form"] == "deploy")


HOSTING = Hosting(
    title="RT-DETR",
    host=Host(levels=INPUT_LEVELS[::-1], ffn_dim=FFN_DIM, has_masks=False),
    build_own=build_own,
    own_options=(
        Option(
            name="form",
            default="train",
            check=OneOf(tuple(FORMS)),
            help="The form of the RepVGG blocks.",
            choices=FORMS,
            read=str,
            title=lambda form: "fused" if form == "deploy" else form,
        ),
    ),
)


def stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, encoder, decoder with selection of queries, boxes in pixels."""
    classes, queries = choice.num_classes, choice.num_queries
    levels = len(HOSTING.levels(choice.options))
    return (
        detector_backbone(choice.backbone),
        HOSTING.stage(choice),
        Stage(
            name="decoder",
            key=("RT-DETR decoder", classes, queries, levels),
            build=lambda built: RtDetrDecoder(classes, queries, levels),
            call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale),
        ),
        detections_stage(),
    )


_STEM, _BLOCK = r"backbone\.conv1\.conv1_", r"backbone\.res_layers\.(\d)\.blocks\.(\d+)\."
_OUR_BLOCK = r"backbone.trunk.layer{1+1}.\2."
NAMING = Naming(
    sign=r"backbone\.res_layers\..*",
    rules=(
        # timm's ResNet-50-d: the stem is a row of convolutions, norms and ReLUs, and a last norm beside it.
        (_STEM + r"1\.conv\.(.*)", r"backbone.trunk.conv1.0.\1"),
        (_STEM + r"1\.norm\.(.*)", r"backbone.trunk.conv1.1.\1"),
        (_STEM + r"2\.conv\.(.*)", r"backbone.trunk.conv1.3.\1"),
        (_STEM + r"2\.norm\.(.*)", r"backbone.trunk.conv1.4.\1"),
        (_STEM + r"3\.conv\.(.*)", r"backbone.trunk.conv1.6.\1"),
        (_STEM + r"3\.norm\.(.*)", r"backbone.trunk.bn1.\1"),
        *(
            (_BLOCK + rf"branch2{letter}\.{ours[0]}\.(.*)", _OUR_BLOCK + rf"{ours[1]}{number}.\3")
            for number, letter in enumerate("abc", start=1)
            for ours in (("conv", "conv"), ("norm", "bn"))
        ),
        # The first stage's shortcut has no pooling before it.
        (_BLOCK + r"short\.(?:conv\.)?conv\.(weight)", _OUR_BLOCK + r"downsample.1.\3"),
        (_BLOCK + r"short\.(?:conv\.)?norm\.(.*)", _OUR_BLOCK + r"downsample.2.\3"),
        (r"((?:encoder|decoder)\..*)", r"\1"),
    ),
    ignored=(r".*num_batches_tracked", r"decoder\.(anchors|valid_mask)", r"encoder\.pos_embed\d"),
    backbone="r50vd",
    options=lambda shapes: {
        "form": "deploy" if "encoder.fpn_blocks.0.bottlenecks.0.conv.weight" in shapes else "train"
    },
    classes="decoder.enc_score_head.weight",
)

SYSTEM = System(
    name="rt-detr",
    title="RT-DETR",
    summary="detector: hybrid encoder on strides 8 to 32, 300 queries from a selection of tokens, 6 layers",
    source="RT-DETR, arXiv 2304.08069",
    stages=stages,
    options=(HOSTING.option,),
    together=HOSTING.check_together,
    chooser=CHOOSER,
    further=HOSTING.further,
    default_backbone="r50vd",
    default_queries=lambda backbone: QUERIES,
    default_classes=CLASSES,
    naming=NAMING,
)
