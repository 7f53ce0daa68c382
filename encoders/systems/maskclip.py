"""MaskCLIP: masks proposed by Mask2Former, refined and named by a CLIP that sees them as further tokens.

Source: MaskCLIP, Open-Vocabulary Universal Image Segmentation with MaskCLIP (arXiv 2208.08984); official code
mlpc-ucsd/MaskCLIP, ``maskclip/modeling/maskclip.py`` and ``attention.py``, whose state-dict names and outputs
the CLIP part carries. The image goes into CLIP at 336x336 whatever its size; 100 mask tokens, copies of the
class token, stand before it and look through their masks at the patches; every sixth layer updates the masks.

The official code takes the last name for "no object" and drops it from the semantic map; so does this.

Legend: B batch, Q masks, K names, T patches, C channels, M heads, L = Q + 1 + T tokens, P side of a patch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Size, Stage, System
from segmeter.encoders.images import PIXEL_MEAN, PIXEL_STD
from segmeter.encoders.interface import MASK2FORMER
from segmeter.encoders.parts.layers import NORM_EPS
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskedDecoder
from segmeter.encoders.segmenter.model import backbone_stage, postprocess_stage
from segmeter.encoders.systems.hosting import CHOOSER, Hosting
from segmeter.encoders.table import find_encoder

QUERIES = 100
TEMPERATURE = 0.01
# Every sixth layer updates the masks.
UPDATE_EVERY = 6
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerSize:
    """Sizes of a CLIP image tower; the defaults are ViT-L/14's at 336x336.

    Attributes:
        resolution: side of the image, in pixels.
        patch: side of a patch, in pixels.
        width: channels.
        layers, heads: of the transformer.
        embedding: channels of an embedding.
    """

    resolution: int = 336
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    embedding: int = 768

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.resolution // self.patch


VIT_L_336 = TowerSize()


class QuickGelu(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class MaskAttention(nn.Module):
    """Attention in which the mask tokens' scores of patches may take the masks' shapes into account.

    Args:
        size: of the tower.
        embeds_masks: whether it takes embedded masks, and gives what updates them.
    """

    def __init__(self, size: TowerSize, embeds_masks: bool) -> None:
        super().__init__()
        self.heads = size.heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size.width, size.width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size.width))
        self.out_proj = nn.Linear(size.width, size.width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if embeds_masks:
            self.q_prime_norm_added_params = nn.LayerNorm(size.width, eps=NORM_EPS)
            self.k_prime_proj_weight_added_params = nn.Linear(size.width, size.width)

    def forward(
        self, tokens: Tensor, visible: Tensor, embedded: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, with the masks' own scores mixed in if embedded masks are given.

        Args:
            tokens: (B, L, C); the first Q are mask tokens.
            visible: bool (B, 1, L, L).
            embedded: (B, Q, T, C) embedded masks.

        Returns:
            (B, L, C), and (B, Q, T, C): the products of which the scores of patches are sums.
        """
        q, k, v = F.linear(tokens, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        if embedded is None:
            q, k, v = (self._by_head(x) for x in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            return self.out_proj(attended.transpose(1, 2).flatten(2)), None
        queries = embedded.shape[1]
        patches = queries + 1
        scale = (tokens.shape[-1] // self.heads) ** -0.5
        asked = self.q_prime_norm_added_params(embedded) * scale
        offered = self.k_prime_proj_weight_added_params(tokens[:, patches:])
        q = q * scale
        products = q[:, :queries, None] * k[:, None, patches:]
        # Per head, and only then summed, as officially: no product that a counter could see.
        shapes = (asked * offered[:, None]).unflatten(3, (self.heads, -1)).sum(-1).permute(0, 3, 1, 2)
        scores = self._by_head(q) @ self._by_head(k).transpose(2, 3)
        mixed = (scores[:, :, :queries, patches:] + shapes) / 2
        upper = torch.cat((scores[:, :, :queries, :patches], mixed), dim=3)
        scores = torch.cat((upper, scores[:, :, queries:]), dim=2)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        attended = weights @ self._by_head(v)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), products

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, M, L, C/M)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class ClipLayer(nn.Module):
    """Attention and MLP, pre-norm; some layers take and give what updates the masks."""

    def __init__(self, size: TowerSize, embeds_masks: bool) -> None:
        super().__init__()
        width = size.width
        self.attn = MaskAttention(size, embeds_masks)
        self.ln_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=QuickGelu(), c_proj=nn.Linear(4 * width, width)
            )
        )
        self.ln_2 = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, tokens: Tensor, visible: Tensor, embedded: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L, C), bool (B, 1, L, L), embedded masks (B, Q, T, C) -> (B, L, C) and products or None."""
        attended, products = self.attn(self.ln_1(tokens), visible, embedded)
        tokens = tokens + attended
        return tokens + self.mlp(self.ln_2(tokens)), products


class ClipLayers(nn.Module):
    """24 layers and four updates of the masks (``transformer`` officially)."""

    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        self.size = size
        width, patch, updates = size.width, size.patch, size.layers // UPDATE_EVERY
        self.resblocks = nn.ModuleList(
            ClipLayer(size, embeds_masks=index % UPDATE_EVERY == 0) for index in range(1, size.layers + 1)
        )
        self.conv1_added_params = nn.ModuleList(nn.Conv2d(1, width, patch, patch) for _ in range(updates))
        self.conv3_added_params = nn.ModuleList(nn.Conv2d(width, patch**2, 1) for _ in range(updates))
        self.gelu = QuickGelu()

    def forward(self, tokens: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, C) and mask logits (B, Q, H, W) of the tower's resolution -> the same, updated."""
        grid = (self.size.grid, self.size.grid)
        for index, layer in enumerate(self.resblocks, start=1):
            visible = visible_tokens(masks, self.size.patch)
            if index % UPDATE_EVERY:
                tokens, _ = layer(tokens, visible, None)
                continue
            update = index // UPDATE_EVERY - 1
            embedded = self.conv1_added_params[update](masks.tanh().flatten(0, 1)[:, None])
            embedded = embedded.flatten(2).transpose(1, 2).unflatten(0, masks.shape[:2])
            tokens, products = layer(tokens, visible, embedded)
            maps = self.gelu(products.flatten(0, 1).transpose(1, 2).unflatten(2, grid))
            # P * P channels at each patch are the pixels of that patch.
            pixels = F.pixel_shuffle(self.conv3_added_params[update](maps), self.size.patch)
            masks = masks + pixels.squeeze(1).unflatten(0, masks.shape[:2])
        return tokens, masks


