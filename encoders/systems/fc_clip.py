"""FC-CLIP: Mask2Former on a frozen CLIP ConvNeXt, with classes told by their names.

Source: FC-CLIP, Convolutions Die Hard (arXiv 2308.02487); official code bytedance/fc-clip,
``fcclip/fcclip.py`` and ``modeling/``, whose outputs the modules have. A class is told twice, from the
decoder's queries (in vocabulary) and from CLIP's own features under each mask (out of vocabulary), by its
names' embeddings; the two are joined geometrically.

CLIP's image head runs on what the masks hold, so it stands with the post-processing here; in the official
code it is a part of the backbone. The text tower is there, and is not run for an image.

Legend: B batch, Q queries, K classes, N names of all classes, C channels, E channels of an embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Sizes, Stage, System
from segmeter.encoders.interface import FEATURE_NAMES, MASK2FORMER
from segmeter.encoders.options import Option
from segmeter.encoders.parts.layers import NORM_EPS
from segmeter.encoders.parts.text_tower import WIDTH as EMBEDDING
from segmeter.encoders.parts.text_tower import TextTower
from segmeter.encoders.rules import WholeNumber
from segmeter.encoders.segmenter.decoder import DecoderOutput, MaskedDecoder, MaskEmbedding
from segmeter.encoders.segmenter.postprocess import PostProcess, SegmentationOutput
from segmeter.encoders.systems.hosting import CHOOSER, Hosting
from segmeter.encoders.table import find_encoder

DIM = 256
QUERIES = 250
CHANNELS = (192, 384, 768, 1536)
CLIP_NORM_EPS = 1e-6
LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = 100.0
# Weights of CLIP's own opinion, for classes that were trained on and for others.
SEEN_WEIGHT, UNSEEN_WEIGHT = 0.4, 0.8
# Names of all classes, synonyms included, in the official data sets.
NAMES = {133: 254, 19: 60}


@dataclass(frozen=True, kw_only=True)
class OpenOutput(DecoderOutput):
    """The decoder's output, with what the second opinion needs.

    Attributes:
        names: (N + 1, E) normalised embeddings of all names; the last is void's.
    """

    names: Tensor


class ImageTower(nn.Module):
    """CLIP's ConvNeXt-L without its head (timm's)."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.trunk: nn.Module = timm.create_model("convnext_large", pretrained=False, num_classes=0)
        self.trunk.head = nn.Identity()


class ClipModel(TextTower):
    """The official nesting: the text tower's parts beside ``visual``."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = ImageTower()


class ClipBackbone(nn.Module):
    """A frozen CLIP whose image tower gives four maps.

    Attributes:
        channels: channels of ``res2`` to ``res5``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels = dict(zip(FEATURE_NAMES, CHANNELS, strict=True))
        self.clip_model = ClipModel()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16 and 32, ``res2`` to ``res5``."""
        trunk: Any = self.clip_model.visual.trunk
        x = trunk.stem(images)
        features = {}
        for name, stage in zip(FEATURE_NAMES, trunk.stages, strict=True):
            x = stage(x)
            features[name] = x.contiguous()
        return features

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "clip_model.visual.trunk.stem": "stem",
            "clip_model.visual.trunk.stages.?": "stages",
            "clip_model.visual": "elementwise",
            "clip_model.transformer": "text_tower",
            "": "elementwise",
        }


class MaskPooling(nn.Module):
    """The mean of a map's vectors under each mask; no parameters."""

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        """(B, C, h, w) and mask logits (B, Q, H, W) -> (B, Q, C)."""
        if x.shape[-2:] != masks.shape[-2:]:
            masks = F.interpolate(masks, size=x.shape[-2:], mode="bilinear", align_corners=False)
        inside = (masks > 0).to(x.dtype)
        share = inside / (inside.sum(dim=(-1, -2), keepdim=True) + 1e-8)
        return torch.einsum("bchw,bqhw->bqc", x, share)


class NameProduct(nn.Module):
    """Cosine similarity to every name, and the best name of each class.

    Args:
        names: how many names each class has.
    """

    def __init__(self, names: Sequence[int]) -> None:
        super().__init__()
        self.names = [*names, 1]

    def forward(self, vectors: Tensor, names: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, Q, E) and (N + 1, E) -> class logits (B, Q, K + 1); the last is void."""
        scale = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * F.normalize(vectors, dim=-1) @ names.t()
        best = [each.max(dim=-1).values for each in logits.split(self.names, dim=-1)]
        return torch.stack(best, dim=-1)


class OpenDecoder(MaskedDecoder):
    """Mask2Former's decoder whose classes come from what its masks hold.

    Args:
        names: how many names each class has.
        num_queries: Q.
    """

    text: Tensor

    def __init__(self, names: Sequence[int], num_queries: int) -> None:
        super().__init__(None, num_queries)
        self.mask_pooling = MaskPooling()
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(DIM, eps=NORM_EPS), nn.Linear(DIM, DIM))
        self.class_embed = MaskEmbedding(DIM, EMBEDDING)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        self.name_product = NameProduct(names)
        self.void_embedding = nn.Embedding(1, EMBEDDING)
        # One normalised embedding for each name, from the text tower; random until then.
        self.register_buffer("text", F.normalize(torch.randn(sum(names), EMBEDDING), dim=-1))

    def forward(self, multi_scale: list[Tensor], mask_features: Tensor) -> OpenOutput:
        """Classes and masks of an encoder's output."""
        queries, mask_logits = self.decode(multi_scale, mask_features)
        names = torch.cat((self.text, F.normalize(self.void_embedding.weight, dim=-1)))
        held = self._mask_pooling_proj(self.mask_pooling(mask_features, mask_logits))
        assert self.class_embed is not None  # set above
        classes = self.name_product(self.class_embed(held + queries), names, self.logit_scale)
        return OpenOutput(class_logits=classes, mask_logits=mask_logits, names=names)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {
            "mask_pooling": "class_prediction.mask_pooling",
            "_mask_pooling_proj": "class_prediction.embedding",
            "class_embed": "class_prediction.embedding",
            "name_product": "class_prediction.names",
            **super().components(),
        }


