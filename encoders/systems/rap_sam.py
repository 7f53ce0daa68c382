"""RAP-SAM: YOSO's neck, three stages of kernels updated by gates, and an adaptor for each task.

Source: RAP-SAM, Towards Real-Time All-Purpose Segment Anything (arXiv 2401.10228); official code
xushilin1/RAP-SAM, ``seg/models/heads/rapsam_head.py`` and ``yoso_head.py`` as
``configs/rap_sam/rap_sam_r50_12e_adaptor.py`` sets them, whose state-dict names and outputs the head carries.
This is the panoptic task; the weights of the prompted one are there and do not run.

Legend: B batch, N kernels (the queries), K classes, C channels, E channels of a class's embedding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.options import Option
from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS
from segmeter.encoders.rules import WholeNumber
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskProduct
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage
from segmeter.encoders.systems.yoso import (
    DIM,
    HEADS,
    QUERIES,
    SEMANTIC,
    FeedForward,
    MaskPooling,
    fully_connected,
    neck_stage,
)

# Of the text embeddings that the official configurations tell classes by (CLIP ConvNeXt-L).
EMBEDDING = 768
LOGIT_SCALE = 4.6052


class KernelUpdate(nn.Module):
    """K-Net's update: what a mask holds and what its kernel was, each let through by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamic_layer = nn.Linear(DIM, 2 * DIM)
        self.input_layer = nn.Linear(DIM, 2 * DIM)
        self.input_gate = nn.Linear(DIM, DIM)
        self.update_gate = nn.Linear(DIM, DIM)
        self.norm_in = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.norm_out = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.input_norm_in = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.input_norm_out = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.fc_layer = nn.Linear(DIM, DIM)
        self.fc_norm = nn.LayerNorm(DIM, eps=NORM_EPS)

    def forward(self, held: Tensor, kernels: Tensor) -> Tensor:
        """What the masks hold (B, N, C) and their kernels (B, N, C) -> kernels (B, N, C)."""
        held_in, held_out = self.dynamic_layer(held).chunk(2, dim=-1)
        kernel_in, kernel_out = self.input_layer(kernels).chunk(2, dim=-1)
        gates = kernel_in * held_in
        input_gate = self.input_norm_in(self.input_gate(gates)).sigmoid()
        update_gate = self.norm_in(self.update_gate(gates)).sigmoid()
        mixed = update_gate * self.norm_out(held_out) + input_gate * self.input_norm_out(kernel_out)
        return self.fc_norm(self.fc_layer(mixed)).relu()


class GatedKernelHead(nn.Module):
    """One stage: kernels updated by what their masks hold, attention among them, new masks.

    Its predictions of classes and of each mask's quality are for training; at inference only the adaptor's
    classes are read, so they have weights here and do not run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask_pooling = MaskPooling()
        self.kernel_update = KernelUpdate()
        self.s_atten = Attention(DIM, HEADS)
        self.s_atten_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.ffn = FeedForward()
        self.ffn_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.cls_fcs = fully_connected(1)
        self.cls_proj = nn.Sequential(
            nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, EMBEDDING)
        )
        self.mask_fcs = fully_connected(1)
        self.fc_mask = nn.Linear(DIM, DIM)
        self.iou_embed = nn.Sequential(
            nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, 1)
        )
        self.mask_product = MaskProduct()

    def forward(self, features: Tensor, kernels: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel embeddings (B, C, h, w), kernels (B, N, C), masks (B, N, h, w) -> kernels and masks."""
        kernels = self.kernel_update(self.mask_pooling(mask_logits, features), kernels)
        kernels = self.s_atten_norm(kernels + self.s_atten(kernels, kernels, kernels))
        kernels = self.ffn_norm(self.ffn(kernels))
        mask_features = kernels
        for layer in self.mask_fcs:
            mask_features = layer(mask_features)
        return kernels, self.mask_product(self.fc_mask(mask_features), features)