class ImageTower(nn.Module):
    """CLIP's vision transformer with mask tokens (``visual`` officially)."""

    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        width = size.width
        self.conv1 = nn.Conv2d(3, width, size.patch, size.patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(size.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=NORM_EPS)
        self.transformer = ClipLayers(size)
        self.ln_post = nn.LayerNorm(width, eps=NORM_EPS)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, size.embedding))

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run on images of the tower's resolution.

        Args:
            images: (B, 3, H, W).
            masks: (B, Q, H, W) logits.

        Returns:
            Embeddings (B, Q, E), and the updated masks.
        """
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat((start, patches), dim=1) + self.positional_embedding)
        queries = masks.shape[1]
        tokens = torch.cat((tokens[:, :1].expand(-1, queries, -1), tokens), dim=1)
        tokens, masks = self.transformer(tokens, masks)
        return self.ln_post(tokens[:, :queries]) @ self.proj, masks


class NameSimilarity(nn.Module):
    """Cosine similarity of each mask's embedding to each name's; no parameters."""

    def forward(self, embeddings: Tensor, names: Tensor) -> Tensor:
        """(B, Q, E) and (K, E) -> (B, Q, K)."""
        return torch.einsum("bqe,ke->bqk", embeddings / embeddings.norm(dim=-1, keepdim=True), names)


class MaskClip(nn.Module):
    """The CLIP part: from the images and the proposed masks to classes and better masks.

    Args:
        num_classes: K.
        size: of the tower.
    """

    text: Tensor

    def __init__(self, num_classes: int, size: TowerSize = VIT_L_336) -> None:
        super().__init__()
        self.resolution = size.resolution
        self.visual = ImageTower(size)
        self.name_similarity = NameSimilarity()
        # One normalised embedding for each name, from CLIP's text tower; random until then.
        self.register_buffer("text", F.normalize(torch.randn(num_classes, size.embedding), dim=-1))

    def forward(self, images: Tensor, mask_logits: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W), normalised as networks want them, and mask logits (B, Q, h, w)."""
        square = (self.resolution, self.resolution)
        masks = F.interpolate(mask_logits, size=square, mode="bilinear", align_corners=False)
        embeddings, masks = self.visual(clip_images(images, square), masks)
        classes = self.name_similarity(embeddings, self.text) / TEMPERATURE
        return DecoderOutput(class_logits=classes, mask_logits=masks)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        layer = "visual.transformer.resblocks.*"
        return {
            "visual.conv1": "patch_embedding",
            f"{layer}.attn.q_prime_norm_added_params": "norms",
            f"{layer}.attn.k_prime_proj_weight_added_params": "mask_update.keys",
            f"{layer}.attn": "attention",
            f"{layer}.ln_?": "norms",
            f"{layer}.mlp": "ffn",
            "visual.ln_*": "norms",
            "visual.transformer.conv?_added_params": "mask_update.convolutions",
            "visual.transformer": "elementwise",
            "visual": "projection",
            "name_similarity": "names",
            # Image and masks made 336x336.
            "": "resizing",
        }


