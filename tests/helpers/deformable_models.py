"""Small models of transformers with deformable attention, random weights, and what each is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

BACKBONE = {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def resnet(**more: Any) -> Any:
    return transformers.ResNetConfig(
        **BACKBONE, layer_type="basic", out_features=["stage1", "stage2", "stage3", "stage4"], **more
    )


def mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=resnet(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=5,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def deformable_detr() -> nn.Module:
    config = transformers.DeformableDetrConfig(
        backbone_config=resnet(),
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=6,
        num_feature_levels=4,
        two_stage=False,
    )
    return transformers.DeformableDetrForObjectDetection(config)


def detr_like(config: str, model: str, **more: Any) -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(**BACKBONE, out_features=["stage2", "stage3", "stage4"])
    settings = {
        "backbone_config": backbone,
        "encoder_in_channels": [16, 24, 32],
        "encoder_hidden_dim": 32,
        "d_model": 32,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "decoder_in_channels": [32, 32, 32],
        "decoder_layers": 2,
        "num_queries": 7,
        "num_denoising": 0,
        "freeze_backbone_batch_norms": False,
    }
    built: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings, **more))
    return built


def swin(**outs: Any) -> Any:
    sides = {"image_size": 64, "embed_dim": 8, "window_size": 4}
    return transformers.SwinConfig(**sides, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], **outs)


def oneformer() -> nn.Module:
    config = transformers.OneFormerConfig(
        backbone_config=swin(out_features=["stage1", "stage2", "stage3", "stage4"]),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=5,
        text_encoder_width=32,
        text_encoder_n_ctx=4,
        text_encoder_num_layers=1,
        task_seq_len=8,
        query_dec_layers=1,
    )
    return transformers.OneFormerForUniversalSegmentation(config)


def on_vit(config: str, model: str, backbone: Any, **vit: Any) -> nn.Module:
    settings = {
        "backbone_config": backbone(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
            out_features=["stage1", "stage2"],
            **vit,
        ),
        "projector_scale_factors": [1.0],
        "d_model": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "num_queries": 7,
        "group_detr": 2,
        "decoder_n_points": 2,
    }
    built: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return built


def lw_detr() -> nn.Module:
    sides = {"pretrain_image_size": 64, "window_block_indices": [0]}
    return on_vit("LwDetrConfig", "LwDetrForObjectDetection", transformers.LwDetrViTConfig, **sides)


def rf_detr() -> nn.Module:
    kind = type(transformers.RfDetrConfig().backbone_config)
    return on_vit("RfDetrConfig", "RfDetrForObjectDetection", kind, num_windows=2)


def words(kind: str, **more: Any) -> Any:
    return getattr(transformers, kind)(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=50,
        **more,
    )


def grounded(config: str, model: str) -> nn.Module:
    settings = getattr(transformers, config)(
        backbone_config=resnet(),
        text_config=words("BertConfig"),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=6,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=16,
    )
    built: nn.Module = getattr(transformers, model)(settings)
    return built


def omdet_turbo() -> nn.Module:
    config = transformers.OmDetTurboConfig(
        backbone_config=swin(out_indices=[2, 3, 4]),
        use_timm_backbone=False,
        backbone=None,
        apply_layernorm_after_vision_backbone=False,
        text_config=words("CLIPTextConfig", max_position_embeddings=16, projection_dim=16, eos_token_id=2),
        text_projection_in_dim=16,
        text_projection_out_dim=16,
        class_embed_dim=16,
        task_encoder_hidden_dim=16,
        encoder_in_channels=[16, 32, 64],
        vision_features_channels=[32, 32, 32],
        d_model=32,
        encoder_hidden_dim=32,
        decoder_hidden_dim=32,
        encoder_attention_heads=4,
        decoder_num_heads=4,
        encoder_dim_feedforward=32,
        decoder_dim_feedforward=32,
        decoder_num_layers=2,
        num_queries=6,
        image_size=64,
    )
    return transformers.OmDetTurboForObjectDetection(config)


@dataclass(frozen=True)
class Model:
    """One of them.

    Attributes:
        build: makes it.
        layers: of deformable attention.
        size: (H, W) of its images.
        words: what it takes besides.
    """

    build: Callable[[], nn.Module]
    layers: int
    size: tuple[int, int] = (64, 96)
    words: Callable[[], dict[str, torch.Tensor]] = dict

    def inputs(self, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """Seeded."""
        generator = torch.Generator().manual_seed(1)
        images = torch.randn((1, 3, *self.size), generator=generator, dtype=torch.float64)
        return {"pixel_values": images.to(dtype), **self.words()}


def _task() -> dict[str, torch.Tensor]:
    return {"task_inputs": torch.tensor([[1, 3, 5, 7, 2, 0, 0, 0]])}


def _sentence() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[1, 5, 6, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


def _classes() -> dict[str, torch.Tensor]:
    return {
        "classes_input_ids": torch.tensor([[1, 5, 2], [1, 6, 2]]),
        "classes_attention_mask": torch.ones(2, 3, dtype=torch.long),
        "tasks_input_ids": torch.tensor([[1, 7, 2]]),
        "tasks_attention_mask": torch.ones(1, 3, dtype=torch.long),
        "classes_structure": torch.tensor([2]),
    }


SQUARE, LARGE = (64, 64), (128, 160)
MODELS = {
    "Mask2Former": Model(mask2former, 2),
    "OneFormer": Model(oneformer, 2, SQUARE, _task),
    "Deformable DETR": Model(deformable_detr, 3),
    "RT-DETR": Model(lambda: detr_like("RTDetrConfig", "RTDetrForObjectDetection"), 2),
    "RT-DETR v2": Model(lambda: detr_like("RTDetrV2Config", "RTDetrV2ForObjectDetection"), 2),
    # Points differ from level to level.
    "D-FINE": Model(
        lambda: detr_like("DFineConfig", "DFineForObjectDetection", decoder_n_points=[3, 6, 3]), 2
    ),
    "DEIMv2": Model(lambda: detr_like("Deimv2Config", "Deimv2ForObjectDetection"), 2, SQUARE),
    "PP-DocLayout v4": Model(
        lambda: detr_like("PPDocLayoutV4Config", "PPDocLayoutV4ForObjectDetection", hidden_size=32), 2, SQUARE
    ),
    "LW-DETR": Model(lw_detr, 2, SQUARE),
    "RF-DETR": Model(rf_detr, 2, SQUARE),
    "Grounding DINO": Model(
        lambda: grounded("GroundingDinoConfig", "GroundingDinoForObjectDetection"), 3, LARGE, _sentence
    ),
    "MM-Grounding DINO": Model(
        lambda: grounded("MMGroundingDinoConfig", "MMGroundingDinoForObjectDetection"), 3, LARGE, _sentence
    ),
    "OmDet-Turbo": Model(omdet_turbo, 2, SQUARE, _classes),
}


def outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """All floating outputs in a row; what is masked by infinities counts as nothing."""
    # OneFormer and the detectors with noised queries draw numbers.
    torch.manual_seed(2)
    for kept in ("language_cache_class", "language_cache_prompt"):
        if hasattr(model, kept):
            # OmDet-Turbo keeps a text's embedding, with the graph and in the dtype of the first pass.
            getattr(model, kept).cache.clear()
    found = model(**inputs)
    rows = [each.flatten() for each in found.values() if isinstance(each, torch.Tensor)]
    return torch.cat([row.nan_to_num(0, 0, 0) for row in rows if row.is_floating_point()])
