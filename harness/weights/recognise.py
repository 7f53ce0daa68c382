"""Which model a checkpoint holds, by the names and shapes of its entries.

No weights of RT-M2F or of models on MViT-T are published in names that could be checked: theirs are taken to
be RT-DETR's HybridEncoder's and detectron2's MViT's, under the prefixes of Mask2Former.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmeter.encoders.chain import System
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.models import ModelSpec, model_spec, parse_model
from segmeter.harness.weights.checkpoint import Checkpoint
from segmeter.harness.weights.names import MODEL_KEY
from segmeter.model_text import ModelText

_LAYER = (
    r"encoder\.transformer\.encoder\.layers\.(\d{1,6})\.self_attn\.(sampling_offsets|attention_weights)\..*"
)
_ANY_LAYER = r"encoder\.(?:.*\.)?layers\.(\d{1,6})\..*"
# Of systems whose options number the decoder's layers as well.
_LAYER_OF_EITHER = r"(?:encoder|decoder)\.(?:.*\.|transformer_\w+_)?layers\.(\d{1,6})\..*"
# Layers that a small model may lack and still be told by name what it lacks.
FEW_LAYERS = 6
# Rows per level of the two layers that have rows for each: 8 heads, 4 points, and (x, y) of a place.
_ROWS_PER_LEVEL = {"sampling_offsets": 64, "attention_weights": 32}
# Width -> blocks of the third stage -> name.
_SWINS = {96: {6: "swin-t", 18: "swin-s"}, 128: {18: "swin-b"}, 192: {18: "swin-l"}}


def recognise_model(checkpoint: Checkpoint) -> ModelSpec:
    """The model that a checkpoint's names and shapes are of.

    A few entries may be missing, so that the report can name them. What leaves no trace takes its default:
    PRO-SCALE's temperature (0.1, as released) and which pooling an LPE has. Lite-M2F has M2F's names, so it
    is only recognised in files that segmeter wrote.

    Raises:
        ValueError: the backbone or encoder is none of ours.
    """
    written = checkpoint.metadata.get(MODEL_KEY)
    named = SYSTEMS.get(ModelText.parse(written, SYSTEMS).name if written else checkpoint.kind)
    classes, queries = classes_and_queries(checkpoint, named)
    if written is not None:
        try:
            spec = parse_model(written, num_classes=classes, num_queries=queries)
        except ValueError as error:
            raise ValueError(
                f"{checkpoint.path} names its model: {error}; if it is yours, name it with --encoder"
            ) from None
        if not _is_fixed(spec.system):
            _refuse_phantoms(checkpoint, _layers_of(spec.system, dict(spec.options)), spec.system)
        return spec
    if named is not None and named.naming is not None:
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
        options = {**named.naming.implied, **named.naming.options(shapes)}
        if not _is_fixed(named):
            _refuse_phantoms(checkpoint, _layers_of(named, options), named)
        if named.naming.backbone_of is not None:
            backbone = named.naming.backbone_of(shapes)
        else:
            backbone = named.naming.backbone or recognise_backbone(checkpoint.weights)
        return model_spec(named.name, backbone, num_classes=classes, num_queries=queries, **options)
    encoder, options = _recognise_encoder(checkpoint)
    backbone = recognise_backbone(checkpoint.weights)
    return model_spec(encoder, backbone, num_classes=classes, num_queries=queries, **options)


def classes_and_queries(
    checkpoint: Checkpoint, system: System | None = None, asked: int | None = None
) -> tuple[int, int]:
    """Numbers of classes (without "no object") and of queries.

    Args:
        checkpoint: the weights.
        system: whose they are, if that is known.
        asked: queries of a system that keeps no weights for them; None for its default.

    Raises:
        ValueError: the entries that say so are missing.
    """
    weights = checkpoint.weights

    def rows(*names: str) -> int:
        for name in names:
            if name in weights and weights[name].ndim:
                return weights[name].shape[0]
        raise ValueError(f"{checkpoint.path} has no {names[0]} (a truncated model, or a backbone alone)")

    naming = system.naming if system else None
    if system is not None and naming is not None:
        queries = rows(naming.queries) if naming.queries else asked or system.default_queries("")
        classes = rows(*naming.classes.split()) - naming.no_object
        if classes < 1:
            raise ValueError(f"{checkpoint.path} has {max(classes, 0)} classes and {queries} queries")
        return classes, queries
    classes = rows("decoder.class_embed.weight", "decoder.class_embed.bias") - 1
    queries = rows("decoder.query_feat.weight", "decoder.query_embed.weight")
    if classes < 1 or queries < 1:
        raise ValueError(f"{checkpoint.path} has {max(classes, 0)} classes and {queries} queries")
    return classes, queries


def recognise_backbone(weights: Mapping[str, Tensor]) -> str:
    """A key of ``BACKBONES`` from names and shapes.

    Raises:
        ValueError: none of them.
    """
    depth = _count(weights, r"backbone\.trunk\.layer3\.(\d{1,6})\..*")
    if depth:
        return "r50" if depth <= 6 else "r101"
    if _count(weights, r"backbone\.trunk\.blocks\.(\d{1,6})\.attn\.pool_q\..*"):
        return "mvit-t"
    blocks = _count(weights, r"backbone\.trunk\.layers_2\.blocks\.(\d{1,6})\..*")
    width = next(
        (
            tensor.shape[0]
            for name, tensor in weights.items()
            if name.startswith("backbone.trunk.patch_embed.") and tensor.ndim
        ),
        0,
    )
    if blocks and width in _SWINS:
        known = _SWINS[width]
        # The shallowest that has room for all blocks; a block that is missing is then listed.
        return next((known[depth] for depth in sorted(known) if blocks <= depth), known[max(known)])
    if blocks:
        raise ValueError(
            f"a Swin of width {width} is none of Swin-T and Swin-S (96), Swin-B (128), Swin-L (192)"
        )
    raise ValueError(
        "the checkpoint's backbone is unknown: expected R50, R101, Swin-T to Swin-L in detectron2's, "
        "timm's or transformers' names, MViTv2-T in detectron2's"
    )


def _recognise_encoder(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    weights = checkpoint.weights
    if any(name.startswith("encoder.lateral_convs.") for name in weights):
        return "rt-m2f", {}
    found: dict[int, int] = {}
    for name, tensor in weights.items():
        layer = re.fullmatch(_LAYER, name)
        if layer and tensor.ndim:
            found[int(layer[1])] = tensor.shape[0] // _ROWS_PER_LEVEL[layer[2]]
    _refuse_phantoms(checkpoint, max(found, default=0) + 1)
    levels = [found[layer] for layer in sorted(found)]
    if not levels or any(level not in (1, 2, 3) for level in levels) or levels != sorted(levels):
        raise ValueError(f"{checkpoint.path} holds no encoder of M2F's or PRO-SCALE's kind; give --encoder")
    embedding = "conv" if "encoder.layer_1.weight" in weights else "lpe"
    excite = weights.get("encoder.transformer.encoder.token_excite.ops.weight")
    if excite is None and set(levels) == {3}:
        return "m2f", {"layers": max(found) + 1}
    recalibration = None if excite is None else "conv" if excite.ndim == 4 else "linear"
    return "pro-scale", {
        "stages": tuple(levels.count(stage) for stage in (1, 2, 3)),
        "pixel_embedding": embedding,
        "recalibration": recalibration,
    }


def _is_fixed(system: System) -> bool:
    """Whether a system's backbones fix how many layers there are, so that its numbers count none."""
    return system.naming is not None and system.naming.backbone_of is not None


def _refuse_phantoms(checkpoint: Checkpoint, layers: int, system: System | None = None) -> None:
    """A name with the number 999 in it is one entry; a thousand layers take a minute to build and to miss."""
    pattern = _LAYER_OF_EITHER if system and system.naming else _ANY_LAYER
    names = (re.fullmatch(pattern, name) for name in checkpoint.weights)
    present = len({name[1] for name in names if name})
    if layers > 2 * present + FEW_LAYERS:
        raise ValueError(
            f"{checkpoint.path} speaks of {layers} encoder layers and holds entries of {present} of them"
        )


def _layers_of(system: System, options: Mapping[str, Any]) -> int:
    """Sum of the options that number layers, as far as is known."""
    others = system.naming.widths if system.naming else ()
    return sum(_whole_numbers(value) for name, value in options.items() if name not in others)


def _whole_numbers(value: Any) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return sum(one for one in values if isinstance(one, int) and not isinstance(one, bool))


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many blocks: one more than the largest number in the names."""
    numbers = (re.fullmatch(pattern, name) for name in weights)
    return max((int(number[1]) + 1 for number in numbers if number), default=0)
