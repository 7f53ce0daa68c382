"""SegFormer: the Mix Transformer and an all-MLP head, with Segformer++'s merging inside the attention.

Source: SegFormer (arXiv 2105.15203), Segformer++ (MIPR 2024). Images are normalised by ImageNet's mean and
deviation. The result is a map of class logits at the size of the image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from segmeter.encoders.backbones.mit import MITS, MixTransformer
from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.naming import Naming, Shapes
from segmeter.encoders.options import Option
from segmeter.encoders.parts.all_mlp_head import AllMlpHead, OfficialHead
from segmeter.encoders.reduction.grid import build_merging
from segmeter.encoders.reduction.interface import ReducerKind, layers_of
from segmeter.encoders.reduction.modes import CUSTOM, MODES, PRESET_HELP, merging_of
from segmeter.encoders.rules import NoneOr, OneOf, WholeNumber
from segmeter.encoders.systems.segmenter import MaskUpsampling

MAX_CHANNELS = 8192
MMSEG_CHANNELS = 256
STAGES = 4
HEADS = {
    "paper": "NVlabs' module, 256 channels for B0 and B1, 768 for the others",
    "mmseg": "mmseg's and Segformer++'s module, 256 channels",
}
OWN = ("head", "head_channels", "merging", *CUSTOM)


def stages(choice: Choice, own: ReducerKind | None = None) -> Sequence[Stage]:
    """Backbone with its merging, head, and the enlarging of the class maps."""
    size = MITS[choice.backbone]
    key, merging = _merging(choice, own)
    is_official = choice.options["head"] == "paper"
    channels = choice.options["head_channels"] or (size.head if is_official else MMSEG_CHANNELS)
    head = OfficialHead if is_official else AllMlpHead
    return (
        Stage(
            name="backbone",
            key=("mit", size.title, key),
            build=lambda built: MixTransformer(size, merging),
            call=lambda backbone, images, sizes: backbone(images),
            depends_on_image=own is not None and own.depends_on_image,
        ),
        Stage(
            name="decode_head",
            key=("all-mlp head", size.dims, choice.options["head"], channels, choice.num_classes),
            build=lambda built: head(size.dims, channels, choice.num_classes),
            call=lambda decode_head, maps, sizes: decode_head(maps),
        ),
        Stage(
            name="postprocess",
            key=("class map upsampling",),
            build=lambda built: ClassMapUpsampling(),
            call=lambda upsampling, maps, sizes: upsampling(maps, sizes),
            reads_sizes=True,
        ),
    )


class ClassMapUpsampling(MaskUpsampling):
    """Class maps at stride 4 to the size of the image, which the papers' figures leave out."""

    def components(self) -> dict[str, str]:
        """See :mod:`encoders.interface`."""
        return {"": "class_map_upsampling"}


def _merging(choice: Choice, own: ReducerKind | None) -> tuple[Any, Any]:
    """What tells the merging from others, and a stage's number -> its reducers of queries and keys."""
    if own is not None and choice.options["merging"] == own.name:
        given = {n: v for n, v in choice.options.items() if n not in OWN and v is not None}
        values = own.values(choice.backbone, given)

        def queries(stage: int) -> tuple[nn.Module | None, nn.Module | None]:
            reduction = own.build(**values)
            stages = layers_of(reduction, own.name, "SegFormer has stages", STAGES)
            return (reduction if not stages or stage in stages else None), None

        return (own.name, own.identity, tuple(sorted(values.items()))), queries
    merging = merging_of(choice.options)
    return merging, lambda stage: (
        build_merging(merging[stage - 1].queries),
        build_merging(merging[stage - 1].keys),
    )


