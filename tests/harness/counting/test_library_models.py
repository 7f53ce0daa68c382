"""Models of other libraries: split into components, and counted as torch's own counter counts them."""

import runpy
from functools import cache
from types import SimpleNamespace

import pytest
from torch import nn

from segmeter.harness.counting import Count, Work, apply_convention, count_model, traps, work_of
from segmeter.harness.crosscheck import cross_check, crosscheck_subject
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import ModelSpec, find_components, inputs_of, meta_model, parse_model
from tests.helpers.hugging_face import folder
from tests.helpers.library_models import MODELS
from tests.helpers.models_page import PAGE, row
from tests.helpers.places import ROOT

pytest.importorskip("transformers")


def spec_and_size(text: str) -> tuple[ModelSpec, ImageSize]:
    spec = parse_model(text, own=True)
    inputs = inputs_of(spec)
    assert inputs is not None
    return spec, ImageSize(inputs.size, inputs.size)


@cache
def components(text: str, *side: int) -> dict[str, float]:
    spec, size = spec_and_size(text)
    size = ImageSize((side[0], side[0]), (side[0], side[0])) if side else size
    return apply_convention(work_of(spec, size), find_components(spec), "macs").by_component


# torch's counter has no handle for a product with a vector: six layers sum up 33 bins of distance for each
# of 300 queries' four sides.
VECTOR_PRODUCTS = dict.fromkeys(
    ("hf:DFineForObjectDetection", "hf:Deimv2ForObjectDetection"), 6 * 300 * 4 * 33
)


@pytest.mark.parametrize("text", MODELS)
def test_a_model_is_split_and_agrees_with_torchs_counter(text: str) -> None:
    # Fewer of SAM 3's 32 equal layers say as much.
    fewer = ":vision_config.backbone_config.num_hidden_layers=8" if "Sam3" in text else ""
    spec, size = spec_and_size(text + fewer)
    if size.padded[0] != size.padded[1]:
        size = ImageSize((512, 512), (512, 512))  # it takes any, and a larger one says no more
    work = work_of(spec, size)  # on meta: would raise where values are needed
    figures = apply_convention(work, find_components(spec), "macs")
    rows = {name.partition(".")[0]: figures.of(name.partition(".")[0]) for name in figures.by_component}
    assert {row for row, units in rows.items() if units} == set(MODELS[text])
    # Never one row of 100 %, and the rows are the total.
    assert sum(rows.values()) == figures.total == work.macs
    assert not work.unknown
    # torch counts the products, below the attention that segmeter takes whole; all else has a name.
    (check,) = cross_check(crosscheck_subject(spec, size), counters=("torch",))
    assert (check.failed, check.unexplained) == ("", VECTOR_PRODUCTS.get(text, 0))
    assert check.counted > 0


def test_there_are_enough_of_them() -> None:
    families = {text.partition(":")[2].partition("For")[0].partition("Model")[0] for text in MODELS}
    assert len(MODELS) >= 30 and len(families) >= 15


def test_the_largest_is_counted_in_little_memory() -> None:
    # 840 million parameters, on meta: 3.1 GiB if they were made. Limit and figures: docs/models.md.
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "library_models.py"))
    _, gib, status = benchmark["measured"]("hf:Sam3Model")
    assert status == 0 and gib <= benchmark["LIMIT_GIB"]


def test_the_page_lists_them_with_todays_figures() -> None:
    page = PAGE.read_text()
    assert all(f"| `{text}` |" in page for text in MODELS)
    for text in ("hf:EomtForUniversalSegmentation", "hf:SegformerForSemanticSegmentation", "timm:fastvit_t8"):
        assert row(text) in page, "run python -m tests.helpers.models_page"


def test_a_detector_is_counted_on_photos_and_resizes_by_itself() -> None:
    small = ":min_size=64:max_size=64:rpn_post_nms_top_n_test=20:box_detections_per_img=5"
    spec = parse_model(f"torchvision:maskrcnn_resnet50_fpn{small}", own=True)
    counted = count_model(spec, ImageSize((96, 128), (96, 128)), "macs")
    assert "depends on the input's values" in counted.reason
    parts = {name.partition(".")[0] for name, units in counted.figures.by_component.items() if units}
    assert {"backbone", "encoder", "decoder", "heads"} <= parts
    assert any("resizes its images itself, to a short side of 64" in trap for trap in counted.traps)


M2F = "hf:Mask2FormerForUniversalSegmentation:backbone_config.depths=2,2,6,2"


