"""Models that others wrote, unmodified: our products equal torch's own counter's, our totals fvcore's."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.counter import Count, DataDependentError, run_and_count
from harness.structure import meta_copy

transformers: Any = pytest.importorskip("transformers")

# What torch's counter knows: convolutions, matrix products and attention.
PRODUCTS = {"conv", "linear", "matmul", "attention_scores", "attention_values"}
SIDE = 64
OUR_NAMES = {"upsample_bilinear2d": "upsample_bilinear", "upsample_nearest2d": "upsample_nearest"}
TINY = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "embedding_size": 16}


def swin() -> Any:
    return transformers.SwinConfig(
        image_size=SIDE,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=STAGES,
    )


def resnet() -> dict[str, Any]:
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": transformers.ResNetConfig(**SIZES, out_features=STAGES),
    }


def segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=32,
    )
    return transformers.SegformerForSemanticSegmentation(config)


def mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(),
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        num_queries=10,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def maskformer() -> nn.Module:
    config = transformers.MaskFormerConfig(
        backbone_config=swin(),
        fpn_feature_size=32,
        mask_feature_size=32,
        decoder_config=transformers.DetrConfig(num_queries=10, **TINY),
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def detr() -> nn.Module:
    return transformers.DetrForObjectDetection(transformers.DetrConfig(num_queries=10, **resnet(), **TINY))


def deformable_detr() -> nn.Module:
    config = transformers.DeformableDetrConfig(num_queries=10, num_feature_levels=4, **resnet(), **TINY)
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr() -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(**SIZES, layer_type="basic", out_features=STAGES[1:])
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 40],
        encoder_ffn_dim=48,
        encoder_attention_heads=2,
        d_model=32,
        num_queries=10,
        decoder_in_channels=[32, 32, 32],
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
    )
    return transformers.RTDetrForObjectDetection(config)


def oneformer() -> nn.Module:
    config = transformers.OneFormerConfig(
        backbone_config=swin(),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=10,
        text_encoder_width=32,
        text_encoder_n_ctx=4,
        text_encoder_num_layers=1,
        task_seq_len=8,
        query_dec_layers=1,
    )
    return transformers.OneFormerForUniversalSegmentation(config)


class Attention(nn.Module):
    """nn.MultiheadAttention, scaled_dot_product_attention and einsum over the same tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return torch.einsum("bqc,bkc->bqk", tokens, tokens)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "timm-resnet18": lambda: timm.create_model("resnet18"),
    "timm-vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=SIDE, depth=2),
    "timm-convnext": lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1)),
    "torchvision-mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "torchvision-swin": lambda: torchvision.models.SwinTransformer(
        [4, 4], 24, [2, 1], [2, 2], [4, 4], stochastic_depth_prob=0.0
    ),
    "torchvision-vit": lambda: torchvision.models.VisionTransformer(SIDE, 16, 2, 4, 64, 128),
    "torchvision-lraspp": lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights_backbone=None
    ),
    "segformer": segformer,
    "mask2former": mask2former,
    "maskformer": maskformer,
    "detr": detr,
    "deformable-detr": deformable_detr,
    "rt-detr": rt_detr,
    "oneformer": oneformer,
    "attention": Attention,
}


def inputs_for(name: str) -> tuple[Tensor, ...]:
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return (image, torch.zeros(1, 8, dtype=torch.long)) if name == "oneformer" else (image,)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[name]().eval()


def counted(model: nn.Module, inputs: tuple[Tensor, ...]) -> Count:
    """On meta where that can hold, otherwise on the tensors themselves."""
    try:
        return run_and_count(meta_copy(model), *(x.to("meta") for x in inputs))[1]
    except DataDependentError:
        return run_and_count(model, *inputs)[1]


def products(count: Count) -> int:
    return sum(work.macs for work in count.work if work.operator in PRODUCTS)


@pytest.mark.parametrize("name", BUILDERS)
def test_products_equal_torchs_own_counter(name: str) -> None:
    model, inputs = build(name), inputs_for(name)
    count = counted(model, inputs)
    # torch's counter does not see into the fused attention layer of nn.MultiheadAttention.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    mode = FlopCounterMode(display=False)
    try:
        # With gradients off, its module tracker stumbles over views.
        with mode, torch.enable_grad():
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    assert products(count) == mode.get_total_flops() // 2
    assert count.unknown == ()


ATTENTION = {"attention_scores", "attention_values"}


@pytest.mark.parametrize(
    ("name", "also_ours"),
    [
        ("timm-resnet18", {}),
        ("torchvision-mobilenet", {}),
        ("torchvision-lraspp", {}),
        ("timm-convnext", {}),
        ("segformer", {}),
        ("timm-vit", {}),
        # The padding mask is resized to 8x8, 4x4 and 2x2; fvcore counts only what an output depends on.
        ("rt-detr", {"upsample_nearest": 64 + 16 + 4}),
    ],
)
def test_operators_equal_fvcores_but_for_two_it_counts_otherwise(
    name: str, also_ours: dict[str, int]
) -> None:
    model, inputs = build(name), inputs_for(name)
    analysis = FlopCountAnalysis(model, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = dict(analysis.by_operator())
    # Pooling to one pixel reaches the dispatcher as a mean: additions, no multiply-accumulates.
    theirs.pop("adaptive_avg_pool2d", None)
    ours: dict[str, int] = {}
    for work in counted(model, inputs).work:
        # fvcore has no handle for scaled_dot_product_attention.
        if work.macs and work.operator not in ATTENTION:
            ours[work.operator] = ours.get(work.operator, 0) + work.macs
    expected = {OUR_NAMES.get(operator, operator): macs for operator, macs in theirs.items() if macs}
    for operator, macs in also_ours.items():
        expected[operator] += macs
    assert ours == expected


def test_a_compiled_module_counts_as_it_is_written() -> None:
    model = build("attention")
    _, plain = run_and_count(model, *inputs_for("attention"))
    _, compiled = run_and_count(torch.compile(model), *inputs_for("attention"))
    assert compiled == plain


def test_a_detector_is_counted_on_a_real_image_and_names_what_has_no_formula() -> None:
    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=SIDE, max_size=SIDE
    ).eval()
    with pytest.raises(DataDependentError, match="count on real inputs"):
        run_and_count(meta_copy(detector), torch.empty(1, 3, SIDE, SIDE, device="meta"))
    inputs = ([inputs_for("detector")[0][0]],)
    _, count = run_and_count(detector, *inputs)
    mode = FlopCounterMode(display=False)
    with mode, torch.no_grad():
        detector(*inputs)
    assert products(count) == mode.get_total_flops() // 2
    assert {op.operator for op in count.unknown} <= {"torchvision::nms", "torchvision::roi_align"}
    assert "torchvision::nms" in {op.operator for op in count.unknown}
