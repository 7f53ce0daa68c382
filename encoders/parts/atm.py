"""SegViT's attention-to-mask head: class queries look at the tokens, and where they look is the map.

Source: SegViT (arXiv 2210.05844) and DToP (arXiv 2308.01045), as far as their descriptions say: a linear
layer to half the width with a norm, class queries, three cross-attention layers. Widths inside the layers
and the layer whose likeness is the map are this module's choice.
"""

import torch
from torch import Tensor, nn

from segmeter.encoders.reduction.interface import PatchTokens

LAYERS = 3
HEAD_WIDTH = 32
FFN_RATIO = 4


class AtmLayer(nn.Module):
    """Cross-attention of class queries to tokens and a feed-forward layer, post-norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, FFN_RATIO * dim), nn.ReLU(), nn.Linear(FFN_RATIO * dim, dim))

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, C) and (B, T, C) -> queries (B, K, C) and the likeness (B, K, T), mean over the heads."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, HEAD_WIDTH)).transpose(1, 2)
            for layer, x in ((self.q, queries), (self.k, tokens), (self.v, tokens))
        )
        likeness = q @ k.transpose(2, 3) * HEAD_WIDTH**-0.5
        attended = (likeness.softmax(-1) @ v).transpose(1, 2).flatten(2)
        queries = self.norm1(queries + self.proj(attended))
        return self.norm2(queries + self.ffn(queries)), likeness.mean(1)


class AtmHead(nn.Module):
    """Tokens to class probabilities and a map of each class.

    Args:
        dim: width of the tokens, a multiple of 64.
        num_classes: classes.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        inner = dim // 2
        self.input_proj = nn.Linear(dim, inner)
        self.norm = nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.empty(1, num_classes, inner))
        self.layers = nn.ModuleList(AtmLayer(inner) for _ in range(LAYERS))
        self.class_embed = nn.Linear(inner, 2)
        nn.init.trunc_normal_(self.queries, std=0.02)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> probability that each class is there (B, K), and map logits (B, T, K)."""
        x = self.norm(self.input_proj(tokens))
        queries = self.queries.expand(len(x), -1, -1)
        likeness = queries
        for layer in self.layers:
            queries, likeness = layer(queries, x)
        return self.class_embed(queries).softmax(-1)[..., 0], likeness.transpose(1, 2)


class AtmDecoder(AtmHead):
    """The head as the model's decoder, where earlier heads have halted tokens."""

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {"input_proj": "projection", "norm": "norms", "layers": "cross_attention", "": "masks"}

    def forward(self, tokens: PatchTokens) -> Tensor:  # type: ignore[override]
        """What is left of the patches -> scores (B, K, h, w).

        A halted token keeps its own map logits; the classes' probabilities are the last head's, as in DToP.
        """
        classes, logits = super().forward(tokens.x)
        scores = tokens.restore(logits).sigmoid() * classes[:, None]
        return scores.transpose(1, 2).unflatten(2, tokens.grid)
