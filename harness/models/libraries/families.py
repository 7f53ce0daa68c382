"""Which module of a library's model is which component: one table of patterns for each family.

The rows are those of segmeter's own models (:mod:`harness.models.components` says how a pattern is read):
backbone, encoder (pixel decoder, hybrid encoder, neck), decoder, heads, beside the text and prompt encoders
of models that have them. ``NAME.*`` keeps what lies below. A family without a table shows its module tree,
folded (:func:`folded`).
"""

from collections.abc import Mapping

from torch import nn

Patterns = Mapping[str, str]


def _under(prefix: str, patterns: Patterns) -> dict[str, str]:
    return {f"{prefix}.{path}": name for path, name in patterns.items()}


_PIXEL_DECODER = _under(
    "model.pixel_level_module.decoder",
    {
        "input_projections": "encoder.input_projection",
        "encoder.layers.*.self_attn": "encoder.deformable_attention.sampling",
        "encoder.layers.*.self_attn.sampling_offsets": "encoder.deformable_attention.offsets",
        "encoder.layers.*.self_attn.attention_weights": "encoder.deformable_attention.weights",
        "encoder.layers.*.self_attn.value_proj": "encoder.deformable_attention.value",
        "encoder.layers.*.self_attn.output_proj": "encoder.deformable_attention.output",
        "encoder.layers.*.fc1": "encoder.ffn",
        "encoder.layers.*.fc2": "encoder.ffn",
        "encoder.layers.*.self_attn_layer_norm": "encoder.norms",
        "encoder.layers.*.final_layer_norm": "encoder.norms",
        "adapter_*": "encoder.pixel_embedding.lateral",
        "layer_*": "encoder.pixel_embedding.conv3x3",
        "mask_projection": "encoder.pixel_embedding.mask_features",
    },
)
# What it runs itself.
_PIXEL_DECODER["model.pixel_level_module.decoder"] = "encoder.pixel_embedding.upsampling"
_MASK2FORMER = {
    "model.pixel_level_module.encoder": "backbone.*",
    **_PIXEL_DECODER,
    "model.transformer_module.decoder.layernorm": "decoder.norms",
    "model.transformer_module.decoder.layers.*.cross_attn": "decoder.cross_attention",
    "model.transformer_module.decoder.layers.*.self_attn": "decoder.self_attention",
    "model.transformer_module.decoder.layers.*.fc1": "decoder.ffn",
    "model.transformer_module.decoder.layers.*.fc2": "decoder.ffn",
    "model.transformer_module.decoder.layers.*.*_norm": "decoder.norms",
    "model.transformer_module.decoder.mask_predictor": "decoder.mask_prediction.product",
    "model.transformer_module.decoder.mask_predictor.mask_embedder": "decoder.mask_prediction.embedding",
    "class_predictor": "decoder.class_prediction",
}
_ONEFORMER = {
    "model.pixel_level_module.encoder": "backbone.*",
    **_PIXEL_DECODER,
    "model.task_encoder": "text_encoder.task",
    "model.transformer_module": "decoder.*",
    "model.transformer_module.decoder": "decoder.mask_prediction.product",
    "model.transformer_module.decoder.mask_embed": "decoder.mask_prediction.embedding",
    "model.transformer_module.decoder.class_embed": "decoder.class_prediction",
    "model.transformer_module.decoder.query_transformer": "decoder.query_transformer",
    "model.transformer_module.decoder.layers.*.cross_attn": "decoder.cross_attention",
    "model.transformer_module.decoder.layers.*.self_attn": "decoder.self_attention",
    "model.transformer_module.decoder.layers.*.ffn": "decoder.ffn",
}
_MASKFORMER = {
    "model.pixel_level_module.encoder": "backbone.*",
    "model.pixel_level_module.decoder": "encoder.*",
    "model.transformer_module": "decoder.*",
    "class_predictor": "heads.class",
    "mask_embedder": "heads.mask_embedding",
    "": "heads.mask_product",
}
# Detectors with queries; RF-DETR's and LW-DETR's projector stands inside the backbone.
_DETECTOR = {
    "backbone": "backbone.*",
    "conv_encoder": "backbone.*",
    "conv_encoder.encoder_input_proj": "encoder.input_projection",
    "backbone.projector": "encoder.projector.*",
    "input_proj": "encoder.input_projection",
    "input_projection": "encoder.input_projection",
    "input_proj_vision": "encoder.input_projection",
    "encoder_input_proj": "encoder.input_projection",
    "decoder_input_proj": "decoder.input_projection",
    "encoder": "encoder.*",
    "enc_*": "decoder.query_selection",
    "encoder_output_*": "decoder.query_selection",
    "decoder": "decoder.*",
    "text_backbone": "text_encoder.*",
    "text_projection": "text_encoder.projection",
}
_BOXES = {
    **_under("model", _DETECTOR),
    "class_embed": "heads.class",
    "class_labels_classifier": "heads.class",
    "bbox_embed": "heads.box",
    "bbox_predictor": "heads.box",
    "model": "decoder.other",
    "": "heads.other",
}
_MASKS = {
    **_BOXES,
    **_under("model.model", _DETECTOR),
    **_under("detr.model", _DETECTOR),
    "model.model": "decoder.other",
    "model.class_embed": "heads.class",
    "model.bbox_embed": "heads.box",
    "detr.class_labels_classifier": "heads.class",
    "detr.bbox_predictor": "heads.box",
    "bbox_attention": "heads.mask.attention",
    "mask_head": "heads.mask",
    "": "heads.mask",
}
# Queries run through the last layers of the backbone itself.
_EOMT = {
    "embeddings": "backbone.embeddings",
    "layers": "backbone.layers.*",
    "layernorm": "backbone.norm",
    "rope_embeddings": "backbone.embeddings",
    "norm": "backbone.norm",
    "upscale_block": "heads.upscaling",
    "mask_head": "heads.mask_embedding",
    "class_predictor": "heads.class",
    "query_updater": "decoder.query_updater",
    "": "heads.mask_product",
}
_SAM = {
    "vision_encoder": "backbone.*",
    "vision_encoder.neck": "encoder.neck.*",
    "prompt_encoder": "prompt_encoder.*",
    "shared_image_embedding": "prompt_encoder.positions",
    "mask_decoder": "decoder.*",
    "mask_decoder.upscale_*": "heads.upscaling",
    "mask_decoder.conv_s*": "heads.upscaling",
    "mask_decoder.output_hypernetworks_mlps": "heads.mask",
    "mask_decoder.iou_prediction_head": "heads.iou",
    "": "prompt_encoder.other",
}
_SAM3 = {
    "vision_encoder.backbone": "backbone.*",
    "vision_encoder.neck": "encoder.neck.*",
    "vision_encoder": "encoder.neck",
    "text_encoder": "text_encoder.*",
    "text_projection": "text_encoder.projection",
    "geometry_encoder": "prompt_encoder.*",
    "detr_encoder": "encoder.detr.*",
    "detr_decoder": "decoder.*",
    "dot_product_scoring": "heads.class",
    "mask_decoder": "heads.mask.*",
    "": "heads.other",
}
_SEMANTIC = {
    "backbone": "backbone.*",
    "decode_head": "decoder.*",
    "decode_head.classifier": "heads.class",
    "auxiliary_head": "auxiliary_head.*",
    "": "heads.upsampling",
}
_SEGMENTATION = {
    "backbone": "backbone.*",
    "classifier": "decoder.*",
    "aux_classifier": "auxiliary_head.*",
    "": "heads.upsampling",
}
_BOX_HEADS = {
    "transform": "preprocess",
    "backbone": "backbone.*",
    "backbone.fpn": "encoder.fpn.*",
    "rpn": "decoder.proposals.*",
    "roi_heads": "heads.*",
    "head": "heads.*",
}
_DPT = {"neck": "decoder.*", "head": "heads.*", "auxiliary_head": "auxiliary_head.*", "": "heads.upsampling"}

