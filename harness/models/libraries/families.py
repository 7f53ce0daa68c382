"""Which module of a library's model is which component: one table of patterns for each family.

The rows are those of segmeter's own models (:mod:`harness.models.components` says how a pattern is read):
backbone, encoder (pixel decoder, hybrid encoder, neck), decoder, heads, beside the text and prompt encoders
of models that have them. ``NAME.*`` keeps what lies below. A family without a table shows its module tree,
folded (:mod:`harness.models.libraries.folding`).
"""

from collections.abc import Mapping

from torch import nn

from segmeter.harness.models.components import component_finder, outside
from segmeter.harness.models.structure import named_parts

Patterns = Mapping[str, str]


def _under(prefix: str, patterns: Patterns) -> dict[str, str]:
    return {f"{prefix}.{path}".rstrip("."): name for path, name in patterns.items()}


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
_HEAD_ALONE = {"segmentation_head": "decoder.*", "segmentation_head.classifier*": "heads.class"}
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

_IMAGE_AND_TEXT = {
    "vision_model": "backbone.*",
    "text_model": "text_encoder.*",
    "text_projection": "text_encoder.projection",
    "visual_projection": "heads.projection",
    "": "heads.similarity",
}
_OPEN_VOCABULARY = {
    "class_head": "heads.class",
    "box_head": "heads.box",
    "objectness_head": "heads.objectness",
    "layer_norm": "heads.norm",
    "": "heads.other",
}
_LAYOUT = {
    **_BOXES,
    "model.decoder_norm": "heads.norm",
    "model.decoder_order_head": "heads.order",
    "model.decoder_global_pointer": "heads.order",
    "model.mask_query_head": "heads.mask",
}
_TEXT_LINES = {
    "model.backbone": "backbone.*",
    "model.neck": "encoder.*",
    "model.layer": "encoder.input_projection",
    "head": "heads.*",
}

# Share of the weights beyond which one row is no account of a model.
ONE_ROW = 0.995

# By transformers' model type.
TRANSFORMERS: dict[str, Patterns] = {
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
    "sam3_lite_text": _SAM3,
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
    "mobilenet_v2": {"mobilenet_v2": "backbone.*", **_HEAD_ALONE},
    "mobilevit": {"mobilevit": "backbone.*", **_HEAD_ALONE},
    "mobilevitv2": {"mobilevitv2": "backbone.*", **_HEAD_ALONE},
    "sapiens2": {"model": "backbone.*", **_SEMANTIC, "head": "decoder.*"},
    "tipsv2_dpt": {**_DPT, "backbone": "backbone.*", "decoder": "heads.*"},
    "chmv2": {**_DPT, "backbone": "backbone.*", "head": "decoder.*", "features_to_depth": "heads.depth"},
    "depth_pro": {
        "depth_pro.encoder": "backbone.*",
        "depth_pro.neck": "encoder.*",
        "depth_pro": "backbone.other",
        "fov_model": "heads.field_of_view",
        "fusion_stage": "decoder.*",
        "head": "heads.*",
    },
    "glpn": {"glpn": "backbone.*", "decoder": "decoder.*", "head": "heads.*"},
    "pp_doclayout_v2": _LAYOUT,
    "pp_doclayout_v3": _LAYOUT,
    "pp_doclayout_v4": _LAYOUT,
    "pp_ocrv5_mobile_det": _TEXT_LINES,
    "pp_ocrv5_server_det": _TEXT_LINES,
    "owlvit": {**_under("owlvit", _IMAGE_AND_TEXT), **_OPEN_VOCABULARY},
    "owlv2": {**_under("owlv2", _IMAGE_AND_TEXT), **_OPEN_VOCABULARY},
    "omdet-turbo": {
        "vision_backbone": "backbone.*",
        "language_backbone": "text_encoder.*",
        "encoder": "encoder.*",
        "decoder": "decoder.*",
        "decoder.decoder_class_head": "heads.class",
        "decoder.decoder_bbox_head": "heads.box",
    },
    "groupvit": _IMAGE_AND_TEXT,
    "clip": _IMAGE_AND_TEXT,
    "siglip": _IMAGE_AND_TEXT,
    "siglip2": _IMAGE_AND_TEXT,
    "vitmatte": {"backbone": "backbone.*", "decoder": "decoder.*", "decoder.matting_head": "heads.matting"},
    "vitpose": {"backbone": "backbone.*", "head": "heads.*"},
    "seggpt": {"model": "backbone.*", "decoder": "decoder.*"},
    "superpoint": {
        "encoder": "backbone.*",
        "keypoint_decoder": "decoder.keypoints",
        "descriptor_decoder": "decoder.descriptors",
    },
}
# By torchvision's module. timm's models are backbones, and show their module trees.
TORCHVISION: dict[str, Patterns] = {
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


def fitted(patterns: Patterns, module: nn.Module) -> Patterns:
    """A family's table for one of its models; {} where it would say nothing of it.

    A table is written for the models with heads. The model without (``DetrModel``) is what those keep under
    transformers' ``base_model_prefix``, so there the paths begin after it. A table by which one row has all
    the weights, as of a backbone alone, says less than the module tree.
    """
    paths = {path: "" for path, _ in named_parts(module) if path}
    prefix = str(getattr(module, "base_model_prefix", ""))
    inside = {
        path[len(prefix) + 1 :]: name
        for path, name in patterns.items()
        if prefix and f"{path}.".startswith(f"{prefix}.")
    }
    for table in (patterns, inside):
        named = {path: name for path, name in table.items() if path}
        if len(outside(named, paths)) < len(paths):
            return table if _largest_row(table, module) < ONE_ROW else {}
    return {}


def _largest_row(patterns: Patterns, module: nn.Module) -> float:
    """Share of the weights in the row that has most."""
    find = component_finder(module, patterns)
    rows: dict[str, int] = {}
    for path, part in named_parts(module):
        row = find(path).partition(".")[0]
        rows[row] = rows.get(row, 0) + sum(p.numel() for p in part._parameters.values() if p is not None)
    return max(rows.values()) / (sum(rows.values()) or 1)