def test_two_mask2formers_agree_component_by_component() -> None:
    theirs = components(M2F, 512)
    spec = parse_model("m2f@swin-t", num_classes=80)
    size = ImageSize((512, 512), (512, 512))
    ours = apply_convention(work_of(spec, size), find_components(spec), "macs")
    product, scale = 100 * 256, 16 * 16
    expected = {
        # grid_sample weighs by an elementwise product, which costs no multiply-accumulates here.
        "encoder.deformable_attention.sampling": ours.by_component["encoder.deformable_attention.sampling"]
        * 4
        // 5,
        # It predicts two classes and "no object" after each of the ten mask predictions, not 81 once.
        "decoder.class_prediction": 10 * product * 3,
        # It makes the attention mask after the last layer too, which nothing looks at; 4 for an element.
        "decoder.mask_prediction.product": ours.by_component["decoder.mask_prediction.product"]
        + ours.by_component["decoder.attention_mask"]
        + 4 * 100 * scale,
    }
    for name, units in ours.by_component.items():
        if name.startswith(("encoder.", "decoder.")) and name != "decoder.attention_mask":
            assert theirs[name] == expected.get(name, units), name
    # Its Swin has one more norm, at stride 32, whose output is not used: 5 for each of 16x16x768 elements.
    backbone = sum(units for name, units in theirs.items() if name.startswith("backbone."))
    assert backbone == ours.of("backbone") + 5 * scale * 768
    # Masks are resized to the image by its processor, outside the model.
    assert not any(name.startswith("postprocess") for name in theirs)


def eomt_large(side: int, classes: int, queries: int = 200, blocks: int = 4) -> int:
    """EoMT-L's inference: 24 layers of width 1024, the last four with the queries; two upscaling steps."""
    width, layers, grid = 1024, 24, side // 16
    patches = grid * grid

    def layer(tokens: int) -> int:
        # Four projections, both products of attention, the MLP of ratio 4, two norms at 5 an element.
        return tokens * width * (12 * width + 2 * tokens + 10)

    tokens = patches + 5  # a class token and four registers
    body = (layers - blocks) * layer(tokens) + blocks * layer(tokens + queries)
    embed = patches * width * 3 * 16 * 16
    upscaling = 0
    for step in (1, 2):
        sites = patches * 4 ** (step - 1)
        # 2x2 transposed convolution, 3x3 depthwise convolution, norm over channels.
        upscaling += sites * width * width * 4 + 4 * sites * width * 9 + 5 * 4 * sites * width
    heads = 3 * queries * width * width + queries * width * (classes + 1) + queries * width * patches * 16
    return embed + body + 5 * (tokens + queries) * width + upscaling + heads


def test_eomt_large_costs_what_its_inference_costs() -> None:
    text = "hf:EomtForUniversalSegmentation:image_size=640"
    spec, size = spec_and_size(text)
    counted = count_model(spec, size, "macs")
    # The default configuration has two classes.
    assert counted.figures.total == pytest.approx(eomt_large(640, 2), rel=1e-3)
    assert counted.figures.total / 1e9 == pytest.approx(669, abs=1)
    (line,) = [trap for trap in counted.traps if "attn_mask_probs" in trap]
    assert "828.1" in line  # as training starts


def test_traps_are_told_with_their_figures(tmp_path) -> None:
    def traps(text: str) -> str:
        return " | ".join(count_model(*spec_and_size(text), "macs").traps)

    merged = traps("timm:repvgg_a0")
    assert "merged into one convolution each" in merged and "RepVggBlock" in merged
    assert "RTDetrV2RepVggBlock: counted with the branches" in traps(folder(tmp_path / "rt", "rt_detr_v2"))
    assert "batch norms are counted" in traps("timm:resnet18")
    (line,) = [t for t in told_lines(folder(tmp_path / "uper", "upernet")) if "no prediction is made" in t]
    assert "auxiliary_head.convs.*.conv" in line
    assert traps("timm:vit_tiny_patch16_224") == ""


def told_lines(text: str) -> tuple[str, ...]:
    return count_model(*spec_and_size(text), "macs").traps


def told(text: str) -> str:
    return " | ".join(told_lines(text))


UNREAD = "run, and no prediction is made from what they give"