# By transformers' model type, timm's and torchvision's module.
FAMILIES: dict[str, Patterns] = {
    "mask2former": _MASK2FORMER,
    "oneformer": _ONEFORMER,
    "maskformer": _MASKFORMER,
    "eomt": _EOMT,
    "eomt_dinov3": _EOMT,
    "videomt": _EOMT,
    "detr": _MASKS,
    "table-transformer": _BOXES,
    "conditional_detr": _BOXES,
    "dab-detr": _BOXES,
    "deformable_detr": _BOXES,
    "rt_detr": _BOXES,
    "rt_detr_v2": _BOXES,
    "d_fine": _BOXES,
    "deimv2": _BOXES,
    "lw_detr": _BOXES,
    "rf_detr": _MASKS,
    "grounding-dino": _BOXES,
    "mm-grounding-dino": _BOXES,
    "yolos": {"vit": "backbone.*", "class_labels_classifier": "heads.class", "bbox_predictor": "heads.box"},
    "sam": _SAM,
    "sam_hq": _SAM,
    "sam2": _SAM,
    "sam2_video": _SAM,
    "edgetam": _SAM,
    "edgetam_video": _SAM,
    "sam3_tracker": _SAM,
    "sam3_video": _SAM,
    "sam3": _SAM3,
    "segformer": {"segformer": "backbone.*", **_SEMANTIC},
    "upernet": _SEMANTIC,
    "beit": {"beit": "backbone.*", **_SEMANTIC},
    "data2vec-vision": {"data2vec_vision": "backbone.*", **_SEMANTIC},
    "dpt": {"dpt": "backbone.*", "backbone": "backbone.*", **_DPT},
    "depth_anything": {"backbone": "backbone.*", **_DPT},
    "prompt_depth_anything": {"backbone": "backbone.*", **_DPT},
    "zoedepth": {"backbone": "backbone.*", "relative_head": "heads.relative", **_DPT},
    "clipseg": {
        "clip.vision_model": "backbone.*",
        "clip.text_model": "text_encoder.*",
        "clip": "text_encoder.projection",
        "decoder": "decoder.*",
    },
    "deeplabv3": _SEGMENTATION,
    "fcn": _SEGMENTATION,
    "lraspp": _SEGMENTATION,
    "mask_rcnn": _BOX_HEADS,
    "faster_rcnn": _BOX_HEADS,
    "keypoint_rcnn": _BOX_HEADS,
    "retinanet": _BOX_HEADS,
    "fcos": _BOX_HEADS,
    "ssd": _BOX_HEADS,
    "ssdlite": _BOX_HEADS,
}
# A part is taken apart while it holds more than this share of the parameters, and no deeper than this.
SHARE, DEPTH = 0.6, 6
# Lists of so few members are told apart by their numbers: stages are, blocks are not.
FEW = 6


