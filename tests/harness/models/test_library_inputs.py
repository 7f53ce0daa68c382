"""What libraries' models are called with beside an image, and what is said where nothing gives it."""

import json
from pathlib import Path

import pytest

from segmeter.harness.counting import work_of
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import inputs_of, parse_model

transformers = pytest.importorskip("transformers")
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def written(at: Path, content: object) -> str:
    at.mkdir(exist_ok=True)
    (at / "config.json").write_text(json.dumps(content))
    return f"hf:{at}"


def macs(text: str) -> int:
    spec = parse_model(text, own=True)
    inputs = inputs_of(spec)
    assert inputs is not None
    return work_of(spec, ImageSize(inputs.size, inputs.size)).macs


def test_a_text_encoder_gets_a_text_as_long_as_texts_are_padded_to(tmp_path: Path) -> None:
    def clip(length: int) -> str:
        text = {**TEXT, "max_position_embeddings": length}
        content = {"model_type": "clip", "vision_config": VISION, "text_config": text}
        return written(tmp_path / f"clip{length}", {**content, "architectures": ["CLIPModel"]})

    def text_of(name: str) -> str:
        inputs = inputs_of(parse_model(name, own=True))
        assert inputs is not None
        return inputs.described((32, 32))["input_ids"]

    assert text_of(clip(77)) == "1x77 int64" and text_of(clip(512)) == "1x16 int64"
    assert macs(clip(77)) > macs(clip(32)) > 0


def test_any_tensor_that_a_model_takes_can_be_given(tmp_path: Path) -> None:
    name = written(tmp_path / "videomae", {"model_type": "videomae", **VISION, "num_frames": 4})
    inputs = inputs_of(parse_model(f"{name}:input.bool_masked_pos=1x8,bool", own=True))
    assert inputs is not None
    assert inputs.described((32, 32)) == {
        "pixel_values": "1x4x3x32x32 float32",
        "bool_masked_pos": "1x8 bool",
    }
    with pytest.raises(ValueError, match=r"no input 'bool_masked_po'; did you mean 'bool_masked_pos'\?"):
        parse_model(f"{name}:input.bool_masked_po=1x8", own=True)


def test_what_a_model_asks_for_and_nothing_gives_is_named() -> None:
    with pytest.raises(
        ValueError, match="bool_masked_pos beside images; give each: --input bool_masked_pos="
    ):
        parse_model("hf:VideoMAEForPreTraining", own=True)
    with pytest.raises(ValueError, match="inference_session is no tensor"):
        parse_model("hf:Sam2VideoModel", own=True)


def test_defaults_that_make_no_model_are_told_as_such() -> None:
    spec = parse_model("hf:HieraForPreTraining", own=True)
    with pytest.raises(
        ValueError, match=r"transformers' defaults make no model .*name a repository or a folder"
    ):
        work_of(spec, ImageSize((224, 224), (224, 224)))
    # Those that lack an option or two are completed.
    assert macs("hf:BeitForSemanticSegmentation") > 0


def test_a_repository_of_timms_weights_is_timms_model(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    content = {
        "architecture": "resnet18",
        "num_classes": 7,
        "pretrained_cfg": {"input_size": [3, 64, 96], "hf_hub_id": "org/weights"},
    }
    name = written(tmp_path / "rn", content)
    inputs = inputs_of(parse_model(name, own=True))
    assert inputs is not None and (inputs.size, inputs.source) == ((64, 96), "config.json: pretrained_cfg")
    spec = parse_model("timm:resnet18:num_classes=7", own=True)
    assert macs(name) == work_of(spec, ImageSize((64, 96), (64, 96))).macs
    for wrong, reason in ((["x"], "no architecture"), ("resnet1", "timm has no model 'resnet1'")):
        with pytest.raises(ValueError, match=reason):
            parse_model(written(tmp_path / "wrong", {**content, "architecture": wrong}), own=True)
