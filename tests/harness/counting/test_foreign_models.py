"""Models that others wrote, unmodified: three other counters agree, but for differences that have names."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from segmeter.harness.counting.counter import Count, DataDependentError, run_and_count
from segmeter.harness.crosscheck.run import REASONS, cross_check, module_subject
from segmeter.harness.models.structure import meta_copy

transformers: Any = pytest.importorskip("transformers")

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


def detector(name: str, **options: int) -> nn.Module:
    if not name.startswith("ssd"):  # whose size is fixed
        options |= {"min_size": SIDE, "max_size": SIDE}
    return getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **options)


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
    "timm-swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        window_size=4,
        depths=(1, 1, 1, 1),
        embed_dim=24,
        num_heads=(1, 2, 2, 2),
    ),
    "torchvision-deeplab": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights_backbone=None
    ),
    "torchvision-fcn": lambda: torchvision.models.segmentation.fcn_resnet50(weights_backbone=None),
    "torchvision-mask-rcnn": lambda: detector(
        "maskrcnn_resnet50_fpn", rpn_post_nms_top_n_test=10, box_detections_per_img=5
    ),
    "torchvision-faster-rcnn": lambda: detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn", rpn_post_nms_top_n_test=10
    ),
    "torchvision-ssd": lambda: detector("ssdlite320_mobilenet_v3_large"),
    "torchvision-retinanet": lambda: detector("retinanet_resnet50_fpn"),
    "torchvision-fcos": lambda: detector("fcos_resnet50_fpn"),
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


@pytest.mark.parametrize("name", BUILDERS)
def test_three_counters_agree_but_for_what_has_a_name(name: str) -> None:
    model, inputs = build(name), inputs_for(name)
    try:
        meta, shapes = meta_copy(model), tuple(x.to("meta") for x in inputs)
        run_and_count(meta, *shapes)
        subject = module_subject(meta, shapes)
    except DataDependentError as error:
        # All detectors choose boxes; these two look whether anything is padded.
        assert "torchvision" in name or name in ("detr", "oneformer")
        subject = module_subject(model, inputs, str(error))
    for check in cross_check(subject):
        assert check.failed == ""
        assert check.unexplained == 0, check
        assert check.counted > 0
        assert set(check.explained) <= set(REASONS)
    _, count = run_and_count(model, *inputs)
    assert {op.operator for op in count.unknown} <= NO_FORMULA.get(name, set())


# Boxes are sorted out by nms, which multiplies nothing to speak of; roi_align samples them.
BOXES = {"torchvision::nms", "torchvision::roi_align"}
NO_FORMULA = {
    "torchvision-mask-rcnn": BOXES,
    "torchvision-faster-rcnn": BOXES,
    "torchvision-ssd": {"torchvision::nms"},
    "torchvision-retinanet": {"torchvision::nms"},
    "torchvision-fcos": {"torchvision::nms"},
}
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
    model = build("torchvision-faster-rcnn")
    with pytest.raises(DataDependentError, match="count on real inputs"):
        run_and_count(meta_copy(model), torch.empty(1, 3, SIDE, SIDE, device="meta"))
    count = run_and_count(model, *inputs_for("detector"))[1]
    assert {op.operator for op in count.unknown} == BOXES
    assert all(op.shapes for op in count.unknown)
