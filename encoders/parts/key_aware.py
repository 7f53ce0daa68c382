"""Key-aware deformable attention: the weights come from the sampled keys themselves.

Source: Lite DETR (arXiv 2303.07335), section 3.4; official code IDEA-Research/Lite-DETR,
``models/dino/ops/modules/ms_deform_attn.py``, whose state-dict names and outputs this module carries. It
needs the samples one by one, which the compiled op sums, so they are taken by torch's ``grid_sample``. The
official code samples keys and values, which are the same there, one after the other; here it is done once.

Legend: B batch, K tokens, Q queries, M heads, L levels, P points, C channels, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.parts.layers import Levels, MSDeformAttn


class PlainAttention(MSDeformAttn):
    """Deformable attention as Lite-DETR has it: with a projection of the queries that nothing reads."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__(dim, levels)
        self.query_proj = nn.Linear(dim, dim)


class KeyAwareAttention(PlainAttention):
    """Each query looks at its samples as attention looks at keys: a dot product, a softmax, a mean."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__(dim, levels)
        del self.attention_weights

    def forward(self, query: Tensor, centres: Tensor, tokens: Tensor, levels: Levels) -> Tensor:
        """As :meth:`encoders.parts.layers.MSDeformAttn.forward`: (B, Q, C) -> (B, Q, C)."""
        batch, queries, dim = query.shape
        value = self.value_proj(tokens).unflatten(2, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(2, (self.heads, self.levels, self.points, 2))
        if centres.shape[-1] == 4:
            points, offsets = self._in_boxes(centres, offsets, levels)
        else:
            points = centres[None, :, None]
        sizes = levels.shapes.flip(-1)[:, None].to(offsets.dtype)
        places = (points[:, :, None, :, None] + offsets / sizes) * 2 - 1
        keys = self._samples(value, places.to(value.dtype), levels)
        asking = self.query_proj(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        asking = asking.reshape(-1, 1, dim // self.heads)
        weights = (torch.bmm(asking, keys.transpose(1, 2)) / (dim // self.heads) ** 0.5).softmax(dim=-1)
        found = torch.bmm(weights, keys).view(batch, self.heads, queries, -1).transpose(1, 2).flatten(2)
        return self.output_proj(found)

    def _samples(self, value: Tensor, places: Tensor, levels: Levels) -> Tensor:
        """Values (B, K, M, D) at places (B, Q, M, L, P, 2) in [-1, 1] -> (B*M*Q, L*P, D)."""
        found = []
        parts = value.split(levels.tokens_per_level, dim=1)
        for level, (part, size) in enumerate(zip(parts, levels.sizes, strict=True)):
            level_map = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size)
            grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1)
            found.append(F.grid_sample(level_map, grid, align_corners=False))
        return torch.cat(found, dim=-1).permute(0, 2, 3, 1).flatten(0, 1)


def lite_attention(dim: int, levels: int, key_aware: bool) -> PlainAttention:
    """Either of the two."""
    return KeyAwareAttention(dim, levels) if key_aware else PlainAttention(dim, levels)