def folded(module: nn.Module) -> dict[str, str]:
    """Patterns for a module tree that no table describes: its parts, the largest taken apart.

    Members of a long list count as one part, and so do their parts of one name: ``layers.*.mlp``.

    >>> layers = nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(8, 8)}) for _ in range(9))
    >>> folded(nn.ModuleDict({"stem": nn.Linear(8, 8), "layers": layers}))
    {'stem': 'stem', 'layers': 'layers', 'layers.*': 'layers', 'layers.*.mlp': 'layers_mlp'}
    """
    total = sum(p.numel() for p in module.parameters()) or 1
    found = {name: [child] for name, child in module.named_children()}
    for _ in range(DEPTH):
        large = [path for path, parts in found.items() if _parameters(parts) > SHARE * total]
        parts = {path: _children(found[path]) for path in large}
        if not any(len(inside) for inside in parts.values()):
            break
        found = {
            name: members
            for path, own in found.items()
            for name, members in (
                {path: own, **{f"{path}.{child}": each for child, each in parts[path].items()}}
                if parts.get(path)
                else {path: own}
            ).items()
        }
    return {path: "_".join(part for part in path.split(".") if part != "*") for path in found}


def _parameters(modules: list[nn.Module]) -> int:
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def _children(modules: list[nn.Module]) -> dict[str, list[nn.Module]]:
    """Children of modules of one kind by name; those with numbers for names together."""
    found: dict[str, list[nn.Module]] = {}
    for module in modules:
        children = dict(module.named_children())
        many = sum(name.isdigit() for name in children) > FEW
        for name, child in children.items():
            found.setdefault("*" if many and name.isdigit() else name, []).append(child)
    return found