def visible_tokens(masks: Tensor, patch: int) -> Tensor:
    """What each token may look at.

    Nobody sees a mask token; a mask token sees the class token and the patches that its mask touches.

    Args:
        masks: (B, Q, H, W) logits.
        patch: side of a patch.

    Returns:
        bool (B, 1, L, L).
    """
    batch, queries = masks.shape[:2]
    inside = (masks.sigmoid() >= 0.5).to(masks.dtype)
    touched = F.max_pool2d(inside, patch).flatten(2) > 0
    others = touched.shape[2] + 1
    upper = torch.cat(
        (touched.new_zeros(batch, queries, queries), touched.new_ones(batch, queries, 1), touched), dim=2
    )
    lower = torch.cat(
        (touched.new_zeros(batch, others, queries), touched.new_ones(batch, others, others)), dim=2
    )
    return torch.cat((upper, lower), dim=1)[:, None]


def clip_images(images: Tensor, size: Size) -> Tensor:
    """Images as our networks want them -> (B, 3, H, W) of this size as CLIP wants them."""
    mean, std, clip_mean, clip_std = (
        images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD, CLIP_MEAN, CLIP_STD)
    )
    pixels = (images * std + mean) / 255
    resized = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)
    return (resized - clip_mean) / clip_std


HOSTING = Hosting(
    title="MaskCLIP",
    host=MASK2FORMER,
    build_own=lambda channels, options: find_encoder("m2f").build(channels),
)


def maskclip_stages(choice: Choice) -> Sequence[Stage]:
    """Mask2Former without classes, CLIP, post-processing; the images go along as far as CLIP."""
    backbone, encoder = backbone_stage(choice.backbone), HOSTING.stage(choice)
    return (
        replace(
            backbone,
            key=("maskclip", *backbone.key),
            call=lambda backbone, images, sizes: (images, backbone(images)),
        ),
        replace(
            encoder,
            key=("maskclip", *encoder.key),
            call=lambda encoder, given, sizes: (given[0], encoder(given[1])),
        ),
        Stage(
            name="decoder",
            key=("maskclip decoder", choice.num_queries),
            build=lambda built: MaskedDecoder(None, choice.num_queries),
            call=lambda decoder, given, sizes: (
                given[0],
                decoder(given[1].multi_scale, given[1].mask_features).mask_logits,
            ),
        ),
        Stage(
            name="clip",
            key=("maskclip clip", choice.num_classes),
            build=lambda built: MaskClip(choice.num_classes),
            call=lambda clip, given, sizes: clip(*given),
        ),
        postprocess_stage(choice.num_classes),
    )


SYSTEM = System(
    name="maskclip",
    title="MaskCLIP",
    summary="Mask2Former's masks as tokens of CLIP ViT-L/14, which refines and names them",
    source="MaskCLIP, arXiv 2208.08984",
    stages=maskclip_stages,
    options=(HOSTING.option,),
    together=HOSTING.check_together,
    chooser=CHOOSER,
    further=HOSTING.further,
    default_backbone="r50",
    default_queries=lambda backbone: QUERIES,
)
