"""CLIP's text tower: prompts to the embeddings that classes are told by.

Source: CLIP (arXiv 2103.00020); open_clip's ``model.py`` and ``transformer.py``, whose state-dict names the
module carries. The sizes are those of open_clip's ``convnext_large_d_320``. It is not run for an image: a
vocabulary's embeddings are worked out once.

Legend: N prompts, L tokens of a prompt, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS

WIDTH = 768
LAYERS = 16
HEADS = 12
CONTEXT = 77
VOCABULARY = 49408


class TextLayer(nn.Module):
    """Attention to earlier tokens and MLP, pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH, eps=NORM_EPS)
        self.attn = Attention(WIDTH, HEADS)
        self.ln_2 = nn.LayerNorm(WIDTH, eps=NORM_EPS)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """(N, L, C), bool (L, L) -> (N, L, C)."""
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, mask=visible)
        return tokens + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(tokens))))


class TextTransformer(nn.Module):
    """The official nesting: ``transformer.resblocks``."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TextLayer() for _ in range(layers))

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        for layer in self.resblocks:
            tokens = layer(tokens, visible)
        return tokens


class TextTower(nn.Module):
    """Token ids to one embedding for each prompt, not normalised."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(CONTEXT, WIDTH))
        self.transformer = TextTransformer(layers)
        self.ln_final = nn.LayerNorm(WIDTH, eps=NORM_EPS)
        self.text_projection = nn.Parameter(WIDTH**-0.5 * torch.randn(WIDTH, WIDTH))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (N, 77), each prompt's highest id at its end -> (N, C)."""
        visible = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool, device=ids.device).tril()
        tokens = self.transformer(self.token_embedding(ids) + self.positional_embedding, visible)
        prompts = torch.arange(len(ids), device=ids.device)
        ends = self.ln_final(tokens)[prompts, ids.argmax(dim=-1)]
        return ends @ self.text_projection
