"""Mask2Former's masked-attention transformer decoder: from an encoder's maps to classes and masks.

Source: Mask2Former (arXiv 2112.01527), section 3.2; official code facebookresearch/Mask2Former,
``modeling/transformer_decoder/mask2former_transformer_decoder.py``, whose state-dict names and
outputs this module carries.

Legend: B batch, Q queries, K classes, T tokens of one level, C channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.parts.attention import Attention
from segmeter.encoders.parts.layers import NORM_EPS, position_tokens, to_tokens

NUM_LEVELS = 3


@dataclass(frozen=True, kw_only=True)
class DecoderOutput:
    """One class distribution and one mask per query, from the last layer.

    Attributes:
        class_logits: (B, Q, K + 1), the last entry is "no object"; (B, Q, 0) where none are predicted.
        mask_logits: (B, Q, h, w) at the resolution of the mask features.
    """

    class_logits: Tensor
    mask_logits: Tensor


class SelfAttentionLayer(nn.Module):
    """Self-attention among the queries, post-norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, queries: Tensor, query_position: Tensor) -> Tensor:
        """(B, Q, C), position (1, Q, C) on queries and keys but not on values -> (B, Q, C)."""
        positioned = queries + query_position
        return self.norm(queries + self.self_attn(positioned, positioned, queries))


class CrossAttentionLayer(nn.Module):
    """Attention from queries to one level's tokens within each query's own mask, post-norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        tokens: Tensor,
        position: Tensor,
        visible: Tensor,
    ) -> Tensor:
        """Update the queries from the tokens that each of them may see.

        Args:
            queries: (B, Q, C).
            query_position: (1, Q, C).
            tokens: (B, T, C), level embedding included.
            position: (1, T, C), on the keys only.
            visible: bool (B, 1, Q, T), the same for all heads.

        Returns:
            (B, Q, C).
        """
        attended = self.multihead_attn(queries + query_position, tokens + position, tokens, mask=visible)
        return self.norm(queries + attended)


class FeedForwardLayer(nn.Module):
    """Two linear layers with ReLU between them, post-norm."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))


class MaskEmbedding(nn.Module):
    """Three linear layers with ReLU between them: a query to its mask embedding."""

    def __init__(self, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, mask_dim)])

    def forward(self, queries: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C_mask)."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(queries)))))


