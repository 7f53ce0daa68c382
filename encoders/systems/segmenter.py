"""Segmenter: a plain vision transformer and a mask transformer, with a reducer of tokens between its layers.

Source: Segmenter (arXiv 2105.05633); official code rstrudel/segmenter. Reducers: :mod:`encoders.reduction`.
Images are RGB scaled to -1..1. The result is a map of class logits at the size of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.backbones.patches import PATCH
from segmeter.encoders.backbones.vit import VITS, VisionTransformer, ViTSize
from segmeter.encoders.chain import Choice, Pixels, Sizes, Stage, System
from segmeter.encoders.naming import Naming, Shapes
from segmeter.encoders.options import Option
from segmeter.encoders.parts.mask_transformer import MaskTransformer
from segmeter.encoders.reduction.interface import PatchTokens, ReducerKind, layers_of
from segmeter.encoders.reduction.table import REDUCERS, named_reducer
from segmeter.encoders.rules import ANYTHING, NoneOr, OneOf, WholeNumber

NONE = "none"
MAX_TRAIN_SIZE = 4096
# Options that are the system's own; all others are the reducer's.
OWN = ("reduction", "train_size")


class MaskUpsampling(nn.Module):
    """Masks at a lower stride to the size of the image; it has no parameters."""

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {"": "upsampling"}

    def forward(self, masks: Tensor, sizes: Sizes) -> Tensor:
        """(B, K, h, w) -> class logits (B, K, H, W) of the results' size."""
        height, width = sizes.image
        logits = resize(masks, sizes.padded)[:, :, :height, :width]
        return logits if sizes.original in (sizes.image, (0, 0)) else resize(logits, sizes.original)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) bilinearly to (B, K, H, W)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def stages(choice: Choice, reducers: Mapping[str, ReducerKind]) -> Sequence[Stage]:
    """Encoder with its reducer, decoder, and the enlarging of the masks."""
    size = VITS[choice.backbone]
    kind, values = _reducer(choice, reducers)
    train_size = choice.options["train_size"] or size.train_size
    key = () if kind is None else (kind.name, kind.identity, tuple(sorted(values.items())))

    def build_encoder(built: Mapping[str, nn.Module]) -> nn.Module:
        reduction = None if kind is None else build_reducer(kind, values, size, choice.num_classes)
        return VisionTransformer(size, train_size, reduction)

    def build_decoder(built: Mapping[str, nn.Module]) -> nn.Module:
        own = None if kind is None else kind.decoder(values, size.dim, choice.num_classes)
        return own or MaskTransformer(size.dim, size.heads, choice.num_classes)

    needs_classes = kind is not None and kind.context
    return (
        Stage(
            name="encoder",
            key=("vit", size.title, train_size, *key, choice.num_classes if needs_classes else 0),
            build=build_encoder,
            call=lambda encoder, images, sizes: encoder(images),
            depends_on_image=kind is not None and kind.depends_on_image,
        ),
        Stage(
            name="decoder",
            key=("mask transformer", size.dim, choice.num_classes, *(key if needs_classes else ())),
            build=build_decoder,
            call=_decode,
        ),
        Stage(
            name="postprocess",
            key=("mask upsampling",),
            build=lambda built: MaskUpsampling(),
            call=lambda upsampling, masks, sizes: upsampling(masks, sizes),
            reads_sizes=True,
        ),
    )


def build_reducer(kind: ReducerKind, values: Mapping[str, Any], size: ViTSize, num_classes: int) -> nn.Module:
    """A reducer for a vision transformer of this size.

    Raises:
        ValueError: it works in blocks that the transformer does not have, or in none.
    """
    context = {"dim": size.dim, "depth": size.depth, "num_classes": num_classes} if kind.context else {}
    reduction = kind.build(**values, **context)
    layers = layers_of(reduction, kind.name, f"{size.title} has layers", size.depth)
    if not layers and not any(hasattr(reduction, name) for name in ("embed", "halt")):
        raise ValueError(f"{kind.name} says no layers, so that it would never run: give it layers = (2,)")
    return reduction


def _decode(decoder: nn.Module, tokens: PatchTokens | list[PatchTokens], sizes: Sizes) -> Tensor:
    if isinstance(tokens, PatchTokens):
        return decoder(tokens)
    return torch.cat([decoder(each) for each in tokens])


def _reducer(
    choice: Choice, reducers: Mapping[str, ReducerKind]
) -> tuple[ReducerKind | None, dict[str, Any]]:
    """The reducer that was chosen and its options, complete; None and {} for none."""
    given = {name: value for name, value in choice.options.items() if name not in OWN and value is not None}
    chosen = choice.options["reduction"]
    if chosen == NONE:
        if given:
            names = ", ".join(reducers)
            raise ValueError(f"{next(iter(given))} is an option of a reducer; choose reduction from {names}")
        return None, {}
    kind = named_reducer(chosen, reducers)
    return kind, kind.values(choice.backbone, given)


