"""Names of weights: what each checkpoint format calls an entry, and what segmeter calls it.

Sources: facebookresearch/Mask2Former and abhishekaich27/proscale-pytorch (detectron2 names; both share one
decoder and one backbone naming); transformers' Mask2Former with a Swin or ResNet backbone, in the names that
the hub's files have and in those of version 5.
"""

import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from segmeter.encoders.naming import Naming
from segmeter.encoders.systems.table import SYSTEMS

# Where a file that segmeter wrote says what it is.
MODEL_KEY = "segmeter.model"
FORMATS = ("segmeter", "detectron2", "transformers")
Rules = tuple[tuple[str, str], ...]

# Entries that are no weights of the model: buffers that are recomputed, the loss's, the final norm of a
# classifier. They are listed as ignored, never silently dropped.
IGNORED = {
    "segmeter": (r".*num_batches_tracked",),
    "detectron2": (
        r"criterion\.empty_weight",
        r"pixel_(mean|std)",
        r".*relative_position_index",
        r".*attn_mask",
        r".*num_batches_tracked",
    ),
    "transformers": (
        r"criterion\.empty_weight",
        r".*relative_position_index",
        r".*num_batches_tracked",
        r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\..*",
    ),
}

# (pattern, replacement), tried in order; the first full match wins. A name in ours that ends in "#n" is the
# n-th third of a fused entry.
_DETECTRON2: Rules = (
    (r"sem_seg_head\.predictor\.static_query\.(.*)", r"decoder.query_feat.\1"),
    (r"sem_seg_head\.predictor\.(.*)", r"decoder.\1"),
    (r"sem_seg_head\.pixel_decoder\.(.*)", r"encoder.\1"),
    # MaskFormer's first version had no word for the pixel decoder.
    (r"sem_seg_head\.((?:input_proj|transformer|adapter_1|layer_1|mask_features)\..*)", r"encoder.\1"),
    (r"backbone\.stem\.conv1\.norm\.(.*)", r"backbone.trunk.bn1.\1"),
    (r"backbone\.stem\.(conv1\.weight)", r"backbone.trunk.\1"),
    (r"backbone\.res([2-5])\.(\d+)\.conv(\d)\.norm\.(.*)", r"backbone.trunk.layer{1-1}.\2.bn\3.\4"),
    (r"backbone\.res([2-5])\.(\d+)\.(conv\d\.weight)", r"backbone.trunk.layer{1-1}.\2.\3"),
    (r"backbone\.res([2-5])\.(\d+)\.shortcut\.norm\.(.*)", r"backbone.trunk.layer{1-1}.\2.downsample.1.\3"),
    (r"backbone\.res([2-5])\.(\d+)\.shortcut\.(weight)", r"backbone.trunk.layer{1-1}.\2.downsample.0.\3"),
    (r"backbone\.(patch_embed\..*)", r"backbone.trunk.\1"),
    (r"backbone\.layers\.(\d)\.(blocks\..*)", r"backbone.trunk.layers_\1.\2"),
    # timm's and torchvision's ResNet, and timm's Swin as it gives features, are ours.
    (r"backbone\.((?:conv1|bn1|layer[1-4]|layers_\d)\..*)", r"backbone.trunk.\1"),
    # timm puts the merging of patches at the head of the next stage; the order of the four is the same.
    (r"backbone\.layers\.(\d)\.(downsample\..*)", r"backbone.trunk.layers_{1+1}.\2"),
    (r"backbone\.norm(\d)\.(.*)", r"backbone.norms.res{1+2}.\2"),
)
# Where these names occur, these rules come first: detectron2's MViT; timm's Swin, whose stages begin with the
# merging of patches.
_DETECTRON2_VARIANTS: tuple[tuple[str, Rules], ...] = (
    (
        r"backbone\.blocks\..*",
        (
            (r"backbone\.patch_embed\.proj\.(.*)", r"backbone.trunk.patch_embed.\1"),
            (r"backbone\.(blocks\..*)", r"backbone.trunk.\1"),
            (r"backbone\.scale(\d)_norm\.(.*)", r"backbone.norms.res\1.\2"),
        ),
    ),
    (
        r"backbone\.layers\.3\.downsample\..*",
        ((r"backbone\.layers\.(\d\.downsample\..*)", r"backbone.trunk.layers_\1"),),
    ),
)
_HF_BACKBONE = r"model\.pixel_level_module\.encoder\.(?:swin\.)?"
_HF_BLOCK = _HF_BACKBONE + r"encoder\.layers\.(\d)\.blocks\.(\d+)\."
_HF_RESNET = _HF_BACKBONE + r"encoder\.stages\.(\d)\.layers\.(\d+)\."
_HF_PIXEL, _HF_LAYER = (
    r"model\.pixel_level_module\.decoder\.",
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.",
)
_OUR_BLOCK, _OUR_RESNET = r"backbone.trunk.layers_\1.blocks.\2.", r"backbone.trunk.layer{1+1}.\2."
_OUR_ENCODER = r"encoder.transformer.encoder.layers.\1."
_TRANSFORMERS: Rules = (
    (_HF_BACKBONE + r"embeddings\.patch_embeddings\.projection\.(.*)", r"backbone.trunk.patch_embed.proj.\1"),
    (_HF_BACKBONE + r"embeddings\.norm\.(.*)", r"backbone.trunk.patch_embed.norm.\1"),
    *(
        (_HF_BLOCK + rf"attention\.(?:self\.)?{name}\.(weight|bias)", _OUR_BLOCK + rf"attn.qkv.\3#{part}")
        for part, name in enumerate(("(?:query|q_proj)", "(?:key|k_proj)", "(?:value|v_proj)"))
    ),
    (_HF_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)", _OUR_BLOCK + r"attn.proj.\3"),
    (
        _HF_BLOCK + r"attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)",
        _OUR_BLOCK + r"attn.\3",
    ),
    (_HF_BLOCK + r"layernorm_before\.(.*)", _OUR_BLOCK + r"norm1.\3"),
    (_HF_BLOCK + r"layernorm_after\.(.*)", _OUR_BLOCK + r"norm2.\3"),
    (_HF_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", _OUR_BLOCK + r"mlp.fc1.\3"),
    (_HF_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(.*)", _OUR_BLOCK + r"mlp.fc2.\3"),
    (_HF_BACKBONE + r"encoder\.layers\.(\d)\.(downsample\..*)", r"backbone.trunk.layers_{1+1}.\2"),
    (_HF_BACKBONE + r"hidden_states_norms\.stage(\d)\.(.*)", r"backbone.norms.res{1+1}.\2"),
    (_HF_BACKBONE + r"hidden_states_norms\.(\d)\.(.*)", r"backbone.norms.res{1+2}.\2"),
    (_HF_BACKBONE + r"embedder\.embedder\.convolution\.(.*)", r"backbone.trunk.conv1.\1"),
    (_HF_BACKBONE + r"embedder\.embedder\.normalization\.(.*)", r"backbone.trunk.bn1.\1"),
    (_HF_RESNET + r"layer\.(\d)\.convolution\.(.*)", _OUR_RESNET + r"conv{3+1}.\4"),
    (_HF_RESNET + r"layer\.(\d)\.normalization\.(.*)", _OUR_RESNET + r"bn{3+1}.\4"),
    (_HF_RESNET + r"shortcut\.convolution\.(.*)", _OUR_RESNET + r"downsample.0.\3"),
    (_HF_RESNET + r"shortcut\.normalization\.(.*)", _OUR_RESNET + r"downsample.1.\3"),
    (_HF_PIXEL + r"level_embed", "encoder.transformer.level_embed"),
    (_HF_PIXEL + r"input_projections\.(.*)", r"encoder.input_proj.\1"),
    (_HF_PIXEL + r"encoder\.layers\.(\d+)\.(self_attn\..*)", _OUR_ENCODER + r"\2"),
    (_HF_PIXEL + r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", _OUR_ENCODER + r"norm1.\2"),
    (_HF_PIXEL + r"encoder\.layers\.(\d+)\.fc(\d)\.(.*)", _OUR_ENCODER + r"linear\2.\3"),
    (_HF_PIXEL + r"encoder\.layers\.(\d+)\.final_layer_norm\.(.*)", _OUR_ENCODER + r"norm2.\2"),
    (_HF_PIXEL + r"mask_projection\.(.*)", r"encoder.mask_features.\1"),
    (_HF_PIXEL + r"(adapter_1|layer_1)\.0\.(.*)", r"encoder.\1.\2"),
    (_HF_PIXEL + r"(adapter_1|layer_1)\.1\.(.*)", r"encoder.\1.norm.\2"),
    (r"model\.transformer_module\.queries_embedder\.(.*)", r"decoder.query_embed.\1"),
    (r"model\.transformer_module\.queries_features\.(.*)", r"decoder.query_feat.\1"),
    (r"model\.transformer_module\.level_embed\.(.*)", r"decoder.level_embed.\1"),
    *(
        (
            _HF_LAYER + rf"self_attn\.{name}_proj\.(weight|bias)",
            rf"decoder.transformer_self_attention_layers.\1.self_attn.in_proj_\2#{part}",
        )
        for part, name in enumerate("qkv")
    ),
    (
        _HF_LAYER + r"self_attn\.(out_proj\..*)",
        r"decoder.transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (_HF_LAYER + r"self_attn_layer_norm\.(.*)", r"decoder.transformer_self_attention_layers.\1.norm.\2"),
    (_HF_LAYER + r"cross_attn\.(.*)", r"decoder.transformer_cross_attention_layers.\1.multihead_attn.\2"),
    (_HF_LAYER + r"cross_attn_layer_norm\.(.*)", r"decoder.transformer_cross_attention_layers.\1.norm.\2"),
    (_HF_LAYER + r"fc(\d)\.(.*)", r"decoder.transformer_ffn_layers.\1.linear\2.\3"),
    (_HF_LAYER + r"final_layer_norm\.(.*)", r"decoder.transformer_ffn_layers.\1.norm.\2"),
    (r"model\.transformer_module\.decoder\.layernorm\.(.*)", r"decoder.decoder_norm.\1"),
    (
        r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.(.*)",
        r"decoder.mask_embed.layers.\1.\2",
    ),
    (r"class_predictor\.(.*)", r"decoder.class_embed.\1"),
)
# Whatever the stages are called: a name that the model does not have is told when it is compared.
_SEGMETER: Rules = ((r"([a-z_]+\..*)", r"\1"),)
_RULES = {"segmeter": _SEGMETER, "detectron2": _DETECTRON2, "transformers": _TRANSFORMERS}


def naming_of(kind: str) -> Naming | None:
    """A system's own naming, where the format is called after a system."""
    return SYSTEMS[kind].naming if kind in SYSTEMS else None


def recognise_format(names: Iterable[str]) -> str | None:
    """Which of :data:`FORMATS` these names are in, or which system's own; None if none of them."""
    names = list(names)
    # Lite-DINO's names are DINO's and some more: the system with the rarer sign is the later one.
    for system in reversed(SYSTEMS.values()):
        if system.naming and any(re.fullmatch(system.naming.sign, name) for name in names):
            return system.name
    if any(name.startswith(("model.pixel_level_module.", "model.transformer_module.")) for name in names):
        return "transformers"
    if any(name.startswith("sem_seg_head.") for name in names):
        return "detectron2"
    if any(name.startswith("decoder.transformer_cross_attention_layers.") for name in names):
        return "segmeter"
    return None


def variant_rules(kind: str, names: Iterable[str]) -> Rules:
    """Rules that come first for a file with these names."""
    naming = naming_of(kind)
    if (naming.base if naming else kind) != "detectron2":
        return ()
    names = list(names)
    return tuple(
        rule
        for sign, rules in _DETECTRON2_VARIANTS
        if any(re.fullmatch(sign, name) for name in names)
        for rule in rules
    )


def our_name(kind: str, name: str, first: Rules = ()) -> str | None:
    """Our name of an entry of a format; None if the format has no such entry.

    Args:
        kind: one of :data:`FORMATS`, or a system's name.
        name: the entry's name in the file.
        first: of :func:`variant_rules`.

    >>> our_name("detectron2", "backbone.res3.0.shortcut.norm.bias")
    'backbone.trunk.layer2.0.downsample.1.bias'
    """
    naming = naming_of(kind)
    rules = (*naming.rules, *first, *_RULES.get(naming.base, ())) if naming else (*first, *_RULES[kind])
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return _shift(match.expand(_protect(replacement)))
    return None


def is_ignored(kind: str, name: str) -> bool:
    """Whether an entry is none of the model's weights."""
    naming = naming_of(kind)
    patterns = (*naming.ignored, *IGNORED.get(naming.base, ())) if naming else IGNORED[kind]
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _ignored_beside(kind: str, names: Iterable[str]) -> list[str]:
    """Patterns of what is no weight in a file with these names."""
    naming = naming_of(kind)
    found = naming.ignored_beside if naming else {}
    return [
        pattern
        for sign, patterns in found.items()
        if any(re.fullmatch(sign, name) for name in names)
        for pattern in patterns
    ]


def rename(
    kind: str, entries: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str], list[str], list[str]]:
    """Entries under our names.

    Returns:
        Our names to tensors; our names to the names in the file; names that the format does not have; names
        that are no weights.

    Raises:
        ValueError: two entries with one meaning, or a fused entry of which parts are missing.
    """
    weights: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unexpected, ignored = [], []
    first = variant_rules(kind, entries)
    beside = _ignored_beside(kind, entries)
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in entries.items():
        if is_ignored(kind, name) or any(re.fullmatch(pattern, name) for pattern in beside):
            ignored.append(name)
            continue
        ours = our_name(kind, name, first)
        if ours is None:
            unexpected.append(name)
            continue
        whole, fused, part = ours.partition("#")
        if ours in origin:
            if _repeats(kind, ours, tensor, weights.get(ours)):
                ignored.append(name)
                continue
            raise ValueError(f"two entries of the checkpoint mean {whole}: {origin[ours]} and {name}")
        if part == "1x1":
            origin[whole] = name
            weights[whole] = tensor[..., None, None]
            continue
        if part == "12":
            for number, half in enumerate(tensor.chunk(2), start=1):
                origin[f"{whole}#{number}"] = name
                parts.setdefault(whole, {})[number] = half
            continue
        origin[ours] = name
        if fused:
            parts.setdefault(whole, {})[int(part)] = tensor
        else:
            weights[whole] = tensor
    for whole, thirds in parts.items():
        if sorted(thirds) != [0, 1, 2]:
            raise ValueError(
                f"{whole} needs query, key and value; the checkpoint has {len(thirds)} of the three"
            )
        shapes = [tuple(thirds[part].shape) for part in range(3)]
        if len(set(shapes)) > 1 or not shapes[0]:
            raise ValueError(f"{whole} needs query, key and value of one shape; the checkpoint has {shapes}")
        weights[whole] = torch.cat([thirds[part] for part in range(3)])
        origin[whole] = origin.pop(f"{whole}#0")
        del origin[f"{whole}#1"], origin[f"{whole}#2"]
    return weights, origin, unexpected, ignored


def _repeats(kind: str, ours: str, tensor: Tensor, known: Tensor | None) -> bool:
    """Whether an entry says again, in the same numbers, what another of its meaning said."""
    naming = naming_of(kind)
    shared = naming is not None and any(re.fullmatch(pattern, ours) for pattern in naming.shared)
    return shared and known is not None and torch.equal(tensor, known)


def to_tensor(value: object) -> Tensor | None:
    """A number array as a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        native = value.astype(value.dtype.newbyteorder("="))
        return torch.from_numpy(np.array(native, order="C"))
    return None


def _protect(replacement: str) -> str:
    """``{1-1}`` -> ``{\\1-1}``: the group's number is put in before the sum is done."""
    return re.sub(r"\{(\d)([+-]\d)\}", r"{\\\1\2}", replacement)


def _shift(text: str) -> str:
    return re.sub(r"\{(\d+)([+-]\d)\}", lambda found: str(int(found[1]) + int(found[2])), text)