def test_predictions_that_nobody_reads_are_told(tmp_path) -> None:
    spec, size = spec_and_size(folder(tmp_path, "mask2former", num_queries=7))
    work = [w for w in work_of(spec, size).work if w.module == "class_predictor" and w.macs]
    # One layer, for its two "layers" count the prediction before the first.
    assert {w.calls for w in work} == {2}
    (line,) = [t for t in count_model(spec, size, "macs").traps if t.endswith(UNREAD)]
    # The first of the two, and the norm that its Swin has beyond the others'.
    assert f"class_predictor {sum(w.macs for w in work) / 2 / 1e9:.3g}" in line and "swin.layernorm" in line
    # RT-DETR stacks what each layer predicts, and picks the last: of two, one class head is for training.
    spec, size = spec_and_size(folder(tmp_path / "rt", "rt_detr_v2"))
    heads = [
        w.macs
        for w in work_of(spec, size).work
        if w.module.startswith("model.decoder.class_embed") and w.macs
    ]
    (line,) = [t for t in count_model(spec, size, "macs").traps if t.endswith(UNREAD)]
    assert len(heads) == 2 and f"model.decoder.class_embed.* {heads[0] / 1e9:.3g}" in line
    # DETR applies its head to the last layer only; its mask of ones is resized for nothing.
    (line,) = [t for t in told_lines(folder(tmp_path / "detr", "detr")) if t.endswith(UNREAD)]
    assert "(model.backbone " in line and "class" not in line


def test_a_position_table_that_is_resized_at_each_call_is_told() -> None:
    spec = parse_model("timm:vit_tiny_patch16_224:dynamic_img_size=true", own=True)

    def resized(side: int) -> list[str]:
        lines = count_model(spec, ImageSize((side, side), (side, side)), "macs").traps
        return [line for line in lines if "resize a table of weights at each call" in line]

    assert not resized(224)  # the table's own size
    (line,) = resized(128)
    # 8x8 places of 192 channels, 16 for each by a bicubic filter.
    assert line.startswith(f"{8 * 8 * 192 * 16 / 1e9:.3g} GMACs (")


def test_work_that_is_the_same_for_all_images_is_told() -> None:
    # SwinV2 makes its position bias of coordinates, by two layers in each of 12 blocks.
    spec, size = spec_and_size("timm:swinv2_tiny_window8_256")
    bias = sum(w.macs for w in work_of(spec, size).work if ".cpb_mlp." in w.module)
    (line,) = [t for t in count_model(spec, size, "macs").traps if "do not depend on the image" in t]
    assert line.startswith(f"{bias / 1e9:.3g} GMACs (layers.*.blocks.*.attn.cpb_mlp.*")


def test_a_size_of_one_photo_is_told(tmp_path) -> None:
    line = "the input's size follows the photo's proportions"
    kept = {"size": {"shortest_edge": 64, "longest_edge": 96}}
    assert f"{line}: 64x85 is one photo's" in told(folder(tmp_path, "detr", kept))
    assert line not in told(folder(tmp_path / "fixed", "detr", {"size": {"height": 64, "width": 64}}))


class Drops(nn.Dropout):
    """One that its author keeps at work."""

    def train(self, mode: bool = True) -> "Drops":
        return super().train(True)


def test_dropout_at_work_is_told() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), Drops()).eval()
    assert [line.partition(":")[0] for line in traps._drops(model)] == [
        "dropout stays in training mode (1x, 2 the first)"
    ]
    assert not list(traps._drops(model[:2]))


def test_what_is_kept_from_call_to_call_is_told() -> None:
    class Decoder(nn.Module):
        config = SimpleNamespace(text_config=SimpleNamespace(is_decoder=True, use_cache=True))

    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory_attention = nn.Linear(2, 2)

    assert [line.split()[0] for line in traps._remembers(Decoder(), Count())] == ["text_config.use_cache"]
    (line,) = traps._remembers(Video(), Count())
    assert line.startswith("memory_attention did not run")
    ran = Count((Work("memory_attention", "linear", 1, 4, 8),))
    assert not list(traps._remembers(Video(), ran))


def test_a_users_component_comes_first(tmp_path) -> None:
    text = folder(tmp_path, "mask2former")
    named = components(f"{text}:components.model.pixel_level_module.decoder=mine")
    assert "mine" in named and not any(name.startswith("encoder") for name in named)
    assert sum(named.values()) == sum(components(text).values())


def test_counting_as_training_starts_leaves_the_model_as_it_was(tmp_path) -> None:
    spec, size = spec_and_size(folder(tmp_path, "eomt"))
    first, second = count_model(spec, size, "macs"), count_model(spec, size, "macs")
    assert first == second and first.traps
    assert not any(b.any() for n, b in meta_model(spec).named_buffers() if n.endswith("attn_mask_probs"))