def _fits(choice: Choice, reducers: Mapping[str, ReducerKind]) -> None:
    kind, values = _reducer(choice, reducers)
    if kind is not None:
        with torch.device("meta"):
            build_reducer(kind, values, VITS[choice.backbone], choice.num_classes)


def _vit_of(shapes: Shapes) -> str:
    """Which of the transformers these shapes are of.

    Raises:
        ValueError: none of them.
    """
    width = shapes.get("encoder.cls_token", (0,))[-1]
    blocks = sum(name.startswith("encoder.blocks.") and name.endswith(".norm1.weight") for name in shapes)
    for name, size in VITS.items():
        if size.dim == width and size.depth == blocks:
            return name
    raise ValueError(
        f"no transformer of {blocks} blocks of width {width} is known; known are {', '.join(VITS)}"
    )


def _options_of(shapes: Shapes) -> dict[str, Any]:
    """The side of the images that the positions are for, where it is no published one; CTS by its network.

    How many superpatches share is not in the file: it is taken from the published row of these positions.
    """
    positions = shapes.get("encoder.pos_embed", (0, 1))[1] - 1
    side = PATCH * round(positions**0.5)
    published = VITS[_vit_of(shapes)].train_size
    found: dict[str, Any] = {}
    if side != published and (side // PATCH) ** 2 == positions:
        found["train_size"] = side
    if f"{POLICY}.heads.0.weight" in shapes:
        found["reduction"] = "cts"
        if positions in CTS_SHARED:
            found["shared"] = CTS_SHARED[positions]
    return found


POLICY = "encoder.reduction.policy"
# Patches of an image -> superpatches that share a token: CTS's Cityscapes, ADE20K and Pascal Context.
CTS_SHARED = {2304: 336, 1024: 103, 900: 90}
NAMING = Naming(
    sign=r"encoder\.patch_embed\.proj\.weight",
    # CTS's network for its superpatches, then what all have.
    rules=(
        (r"policy_net\.backbone\.(.*)", rf"{POLICY}.network.\1"),
        (r"policy_net\.head\.(.*)", rf"{POLICY}.heads.0.\1"),
        (r"((?:encoder|decoder)\..*)", r"\1"),
    ),
    ignored=(r"encoder\.head\..*", r".*num_batches_tracked"),
    backbone_of=_vit_of,
    options=_options_of,
    classes="decoder.mask_norm.weight",
)


def segmenter(reducers: Mapping[str, ReducerKind], own: ReducerKind | None = None) -> System:
    """The system with these reducers to choose from, and one of the user's own."""
    known = {**reducers, **({own.name: own} if own else {})}
    reduction = Option(
        name="reduction",
        default=NONE,
        check=OneOf((NONE, *known)),
        read=str,
        choices={NONE: "all tokens", **{kind.name: kind.summary for kind in known.values()}},
        help="what reduces the tokens",
        title=lambda name: known[name].title if name in known else name,
    )
    shared = {
        option.name: replace(
            option,
            default=None,
            check=ANYTHING,
            help=", ".join(
                f"{kind.title}: {each.help}"
                for kind in known.values()
                for each in kind.options
                if each.name == option.name
            ),
        )
        for kind in known.values()
        for option in kind.options
    }
    train_size = Option(
        name="train_size",
        default=None,
        check=NoneOr(WholeNumber(PATCH, MAX_TRAIN_SIZE, PATCH)),
        help="side of the images that its positions are for; none: the published model's",
    )
    return System(
        name="segmenter",
        title="Segmenter",
        summary="a plain vision transformer with a mask transformer; its tokens can be reduced",
        source="Segmenter (arXiv 2105.05633)",
        options=(reduction, train_size, *shared.values()),
        stages=lambda choice: stages(choice, known),
        fits=lambda choice: _fits(choice, known),
        backbones=tuple(VITS),
        default_backbone="vit-s",
        size_divisor=PATCH,
        takes_any=own is not None,
        pixels=Pixels((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        default_size=_usual_size,
        default_classes=150,
        naming=NAMING,
        code_option="reduction",
        with_code=lambda system, kind: segmenter(reducers, kind),
        compared=(NONE, *(kind.name for kind in reducers.values() if not kind.needs_training)),
        identity=own.identity if own else None,
    )


def _usual_size(backbone: str, written: Mapping[str, str]) -> tuple[int, int]:
    """The side that the positions are for."""
    given = written.get("train_size", "")
    side = int(given) if given.isdecimal() else VITS[backbone].train_size
    return side, side


SYSTEM = segmenter(REDUCERS)
