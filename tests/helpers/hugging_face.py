"""Tiny configurations of transformers' families, as folders that ``hf:FOLDER`` names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 64
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "embedding_size": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
TINY = {
    **HEADS,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": 16,
}


def swin() -> dict[str, Any]:
    return {
        "model_type": "swin",
        "image_size": SIDE,
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 2, 2],
        "window_size": 4,
        "out_features": STAGES,
    }


def resnet(kind: str = "resnet", **settings: Any) -> dict[str, Any]:
    return {"model_type": kind, "out_features": STAGES, **RESNET, **settings}


MASKED = {
    "backbone_config": swin(),
    "hidden_dim": 32,
    "mask_feature_size": 32,
    "feature_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "encoder_feedforward_dim": 48,
    "dim_feedforward": 48,
    "num_queries": 7,
}
RT_DETR = {
    "backbone_config": resnet("rt_detr_resnet", layer_type="basic", out_features=STAGES[1:]),
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [24, 32, 40],
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 7,
    "decoder_in_channels": [32, 32, 32],
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
}
CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "mask2former": lambda: MASKED,
    "oneformer": lambda: {
        **MASKED,
        "conv_dim": 32,
        "mask_dim": 32,
        "text_encoder_width": 32,
        "text_encoder_n_ctx": 4,
        "text_encoder_num_layers": 1,
        "task_seq_len": 8,
        "query_dec_layers": 1,
    },
    "eomt": lambda: {**VIT, "num_queries": 7, "num_blocks": 1},
    "detr": lambda: {
        "architectures": ["DetrForObjectDetection"],
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": resnet(),
        "num_queries": 7,
        **TINY,
    },
    "rt_detr_v2": lambda: RT_DETR,
    "upernet": lambda: {
        "backbone_config": swin(),
        "hidden_size": 16,
        "auxiliary_channels": 8,
        "auxiliary_in_channels": 64,
    },
}


def config(name: str, **settings: Any) -> dict[str, Any]:
    return {"model_type": name, **CONFIGS[name](), **settings}


def folder(at: Path, name: str, processor: dict[str, Any] | None = None, **settings: Any) -> str:
    """Write ``config.json`` and, if given, ``preprocessor_config.json``; returns how the model is named."""
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text(json.dumps(config(name, **settings)))
    if processor:
        (at / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{at}"
