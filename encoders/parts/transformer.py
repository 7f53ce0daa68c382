"""The plain transformer layer: self-attention and FFN over one map's tokens, post-norm.

Legend: B batch, K tokens, C channels.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.interface import LayerTokens
from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS


class TransformerLayer(nn.Module):
    """Self-attention and FFN, each added to its input and normalised.

    Args:
        activation: between the two linear layers of the FFN.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.self_attn = Attention(dim, heads)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, K, C), position (1, K, C) on queries and keys only -> (B, K, C)."""
        query = tokens + position
        tokens = self.norm1(tokens + self.self_attn(query, query, tokens))
        return self.norm2(tokens + self.linear2(self.activation(self.linear1(tokens))))

    def layer_tokens(self, tokens: Tensor, position: Tensor) -> LayerTokens:
        """The tokens of a call of :meth:`forward`: all of one map."""
        return LayerTokens(tokens, (), tokens.shape[1])
