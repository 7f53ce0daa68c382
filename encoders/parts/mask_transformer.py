"""Segmenter's decoder: class embeddings run with the patches, and a patch's mask is its likeness to each.

Source: Segmenter (arXiv 2105.05633), section 3.2; official code rstrudel/segmenter,
``segm/model/decoder.py`` (``MaskTransformer``), whose state-dict names and outputs this module carries.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.vit import Block, initialise
from segmeter.encoders.reduction.interface import PatchTokens

BLOCKS = 2


class MaskTransformer(nn.Module):
    """Tokens of a width to masks of K classes.

    Tokens that stand for several patches run through the whole decoder; their rows are copied to the patches
    only after the last norm, as ALGM's official code does.
    """

    def __init__(self, dim: int, heads: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.proj_dec = nn.Linear(dim, dim)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, dim))
        self.proj_patch = nn.Parameter(torch.empty(dim, dim))
        self.proj_classes = nn.Parameter(torch.empty(dim, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(BLOCKS))
        self.decoder_norm = nn.LayerNorm(dim)
        self.mask_norm = nn.LayerNorm(num_classes)
        self.mask_product = MaskLikeness()
        initialise(self)

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {
            "blocks.*.attn": "attention",
            "blocks.*.mlp": "ffn",
            "blocks.*.norm?": "norms",
            "blocks": "residuals",
            "decoder_norm": "norms",
            "mask_norm": "norms",
            "proj_dec": "projection",
            "mask_product": "mask_product",
            "": "masks",
        }

    def forward(self, tokens: PatchTokens) -> Tensor:
        """What is left of the patches -> masks (B, K, h, w) at stride 16."""
        classes = self.cls_emb.expand(len(tokens.x), -1, -1)
        x = torch.cat([self.proj_dec(tokens.x), classes], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        masks = self.mask_product(x, self.num_classes, self.proj_patch, self.proj_classes)
        masks = tokens.restore(self.mask_norm(masks))
        return masks.transpose(1, 2).unflatten(2, tokens.grid)


class MaskLikeness(nn.Module):
    """Cosine of every token with every class embedding; it has no parameters of its own."""

    def forward(self, x: Tensor, num_classes: int, proj_patch: Tensor, proj_classes: Tensor) -> Tensor:
        """(B, T + K, C) and two (C, C) -> (B, T, K)."""
        patches = x[:, :-num_classes] @ proj_patch
        classes = x[:, -num_classes:] @ proj_classes
        patches, classes = F.normalize(patches, dim=-1, eps=0.0), F.normalize(classes, dim=-1, eps=0.0)
        return patches @ classes.transpose(1, 2)
