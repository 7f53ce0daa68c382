"""Decoder layers of queries that carry boxes: self-attention, deformable cross-attention, FFN.

Source: DINO (arXiv 2203.03605) and RT-DETR (arXiv 2304.08069); official code IDEA-Research/DINO,
``DeformableTransformerDecoderLayer``, and lyuwenyu/RT-DETR, ``TransformerDecoderLayer``, whose state-dict
names and outputs this module carries.

Legend: B batch, K tokens, Q queries, C channels.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS, Levels, MSDeformAttn


class Mlp(nn.Module):
    """Linear layers with ReLU between them; ``layers`` is the official name."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class QueryLayer(nn.Module):
    """Self-attention among the queries, deformable attention to the tokens, FFN; each post-norm.

    Args:
        dim: channels.
        ffn_dim: hidden channels of the FFN.
        cross_attention: called as ``cross_attention(query, boxes, tokens, levels)``.
        heads: of the self-attention.
        self_norm_first: which of ``norm1`` and ``norm2`` follows self-attention: RT-DETR numbers them in the
            order in which they run, DINO has cross-attention's first.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        cross_attention: nn.Module,
        heads: int = 8,
        self_norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.self_norm_first = self_norm_first
        self.cross_attn = cross_attention
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.self_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self, queries: Tensor, position: Tensor, boxes: Tensor, tokens: Tensor, levels: Levels
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: (B, Q, C).
            position: (B, Q, C), on queries and keys, not on values.
            boxes: (B, Q, 4), in float32.
            tokens: (B, K, C).
            levels: geometry of the K tokens.

        Returns:
            (B, Q, C).
        """
        after_self, after_cross = (
            (self.norm1, self.norm2) if self.self_norm_first else (self.norm2, self.norm1)
        )
        positioned = queries + position
        queries = after_self(queries + self.self_attn(positioned, positioned, queries))
        queries = after_cross(queries + self.cross_attn(queries + position, boxes, tokens, levels))
        return self.norm3(queries + self.linear2(F.relu(self.linear1(queries))))


def query_layer_components(layer: str, self_attention: str = "self_attention") -> dict[str, str]:
    """Component of each submodule of the query layers at the path ``layer``."""
    return {
        f"{layer}.self_attn": self_attention,
        f"{layer}.cross_attn.value_proj": "cross_attention.value",
        f"{layer}.cross_attn.sampling_offsets": "cross_attention.offsets",
        f"{layer}.cross_attn.attention_weights": "cross_attention.weights",
        f"{layer}.cross_attn.query_proj": "cross_attention.key_aware_query",
        f"{layer}.cross_attn.output_proj": "cross_attention.output",
        f"{layer}.cross_attn": "cross_attention.sampling",
        f"{layer}.linear?": "ffn",
        f"{layer}.norm?": "norms",
        layer: "elementwise",
    }


def deformable_query_layer(dim: int, ffn_dim: int, levels: int, self_norm_first: bool = False) -> QueryLayer:
    """A query layer around plain deformable attention."""
    return QueryLayer(dim, ffn_dim, MSDeformAttn(dim, levels), self_norm_first=self_norm_first)
