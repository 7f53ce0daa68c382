"""Multi-head attention with the parameter names of ``nn.MultiheadAttention``.

torch's own module takes a different path through the dispatcher in eval mode, with a mask, or when weights
are asked for, and some counters lose sight of it there. This one always runs
``scaled_dot_product_attention``, so every device, counter and exporter sees the same op.

Legend: B batch, Q queries, K keys, C channels, M heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot-product attention over ``heads`` heads; query, key and value projected separately."""

    def __init__(self, dim: int = 256, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, K, C).
            value: (B, K, C).
            mask: bool, broadcastable to (B, M, Q, K); True where a query may look.

        Returns:
            (B, Q, C).
        """
        inputs = zip(
            (query, key, value),
            self.in_proj_weight.chunk(3),
            self.in_proj_bias.chunk(3),
            strict=True,
        )
        q, k, v = (
            F.linear(x, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in inputs
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