def _mit_of(shapes: Shapes) -> str:
    """Which of the backbones these shapes are of.

    Raises:
        ValueError: none of them.
    """
    dims = tuple(shapes.get(f"backbone.layers.{i}.2.weight", (0,))[0] for i in range(4))
    depths = tuple(
        sum(name.startswith(f"backbone.layers.{i}.1.") and name.endswith(".norm1.weight") for name in shapes)
        for i in range(4)
    )
    for name, size in MITS.items():
        if size.dims == dims and size.depths == depths:
            return name
    raise ValueError(f"no Mix Transformer has widths {dims} and blocks {depths}; known are {', '.join(MITS)}")


def _options_of(shapes: Shapes) -> dict[str, Any]:
    """Which head, and its width where it is not the head's own."""
    if "decode_head.linear_pred.weight" in shapes:
        channels, own = shapes["decode_head.linear_pred.weight"][1], MITS[_mit_of(shapes)].head
        found: dict[str, Any] = {"head": "paper"}
    else:
        channels, own = shapes.get("decode_head.conv_seg.weight", (0, MMSEG_CHANNELS))[1], MMSEG_CHANNELS
        found = {"head": "mmseg"}
    return found if channels == own else {**found, "head_channels": channels}


_BLOCK, _OUR_BLOCK = r"backbone\.block(\d)\.(\d+)\.", r"backbone.layers.{1-1}.1.\2."
_HF, _OUR_HF = r"segformer\.encoder\.block\.(\d)\.(\d+)\.", r"backbone.layers.\1.1.\2."
# NVlabs' names, then transformers'; mmseg's are ours.
NAMING = Naming(
    sign=r"segformer\.encoder\.patch_embeddings\..*|backbone\.layers\.0\.0\.projection\.weight"
    r"|backbone\.block1\.0\.attn\.kv\.weight",
    rules=(
        (r"backbone\.patch_embed(\d)\.proj\.(.*)", r"backbone.layers.{1-1}.0.projection.\2"),
        (r"backbone\.patch_embed(\d)\.norm\.(.*)", r"backbone.layers.{1-1}.0.norm.\2"),
        (_BLOCK + r"attn\.q\.(weight|bias)", _OUR_BLOCK + r"attn.attn.in_proj_\3#0"),
        (_BLOCK + r"attn\.kv\.(weight|bias)", _OUR_BLOCK + r"attn.attn.in_proj_\3#12"),
        (_BLOCK + r"attn\.proj\.(.*)", _OUR_BLOCK + r"attn.attn.out_proj.\3"),
        (_BLOCK + r"(attn\.(?:sr|norm)\..*|norm\d\..*)", _OUR_BLOCK + r"\3"),
        (_BLOCK + r"mlp\.fc1\.weight", _OUR_BLOCK + "ffn.layers.0.weight#1x1"),
        (_BLOCK + r"mlp\.fc1\.bias", _OUR_BLOCK + "ffn.layers.0.bias"),
        (_BLOCK + r"mlp\.dwconv\.dwconv\.(.*)", _OUR_BLOCK + r"ffn.layers.1.\3"),
        (_BLOCK + r"mlp\.fc2\.weight", _OUR_BLOCK + "ffn.layers.4.weight#1x1"),
        (_BLOCK + r"mlp\.fc2\.bias", _OUR_BLOCK + "ffn.layers.4.bias"),
        (r"backbone\.norm(\d)\.(.*)", r"backbone.layers.{1-1}.2.\2"),
        (r"segformer\.encoder\.patch_embeddings\.(\d)\.proj\.(.*)", r"backbone.layers.\1.0.projection.\2"),
        (r"segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.(.*)", r"backbone.layers.\1.0.norm.\2"),
        *(
            (_HF + rf"attention\.self\.{name}\.(weight|bias)", _OUR_HF + rf"attn.attn.in_proj_\3#{part}")
            for part, name in enumerate(("query", "key", "value"))
        ),
        (_HF + r"attention\.self\.sr\.(.*)", _OUR_HF + r"attn.sr.\3"),
        (_HF + r"attention\.self\.layer_norm\.(.*)", _OUR_HF + r"attn.norm.\3"),
        (_HF + r"attention\.output\.dense\.(.*)", _OUR_HF + r"attn.attn.out_proj.\3"),
        (_HF + r"layer_norm_(\d)\.(.*)", _OUR_HF + r"norm\3.\4"),
        (_HF + r"mlp\.dense1\.weight", _OUR_HF + "ffn.layers.0.weight#1x1"),
        (_HF + r"mlp\.dense1\.bias", _OUR_HF + "ffn.layers.0.bias"),
        (_HF + r"mlp\.dwconv\.dwconv\.(.*)", _OUR_HF + r"ffn.layers.1.\3"),
        (_HF + r"mlp\.dense2\.weight", _OUR_HF + "ffn.layers.4.weight#1x1"),
        (_HF + r"mlp\.dense2\.bias", _OUR_HF + "ffn.layers.4.bias"),
        (r"segformer\.encoder\.layer_norm\.(\d)\.(.*)", r"backbone.layers.\1.2.\2"),
        (r"decode_head\.linear_c\.(\d)\.(.*)", r"decode_head.linear_c{1+1}.\2"),
        (r"decode_head\.linear_fuse\.weight", r"decode_head.linear_fuse.conv.weight"),
        (r"decode_head\.batch_norm\.(.*)", r"decode_head.linear_fuse.bn.\1"),
        (r"decode_head\.classifier\.(.*)", r"decode_head.linear_pred.\1"),
        (r"((?:backbone|decode_head)\..*)", r"\1"),
    ),
    ignored=(r".*num_batches_tracked",),
    # NVlabs' head inherits a classifier that it does not use.
    ignored_beside={r"decode_head\.linear_pred\.weight": (r"decode_head\.conv_seg\..*",)},
    backbone_of=_mit_of,
    options=_options_of,
    classes="decode_head.linear_pred.bias decode_head.conv_seg.bias",
)


