"""Backbone weights from files, packages and chance; what does not fit is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segmeter.encoders.backbones.table import Backbone, build_backbone
from segmeter.encoders.segmenter.model import build_masked_model
from segmeter.harness.inputs.photos import package_photos
from segmeter.harness.models.spec import model_spec
from segmeter.harness.weights.network import (
    OFFLINE_BACKBONE,
    WeightsMismatchError,
    fill,
    load_network,
    package_file,
    timm_names_of_lite0,
)

needs_package = pytest.mark.skipif(package_file() is None, reason="the weights' package is not installed")


def classifier(name: str) -> dict[str, Tensor]:
    import timm

    torch.manual_seed(5)
    return timm.create_model(name, pretrained=False).state_dict()


def saved(entries: object, path: Path) -> str:
    torch.save(entries, path)
    return str(path)


def fingerprint(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, float(tensor.double().sum()), float(tensor.double().std())


def same(backbone: Backbone, other: Backbone) -> bool:
    ours, theirs = backbone.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


# Class of ImageNet-1k -> what stands on the photo; a palace by a lake, a flower head, a cat, a coffee cup.
PICTURES = {"china.jpg": {698}, "flower.jpg": {985}, "chelsea.png": {281, 282, 285}, "coffee.png": {967, 968}}


def pictures() -> list[Path]:
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    return [*(photo.path for photo in package_photos()), folder / "chelsea.png", folder / "coffee.png"]


@needs_package
def test_the_packaged_weights_classify_real_photos() -> None:
    import timm

    file = package_file()
    assert file is not None
    entries = torch.load(file, weights_only=True)
    model = timm.create_model(OFFLINE_BACKBONE, pretrained=False).eval()
    assert not any(model.load_state_dict(timm_names_of_lite0(entries)))
    for path in pictures():
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.array(image.crop((left, top, left + 224, top + 224)))
        with torch.inference_mode():
            logits = model((torch.tensor(pixels).permute(2, 0, 1)[None].float() - 127.5) / 127.5)
        assert int(logits.argmax()) in PICTURES[path.name]


@needs_package
def test_the_packaged_weights_are_the_default() -> None:
    network = load_network(None, None, None)
    assert network.backbone.name == OFFLINE_BACKBONE
    assert network.backbone_weights.kind == "package" and not network.backbone_weights.is_random
    # timm's settings for this network: (x / 255 - 0.5) / 0.5.
    assert network.mean == network.std == (127.5,) * 3
    # Trained with the maps that the classifier computes on the way.
    import timm

    model = timm.create_model(OFFLINE_BACKBONE, pretrained=False).eval()
    model.load_state_dict(timm_names_of_lite0(torch.load(str(package_file()), weights_only=True)))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = network.backbone(image)
        # res5 is the trunk's last map: 320 channels at stride 32.
        whole = model.blocks(model.bn1(model.conv_stem(image)))
    torch.testing.assert_close(maps["res5"], whole)


def test_random_weights_are_refused_and_labelled() -> None:
    with pytest.raises(
        ValueError, match=r"no weights for backbone r50: give --weights FILE.*--random-weights"
    ):
        load_network("r50", None, None)
    network = load_network("r50", None, None, allow_random=True, seed=3)
    assert network.backbone_weights.is_random
    assert "random (seed 3)" in network.backbone_weights.text
    assert same(network.backbone, load_network("r50", None, None, allow_random=True, seed=3).backbone)
    assert not same(network.backbone, load_network("r50", None, None, allow_random=True, seed=4).backbone)


@needs_package
def test_an_encoders_random_weights_are_refused_too() -> None:
    with pytest.raises(ValueError, match="no weights for encoder m2f"):
        load_network(None, model_spec("m2f"), None)
    network = load_network(None, model_spec("m2f"), None, allow_random=True)
    assert network.encoder_weights is not None and network.encoder_weights.is_random
    assert not network.backbone_weights.is_random


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("r50", "resnet50"),
        ("swin-t", "swin_tiny_patch4_window7_224"),
        ("convnext_atto", "convnext_atto"),
        ("mobilenetv3_small_050", "mobilenetv3_small_050"),
        ("pvt_v2_b0", "pvt_v2_b0"),
    ],
)
def test_a_classifiers_file_fills_the_backbone(name: str, timm_name: str, tmp_path: Path) -> None:
    entries = classifier(timm_name)
    network = load_network(name, None, saved({"state_dict": entries}, tmp_path / "net.pth"))
    assert network.backbone_weights.kind == "file"
    # Every learnt entry of the trunk is one of the file's, whatever their names.
    known = {fingerprint(t) for t in entries.values() if t.numel() > 1}
    for key, tensor in network.backbone.trunk.state_dict().items():
        if tensor.numel() > 1:
            assert fingerprint(tensor) in known, key
    assert ("output norms" in network.backbone_weights.note) == name.startswith("swin")


def test_swins_own_file_merges_patches_a_stage_earlier(tmp_path: Path) -> None:
    entries = classifier("swin_tiny_patch4_window7_224")
    official = {}
    for name, tensor in entries.items():
        first, stage, *rest = name.split(".")
        if first == "layers" and rest[0] == "downsample":
            name = ".".join((first, str(int(stage) - 1), *rest))
        official[name] = tensor
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    direct = load_network("swin-t", None, saved(entries, tmp_path / "timm.pth")).backbone
    assert same(direct, load_network("swin-t", None, saved(official, tmp_path / "swin.pth")).backbone)


def test_a_detectron2_backbone_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_backbone("r50")
    official = {}
    for name, tensor in source.state_dict().items():
        name = name.removeprefix("trunk.")
        stage, _, rest = name.partition(".")
        if not name.startswith("layer"):
            official["stem.conv1." + {"conv1": "", "bn1": "norm."}[stage] + rest] = tensor
            continue
        rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        for number in "123":
            rest = rest.replace(f"bn{number}.", f"conv{number}.norm.")
        official[f"res{int(stage[-1]) + 1}.{rest}"] = tensor
    official["stem.fc.weight"] = torch.ones(3)
    found = load_network("r50", None, saved({"model": official}, tmp_path / "R-50.pth"))
    assert same(found.backbone, source)


def test_a_whole_models_file_gives_both_parts(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = build_masked_model("pro-scale", "r50", 5, 10, stages=(1, 1, 1))
    file = saved(model.state_dict(), tmp_path / "whole.pth")
    alone = load_network(None, None, file)
    assert alone.backbone.name == "r50" and alone.encoder is None
    assert same(alone.backbone, model.backbone)
    both = load_network("r50", model_spec("pro-scale", stages=(1, 1, 1)), file)
    assert both.encoder is not None and both.encoder_weights == both.backbone_weights
    found = both.encoder.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.encoder.state_dict().items())
    with pytest.raises(ValueError, match="holds backbone r50, not swin-t"):
        load_network("swin-t", model_spec("pro-scale", stages=(1, 1, 1)), file)
    with pytest.raises(ValueError, match="does not fit"):
        load_network("swin-t", None, file)


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    entries = classifier("resnet50")
    del entries["layer1.0.conv1.weight"]
    entries["layer4.1.conv3.weight"] = torch.ones(2, 2)
    with pytest.raises(WeightsMismatchError) as caught:
        load_network("r50", None, saved(entries, tmp_path / "net.pth"))
    assert caught.value.missing == ["trunk.layer1.0.conv1.weight"]
    assert caught.value.misshapen == ["layer4.1.conv3.weight: (2, 2), not (2048, 512, 1, 1)"]
    assert "1 missing (trunk.layer1.0.conv1.weight), 1 of another shape" in str(caught.value)


def test_a_deeper_network_is_not_cut_to_fit(tmp_path: Path) -> None:
    # R101 has R50's entries and 17 more blocks in its third stage, each of 3 convolutions and 3 norms
    # of 4 entries.
    with pytest.raises(WeightsMismatchError) as caught:
        load_network("r50", None, saved(classifier("resnet101"), tmp_path / "net.pth"))
    assert len(caught.value.unexpected) == 17 * (3 + 3 * 4)
    assert not caught.value.missing


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no weights")
    for weights, line in (
        ("cut.pth", "not a whole torch checkpoint"),
        ("empty.pth", "not a whole torch checkpoint"),
        ("notes.txt", "unknown kind of checkpoint"),
        ("none.pth", "no such weights"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            load_network("r50", None, str(tmp_path / weights))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"timm has no weights resnet50\.nothing; its tags of resnet50: "):
        load_network("r50", None, "timm:nothing")
    with pytest.raises(ValueError, match="timm has no weights for mvit-t"):
        load_network("mvit-t", None, "timm")


def test_fill_changes_nothing_when_it_refuses() -> None:
    backbone = build_backbone("r50")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(WeightsMismatchError):
        fill(backbone, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "half a file")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
