"""Checkpoints of the detectors' own code: every name becomes one of ours, and the file says its model.

``tests/data/detection_names.json`` lists names and shapes of the official modules (19 classes, 40 queries),
with torchvision's and RT-DETR's own ResNet.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from segmeter.harness.models import meta_model, parse_model, real_model
from segmeter.harness.quality.inference import Settings
from segmeter.harness.quality.predict import predict_photo
from segmeter.harness.weights import convert, load_model
from segmeter.harness.weights.checkpoint import Checkpoint
from segmeter.harness.weights.names import our_name, recognise_format, rename
from segmeter.harness.weights.recognise import recognise_model
from tests.helpers.places import DATA

NAMES: dict[str, dict[str, list[int]]] = json.loads((DATA / "detection_names.json").read_text())
MODELS = {
    "dino_4": "dino@r50",
    "dino_5": "dino@r50:levels=5",
    "lite_h3": "lite-dino@r50",
    # Which levels are coarse leaves no trace: the default is taken.
    "lite_h2_plain": "lite-dino@r50:expansions=1:high_level_layers=5:key_aware=false",
    "rt_detr": "rt-detr@r50vd",
}


def checkpoint_of(case: str) -> Checkpoint:
    entries = {name: torch.zeros(1).expand(shape) for name, shape in NAMES[case].items()}
    kind = recognise_format(entries)
    assert kind is not None
    weights, origin, unexpected, ignored = rename(kind, entries)
    return Checkpoint(Path("official.pth"), kind, weights, origin, unexpected, ignored, {})


@pytest.mark.parametrize("case", MODELS)
def test_every_official_name_is_one_of_ours(case: str) -> None:
    checkpoint = checkpoint_of(case)
    spec = recognise_model(checkpoint)
    assert spec.text == parse_model(MODELS[case]).text and spec.num_classes == 19
    # RT-DETR's queries are tokens: no weight tells how many.
    assert spec.num_queries == (300 if case == "rt_detr" else 40)
    ours = {
        name: tuple(entry.shape)
        for name, entry in meta_model(spec).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    assert found == ours and not checkpoint.unexpected


def test_maskdinos_head_stands_under_detectron2s_names() -> None:
    entries = {name: torch.zeros(1).expand(shape) for name, shape in NAMES["maskdino_panoptic"].items()}
    assert recognise_format(entries) == "maskdino"
    weights, _, unexpected, ignored = rename("maskdino", entries)
    model = meta_model(parse_model("maskdino@r50", num_classes=19))
    ours = {n: tuple(e.shape) for n, e in model.state_dict().items() if not n.startswith("backbone.")}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == ours and not unexpected
    # Heads that layers share are there for each of them, and the norm twice.
    assert len(ignored) == 2 * 9 * 6 + 2
    stem = our_name("maskdino", "backbone.stem.conv1.norm.bias")
    assert stem == "backbone.trunk.bn1.bias"


def test_heads_that_are_shared_must_be_one() -> None:
    entries = {f"bbox_embed.{layer}.layers.0.bias": torch.full((256,), float(layer)) for layer in (0, 1)}
    with pytest.raises(ValueError, match="two entries of the checkpoint mean"):
        rename("dino", entries)


def test_a_converted_detector_loads_again(tmp_path: Path) -> None:
    spec = parse_model("rt-detr@r50vd:form=deploy", num_classes=5)
    model = real_model(spec)
    official = {name: entry.contiguous() for name, entry in model.state_dict().items()}
    save_file(official, tmp_path / "a.safetensors", metadata={"segmeter.model": spec.text})
    found, report = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found == spec and report.is_whole
    loaded, again, _ = load_model(tmp_path / "b.safetensors")
    assert again == spec
    for name, entry in loaded.state_dict().items():
        torch.testing.assert_close(entry, official[name], rtol=0, atol=0)


def test_a_detectors_boxes_are_kept_from_a_score_of_one_half_on(tmp_path: Path) -> None:
    spec = parse_model("rt-detr@r50vd:num_queries=20", num_classes=5)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    names = tuple((f"class {k}", True) for k in range(5))
    model = real_model(spec)
    torch.nn.init.constant_(dict(model.named_parameters())["decoder.dec_score_head.5.bias"], 9.0)
    sure = predict_photo(model, spec, tmp_path / "a.png", names, None, Settings("cpu", "float32"))
    assert sure.boxes is not None and len(sure.boxes) == 20 * 5
    assert all(0 <= left <= left + width <= 64.001 for (left, _, width, _), _, _ in sure.boxes)
    torch.nn.init.constant_(dict(model.named_parameters())["decoder.dec_score_head.5.bias"], -9.0)
    none = predict_photo(model, spec, tmp_path / "a.png", names, None, Settings("cpu", "float32"))
    assert none.boxes == [] and none.instances == []


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("backbone.clip_model.visual.trunk.stem.0.weight", "FC-CLIP's or MaskCLIP's"),
        ("sem_seg_head.predictor._kmax_transformer_layers.0._ffn.weight", "kMaX-DeepLab's"),
        ("panoptic_head.kernels.weight", "RAP-SAM's"),
    ],
)
def test_a_file_whose_names_are_not_read_is_told_whose_it_is(name: str, owner: str, tmp_path: Path) -> None:
    entries = {name: torch.zeros(2), "sem_seg_head.pixel_decoder.input_proj.0.0.bias": torch.zeros(2)}
    save_file(entries, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"{owner}.*not read here"):
        load_model(tmp_path / "a.safetensors")