def segformer(own: ReducerKind | None = None) -> System:
    """The system, with a reducer of the user's own beside Segformer++'s merging."""
    names = (*PRESET_HELP, *((own.name,) if own else ()))
    custom = {
        "mode": f"{', '.join(MODES)}; one for all stages or four",
        "rate": "share that bsm removes, 0 to below 1",
        "stride": "sides of a cell, such as 4 or 2x4",
    }
    return System(
        name="segformer",
        title="SegFormer",
        summary="a pyramid of transformer stages with an all-MLP head; its attention can merge tokens",
        source="SegFormer (arXiv 2105.15203)",
        options=(
            Option(name="head", default="paper", check=OneOf(tuple(HEADS)), choices=HEADS, help="which head"),
            Option(
                name="head_channels",
                default=None,
                check=NoneOr(WholeNumber(1, MAX_CHANNELS)),
                help="width of the head; none: the head's own",
            ),
            Option(
                name="merging",
                default="none",
                check=OneOf(names),
                read=str,
                choices=dict(PRESET_HELP),
                help="Segformer++'s merging",
                title=lambda name: f"merging {name}",
            ),
            *(
                Option(name=name, default=None, help=f"merging=custom: {custom[name.split('_')[1]]}")
                for name in CUSTOM
            ),
        ),
        stages=lambda choice: stages(choice, own),
        fits=lambda choice: _fits(choice, own),
        backbones=tuple(MITS),
        default_backbone="mit-b0",
        takes_any=own is not None,
        default_size=lambda backbone, written: (640, 640) if backbone == "mit-b5" else (512, 512),
        default_classes=150,
        naming=NAMING,
        code_option="merging",
        with_code=lambda system, kind: segformer(kind),
        compared=("none", "hq", "fast", "2x2"),
        identity=own.identity if own else None,
    )


def _fits(choice: Choice, own: ReducerKind | None) -> None:
    _, merging = _merging(choice, own)
    with torch.device("meta"):
        merging(1)


SYSTEM = segformer()