class ClipHead(nn.Module):
    """CLIP's image head on vectors in the place of a pooled map: norm, MLP."""

    def __init__(self) -> None:
        super().__init__()
        width = CHANNELS[-1]
        # timm's head pools to one pixel before its norm; a vector is a map of one.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.fc1 = nn.Linear(width, 2 * EMBEDDING)
        self.fc2 = nn.Linear(2 * EMBEDDING, EMBEDDING, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, E)."""
        return self.fc2(F.gelu(self.fc1(self.norm(self.pool(vectors[..., None, None]).flatten(2)))))


class OpenPostProcess(nn.Module):
    """CLIP's own opinion on each mask, joined with the decoder's, then masks and semantic map.

    Args:
        names: how many names each class has.
    """

    seen: Tensor

    def __init__(self, names: Sequence[int]) -> None:
        super().__init__()
        self.mask_pooling = MaskPooling()
        self.head = ClipHead()
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        self.name_product = NameProduct(names)
        self.masks = PostProcess()
        # Whether a class was trained on, by any of its names.
        self.register_buffer("seen", torch.ones(len(names), dtype=torch.bool))

    def forward(self, decoded: OpenOutput, dense: Tensor, sizes: Sizes) -> SegmentationOutput:
        """Post-process one batch.

        Args:
            decoded: of the decoder.
            dense: (B, C, H/32, W/32) CLIP's map.
            sizes: as :class:`encoders.segmenter.postprocess.PostProcess` takes them.
        """
        vectors = self.head(self.mask_pooling(dense, decoded.mask_logits))
        outside = self.name_product(vectors, decoded.names, self.logit_scale)[..., :-1].softmax(-1)
        inside = decoded.class_logits[..., :-1].softmax(-1)
        weight = torch.where(self.seen, SEEN_WEIGHT, UNSEEN_WEIGHT)
        joined = (inside ** (1 - weight) * outside**weight).log().softmax(-1)
        void = decoded.class_logits.softmax(-1)[..., -1:]
        # As logits of what they are, since post-processing takes a softmax of them.
        classes = (torch.cat((joined * (1 - void), void), dim=-1) + 1e-8).log()
        return self.masks(classes, decoded.mask_logits, sizes.padded, sizes.image, sizes.original)

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {"head": "clip_head", "mask_pooling": "clip_pooling", "name_product": "clip_names"}


def names_of(choice: Choice) -> list[int]:
    """How many names each class has: as many as asked for in all, dealt out evenly.

    Raises:
        ValueError: fewer names than classes.
    """
    classes = choice.num_classes
    names = choice.options["names"] or NAMES.get(classes, classes)
    if names < classes:
        raise ValueError(f"names must be at least the number of classes, {classes}, got {names}")
    share, rest = divmod(names, classes)
    return [share + (index < rest) for index in range(classes)]


HOSTING = Hosting(
    title="FC-CLIP",
    host=MASK2FORMER,
    build_own=lambda channels, options: find_encoder("m2f").build(channels),
)


def fc_clip_stages(choice: Choice) -> Sequence[Stage]:
    """CLIP's image tower, Mask2Former's encoder, open decoder, open post-processing; ``res5`` goes along."""
    names = names_of(choice)
    encoder = HOSTING.stage(choice, ("names",))
    return (
        Stage(
            name="backbone",
            key=("fc-clip backbone",),
            build=lambda built: ClipBackbone(),
            call=lambda backbone, images, sizes: backbone(images),
        ),
        replace(
            encoder,
            key=("fc-clip", *encoder.key),
            call=lambda encoder, features, sizes: (encoder(features), features["res5"]),
        ),
        Stage(
            name="decoder",
            key=("fc-clip decoder", tuple(names), choice.num_queries),
            build=lambda built: OpenDecoder(names, choice.num_queries),
            call=lambda decoder, given, sizes: (
                decoder(given[0].multi_scale, given[0].mask_features),
                given[1],
            ),
        ),
        Stage(
            name="postprocess",
            key=("fc-clip post-processing", tuple(names)),
            build=lambda built: OpenPostProcess(names),
            call=lambda postprocess, given, sizes: postprocess(*given, sizes),
            reads_sizes=True,
            full_precision=True,
        ),
    )


SYSTEM = System(
    name="fc-clip",
    title="FC-CLIP",
    summary="Mask2Former on a frozen CLIP ConvNeXt-L, classes told by the embeddings of their names",
    source="FC-CLIP, arXiv 2308.02487",
    stages=fc_clip_stages,
    options=(
        HOSTING.option,
        Option(
            name="names",
            default=0,
            check=WholeNumber(0, 100_000),
            help="Names of all classes; 0: 254 for COCO's 133 classes, 60 for 19, else one for each.",
        ),
    ),
    together=HOSTING.check_together,
    chooser=CHOOSER,
    further=HOSTING.further,
    backbones=("convnext-l",),
    default_backbone="convnext-l",
    default_queries=lambda backbone: QUERIES,
)