class MaskProduct(nn.Module):
    """Dot product of every mask embedding with every pixel embedding.

    It has no parameters; as a module of its own its cost shows under its own name.
    """

    def forward(self, mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
        """(B, Q, C) and (B, C, h, w) -> mask logits (B, Q, h, w)."""
        return torch.einsum("bqc,bchw->bqhw", mask_embedding, mask_features)


class AttentionMask(nn.Module):
    """From mask logits to the tokens that each query may attend to; it has no parameters."""

    def forward(self, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (B, Q, h, w) -> bool (B, 1, Q, H*W) for a level of size (H, W).

        A token is visible where its logit is not negative. A query that would see nothing sees
        everything, since a softmax over nothing is not a number.
        """
        resized = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
        visible = ~(resized.flatten(2) < 0)
        sees_nothing = ~visible.any(dim=-1, keepdim=True)
        return (visible | sees_nothing)[:, None]


class MaskedDecoder(nn.Module):
    """Learned queries that attend to the encoder's maps, level by level, inside their own masks.

    Layer i reads level i mod 3 (strides 32, 16, 8): masked cross-attention, self-attention, FFN.
    Masks are predicted before the first layer and after each one, ``layers + 1`` times, because
    each prediction decides where the next layer may look. Classes are predicted from the last layer
    only: no output depends on earlier ones, and the papers' figures leave them out for that reason.

    Args:
        num_classes: K, without "no object"; None for a decoder that predicts masks alone.
        num_queries: Q.
        layers: decoder layers; 9 is ``DEC_LAYERS: 10`` in the official configs.
        hidden_dim: channels of the encoder's maps and of the queries.
        heads: attention heads.
        ffn_dim: hidden channels of the FFN.
        mask_dim: channels of the mask features.

    Raises:
        ValueError: a count that is not a positive whole number, or a ``hidden_dim`` that heads and
            position code cannot share evenly.
    """

    def __init__(
        self,
        num_classes: int | None,
        num_queries: int = 100,
        layers: int = 9,
        hidden_dim: int = 256,
        heads: int = 8,
        ffn_dim: int = 2048,
        mask_dim: int = 256,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_classes", 1 if num_classes is None else num_classes),
            ("num_queries", num_queries),
            ("layers", layers),
            ("hidden_dim", hidden_dim),
            ("heads", heads),
            ("ffn_dim", ffn_dim),
            ("mask_dim", mask_dim),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        # 4: sine and cosine for each of y and x.
        if hidden_dim % heads or hidden_dim % 4:
            raise ValueError(f"hidden_dim must be a multiple of heads ({heads}) and of 4, got {hidden_dim}")
        self.hidden_dim, self.mask_dim = hidden_dim, mask_dim
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, heads) for _ in range(layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, heads) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(hidden_dim, ffn_dim) for _ in range(layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim, eps=NORM_EPS)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.class_embed: nn.Module | None = None
        if num_classes is not None:
            self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MaskEmbedding(hidden_dim, mask_dim)
        self.mask_product = MaskProduct()
        self.attention_mask = AttentionMask()

    def forward(self, multi_scale: list[Tensor], mask_features: Tensor) -> DecoderOutput:
        """Classes and masks of an encoder's output; arguments and errors as of :meth:`decode`."""
        normed, mask_logits = self.decode(multi_scale, mask_features)
        classes = normed[..., :0] if self.class_embed is None else self.class_embed(normed)
        return DecoderOutput(class_logits=classes, mask_logits=mask_logits)

    def decode(self, multi_scale: list[Tensor], mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode an encoder's output.

        Args:
            multi_scale: three maps (B, C, h_i, w_i), from low to high resolution.
            mask_features: (B, C_mask, h, w) pixel embeddings, at stride 4 or any other.

        Returns:
            After the last layer: the normalised queries (B, Q, C) and their mask logits (B, Q, h, w).

        Raises:
            ValueError: the number of maps or a shape does not fit.
        """
        self._check(multi_scale, mask_features)
        tokens = [
            to_tokens(level) + embedding
            for level, embedding in zip(multi_scale, self.level_embed.weight, strict=True)
        ]
        positions = [self._position(level) for level in multi_scale]
        query_position = self.query_embed.weight[None]
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)

        normed, mask_logits = self._predict_masks(queries, mask_features)
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = index % NUM_LEVELS
            height, width = multi_scale[level].shape[-2:]
            visible = self.attention_mask(mask_logits, (height, width))
            queries = cross_attention(queries, query_position, tokens[level], positions[level], visible)
            queries = feed_forward(self_attention(queries, query_position))
            normed, mask_logits = self._predict_masks(queries, mask_features)
        return normed, mask_logits

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "transformer_cross_attention_layers.*.norm": "norms",
            "transformer_self_attention_layers.*.norm": "norms",
            "transformer_ffn_layers.*.norm": "norms",
            "decoder_norm": "norms",
            "transformer_cross_attention_layers": "cross_attention",
            "transformer_self_attention_layers": "self_attention",
            "transformer_ffn_layers": "ffn",
            "mask_embed": "mask_prediction.embedding",
            "mask_product": "mask_prediction.product",
            "attention_mask": "attention_mask",
            "class_embed": "class_prediction",
            # Level embeddings and position codes.
            "": "elementwise",
        }

    def _predict_masks(self, queries: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised queries (B, Q, C) and their mask logits (B, Q, h, w)."""
        normed = self.decoder_norm(queries)
        return normed, self.mask_product(self.mask_embed(normed), mask_features)

    def _position(self, level: Tensor) -> Tensor:
        height, width = level.shape[-2:]
        return position_tokens(height, width, self.hidden_dim, like=level)

    def _check(self, multi_scale: list[Tensor], mask_features: Tensor) -> None:
        if len(multi_scale) != NUM_LEVELS:
            raise ValueError(f"multi_scale must be {NUM_LEVELS} maps, got {len(multi_scale)}")
        batch = mask_features.shape[0]
        named = [(f"multi_scale[{i}]", m, self.hidden_dim) for i, m in enumerate(multi_scale)]
        for name, tensor, channels in (*named, ("mask_features", mask_features, self.mask_dim)):
            shape = tuple(tensor.shape)
            if len(shape) != 4 or shape[:2] != (batch, channels):
                raise ValueError(f"{name} must be ({batch}, {channels}, H, W), got {shape}")