class PromptAttention(nn.Module):
    """The prompted task's adaptor, under the official nesting ``prompt_attn.attn``."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(DIM, HEADS)


class ClassSimilarity(nn.Module):
    """Cosine similarity of each kernel to each class's embedding, scaled; no parameters."""

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """(B, N, E) and (E, K + 1) -> (B, N, K + 1)."""
        scores = torch.einsum("bne,ek->bnk", F.normalize(embeddings, dim=-1), classes)
        return scores.new_tensor(LOGIT_SCALE).exp() * scores


class RapSamHead(nn.Module):
    """Learned kernels, their first masks, stages that refine both, and the panoptic adaptor.

    Args:
        num_classes: K, without "no object".
        num_queries: N.
        stages: before the adaptor.
    """

    text: Tensor

    def __init__(self, num_classes: int, num_queries: int, stages: int) -> None:
        super().__init__()
        self.mask_tokens = nn.Embedding(1, DIM)
        self.pb_embedding = nn.Embedding(2, DIM)
        self.pos_linear = nn.Linear(2 * DIM, DIM)
        self.kernels = nn.Embedding(num_queries, DIM)
        self.mask_heads = nn.ModuleList(GatedKernelHead() for _ in range(stages))
        self.panoptic_attn = KernelUpdate()
        self.panoptic_cls = nn.Sequential(nn.Linear(DIM, EMBEDDING))
        self.prompt_attn = PromptAttention()
        self.prompt_norm = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.prompt_iou = nn.Linear(DIM, 1)
        self.mask_pooling = MaskPooling()
        self.mask_product = MaskProduct()
        self.class_similarity = ClassSimilarity()
        # A normalised embedding of each class's name, one synonym each; zero for "no object".
        text = F.normalize(torch.randn(EMBEDDING, num_classes), dim=0)
        self.register_buffer("text", F.pad(text, (0, 1)), persistent=False)

    def forward(self, features: Tensor) -> DecoderOutput:
        """Pixel embeddings (B, C, h, w) -> classes and masks."""
        kernels = self.kernels.weight.expand(features.shape[0], -1, -1)
        masks = self.mask_product(kernels, features)
        for head in self.mask_heads:
            kernels, masks = head(features, kernels, masks)
        kernels = self.panoptic_attn(self.mask_pooling(masks, features), kernels)
        masks = self.mask_product(kernels, features)
        classes = self.class_similarity(self.panoptic_cls(kernels), self.text)
        return DecoderOutput(class_logits=classes, mask_logits=masks)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        head = "mask_heads.*"
        return {
            f"{head}.mask_pooling": "mask_pooling",
            f"{head}.kernel_update.*norm*": "norms",
            f"{head}.kernel_update": "kernel_update",
            f"{head}.s_atten": "self_attention",
            f"{head}.ffn": "ffn",
            f"{head}.*norm": "norms",
            f"{head}.mask_fcs": "mask_prediction.embedding",
            f"{head}.fc_mask": "mask_prediction.embedding",
            f"{head}.mask_product": "mask_prediction.product",
            "mask_pooling": "mask_pooling",
            "mask_product": "mask_prediction.product",
            "panoptic_attn.*norm*": "norms",
            "panoptic_attn": "adaptor",
            "panoptic_cls": "class_prediction",
            "class_similarity": "class_prediction",
            "": "elementwise",
        }


def rap_sam_stages(choice: Choice) -> Sequence[Stage]:
    """Backbone, YOSO's neck, head with its adaptor, post-processing."""
    stages = choice.options["stages"]
    return (
        backbone_stage(choice.backbone),
        neck_stage(choice.backbone),
        Stage(
            name="decoder",
            key=("rap-sam head", stages, choice.num_classes, choice.num_queries),
            build=lambda built: RapSamHead(choice.num_classes, choice.num_queries, stages),
            call=lambda head, features, sizes: head(features),
        ),
        postprocess_stage(choice.num_classes, choice.options["semantic"]),
    )


SYSTEM = System(
    name="rap-sam",
    title="RAP-SAM",
    summary="YOSO's neck; kernels updated by gates in three stages and a panoptic adaptor",
    source="RAP-SAM, arXiv 2401.10228",
    stages=rap_sam_stages,
    options=(
        Option(
            name="stages",
            default=3,
            check=WholeNumber(1, 1000),
            help="Stages of the head, before the adaptor.",
        ),
        SEMANTIC,
    ),
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
)
