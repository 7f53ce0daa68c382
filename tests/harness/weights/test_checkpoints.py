"""Published checkpoints: names, recognition, agreement with the official outputs, and refusals."""

import json
import math
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segmeter.encoders.images import normalise, pad_to_multiple
from segmeter.encoders.segmenter.model import build_masked_model
from segmeter.harness.models.spec import model_spec, parse_model
from segmeter.harness.weights.checkpoint import read_checkpoint
from segmeter.harness.weights.load import CheckpointMismatchError, convert, load_model
from segmeter.harness.weights.names import our_name
from tests.helpers.parity_recipe import image, weight
from tests.helpers.places import DATA


def official_entries(model: nn.Module, ours_of: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a model of ours, by inverting the mapping over its official names."""
    shapes = {name: tuple(entry.shape) for name, entry in model.state_dict().items()}
    return {official: shapes[ours] for official, ours in ours_of.items()}


def r50_names() -> list[str]:
    """Official names of R50's entries, written from the design: blocks 3, 4, 6, 3."""
    norm = ("weight", "bias", "running_mean", "running_var")
    names = ["stem.conv1.weight", *(f"stem.conv1.norm.{part}" for part in norm)]
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            convs = ["conv1", "conv2", "conv3", *(["shortcut"] if block == 0 else [])]
            for conv in convs:
                prefix = f"res{stage}.{block}.{conv}"
                names += [f"{prefix}.weight", *(f"{prefix}.norm.{part}" for part in norm)]
    return [f"backbone.{name}" for name in names]


def swin_names(depths: tuple[int, ...]) -> list[str]:
    """Official names of a Swin's entries."""
    both = ("weight", "bias")
    names = [f"patch_embed.{part}.{end}" for part in ("proj", "norm") for end in both]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}"
            names.append(f"{prefix}.attn.relative_position_bias_table")
            parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
            names += [f"{prefix}.{part}.{end}" for part in parts for end in both]
        if stage < 3:
            names += [
                f"layers.{stage}.downsample.{p}" for p in ("reduction.weight", "norm.weight", "norm.bias")
            ]
        names += [f"norm{stage}.{end}" for end in both]
    return [f"backbone.{name}" for name in names]


def official_shapes(spec_text: str, classes: int = 133) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of a whole model in detectron2's naming."""
    spec = parse_model(spec_text, num_classes=classes)
    with torch.device("meta"):
        model = build_masked_model(
            spec.encoder, spec.backbone, classes, spec.num_queries, **dict(spec.options)
        )
    backbone = r50_names() if spec.backbone == "r50" else swin_names((2, 2, 6, 2))
    names = {name: our_name("detectron2", name) for name in backbone}
    for ours in model.state_dict():
        room, _, rest = ours.partition(".")
        if room != "backbone":
            head = "pixel_decoder" if room == "encoder" else "predictor"
            names[f"sem_seg_head.{head}.{rest}"] = ours
    return official_entries(model, names)


def official_weights(
    spec_text: str, variant: str = "full_spread", salt: str = "s45:"
) -> dict[str, np.ndarray]:
    shapes = official_shapes(spec_text)
    return {name: weight(name, shape, variant, salt) for name, shape in shapes.items()}


def write_pkl(path: Path, entries: dict[str, np.ndarray]) -> Path:
    path.write_bytes(
        pickle.dumps({"model": entries, "__author__": "the test", "matching_heuristics": True}, 2)
    )
    return path


def write_shapes(path: Path, shapes: dict[str, tuple[int, ...]], **beside: object) -> Path:
    """A file where only names and shapes matter: weights that share one number keep it small."""
    entries = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    torch.save({"model": entries, **beside} if beside else entries, path)
    return path


@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory) -> Path:
    """R50 M2F as the model zoo has it: detectron2's pickle, with the loss's class weights."""
    entries = official_weights("m2f@r50")
    # 557 entries and the loss's class weights are the 558 of the official state dict.
    assert len(entries) == 557
    entries["criterion.empty_weight"] = np.ones(134, np.float32)
    return write_pkl(tmp_path_factory.mktemp("zoo") / "model_final.pkl", entries)


@pytest.fixture(scope="module")
def zoo_model(zoo_file):
    return load_model(zoo_file)


# Whole official models: file of outputs, image seed and size, the recipe's salt. Each salt was picked so
# that no mask logit is within 8e-5 of the threshold: a bit that flips there changes a query's outputs.
OFFICIAL = {
    "m2f@r50": ("full_m2f_r50_spread", 11, (128, 192), "s45:"),
    "m2f@swin-t": ("full_m2f_swint", 12, (160, 96), "s11:"),
    "pro-scale@r50": ("full_proscale_333_r50", 13, (128, 160), "s9:"),
    "pro-scale@swin-t:stages=1,1,3": ("full_proscale_113_swint", 15, (128, 224), "s6:"),
}


def check_parity(model: nn.Module, text: str) -> None:
    """Against the official model's class and mask logits, sampled as test_full_model.py says.

    The three that are not described there were run in the same way, from abhishekaich27/proscale-pytorch
    @2e9cf4c (which holds Mask2Former's modules too) with detectron2's main branch on torch 2.15.
    """
    file, seed, size, _ = OFFICIAL[text]
    images = pad_to_multiple(normalise(image(seed, *size)))[None]
    with torch.no_grad():
        encoded = model.encoder(model.backbone(images))
        output = model.decoder(encoded.multi_scale, encoded.mask_features)
    expected = np.load(DATA / f"{file}.npz")
    # The official code's own float32 noise is 5e-6 and 3.4e-5; other CPUs sum in other orders.
    for name, ours, tolerance in (
        ("pred_logits", output.class_logits, 5e-5),
        ("pred_masks", output.mask_logits, 3e-4),
    ):
        actual = ours.flatten()[torch.from_numpy(expected[f"{name}_index"])]
        assert (actual - torch.from_numpy(expected[f"{name}_value"])).abs().max() <= tolerance


@pytest.mark.parametrize("text", [text for text in OFFICIAL if text != "m2f@r50"])
def test_a_file_in_official_names_gives_the_official_outputs(text, tmp_path):
    entries = official_weights(text, salt=OFFICIAL[text][3])
    path = tmp_path / "model_final.pth"
    torch.save({"model": {name: torch.from_numpy(array) for name, array in entries.items()}}, path)
    model, spec, report = load_model(path)
    assert (spec.text, report.matched) == (text, len(entries))
    check_parity(model, text)


def test_a_model_zoo_file_gives_the_official_outputs(zoo_model):
    model, spec, report = zoo_model
    assert (spec.text, spec.num_classes, spec.num_queries) == ("m2f@r50", 133, 100)
    assert (report.matched, report.ignored) == (557, ["criterion.empty_weight"])
    check_parity(model, "m2f@r50")


def test_a_converted_file_gives_the_same_model(zoo_file, zoo_model, tmp_path):
    target = tmp_path / "m2f.safetensors"
    spec, _ = convert(zoo_file, target)
    model, again, report = load_model(target)
    assert again == spec and report.is_whole
    found = model.state_dict()
    for name, entry in zoo_model[0].state_dict().items():
        assert torch.equal(entry, found[name]), name


@pytest.mark.parametrize(
    "text",
    [
        "m2f@swin-t",
        "m2f@swin-t:layers=3",
        "pro-scale@r50",
        "pro-scale@swin-t:stages=1,1,3",
        "pro-scale@r50:pixel_embedding=conv",
        "pro-scale@r50:recalibration=none",
        "pro-scale@r50:recalibration=conv",
    ],
)
def test_the_model_is_recognised_and_every_entry_is_used(text, tmp_path):
    shapes = official_shapes(text, classes=19)
    _, spec, report = load_model(write_shapes(tmp_path / "model.pth", shapes, iteration=7))
    assert spec.text == parse_model(text).text
    assert spec.num_classes == 19
    assert report.matched == len(shapes)


def foreign_backbone(name: str, ours: str) -> str:
    """An entry of our backbone, without its prefix, as other codes call it."""
    rest = ours.removeprefix("trunk.")
    if name == "detectron2's MViT":
        rest = re.sub(r"^norms\.res(\d)", r"scale\1_norm", rest)
        return re.sub(r"^patch_embed", "patch_embed.proj", rest)
    if name == "timm's Swin":  # layers.1.downsample: the merging of patches opens a stage
        rest = re.sub(r"^norms\.res(\d)", lambda found: f"norm{int(found[1]) - 2}", rest)
        return re.sub(r"^layers_", "layers.", rest)
    return rest  # torchvision's ResNet is ours


@pytest.mark.parametrize(
    ("text", "naming"),
    [
        ("m2f@mvit-t", "detectron2's MViT"),
        ("pro-scale@swin-t", "timm's Swin"),
        ("rt-m2f@r50", "torchvision's ResNet"),
        ("rt-m2f@mvit-t", "detectron2's MViT"),
    ],
)
def test_other_names_are_recognised_and_every_entry_is_used(text, naming, tmp_path):
    spec = parse_model(text, num_classes=19)
    with torch.device("meta"):
        model = build_masked_model(spec.encoder, spec.backbone, 19, spec.num_queries, **dict(spec.options))
    rooms = {"encoder": "sem_seg_head.pixel_decoder.", "decoder": "sem_seg_head.predictor."}
    entries = {}
    for name, entry in model.state_dict().items():
        room, _, rest = name.partition(".")
        foreign = f"backbone.{foreign_backbone(naming, rest)}" if room == "backbone" else rooms[room] + rest
        entries[foreign] = tuple(entry.shape)
    _, found, report = load_model(write_shapes(tmp_path / "model.pth", entries))
    assert (found.text, found.num_classes) == (spec.text, 19)
    assert report.matched + len(report.ignored) == len(entries)
    assert all(name.endswith("num_batches_tracked") for name in report.ignored)


@pytest.mark.parametrize(
    "gone",
    [
        "backbone.res4.5.conv1.weight",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.2.self_attn.sampling_offsets.bias",
        "sem_seg_head.pixel_decoder.layer_1.weight",
        "sem_seg_head.predictor.query_feat.weight",
        "sem_seg_head.predictor.class_embed.weight",
    ],
)
def test_an_entry_that_the_model_is_recognised_by_is_listed_too_when_missing(gone, tmp_path):
    shapes = official_shapes("m2f@r50")
    del shapes[gone]
    path = write_shapes(tmp_path / "model.pth", shapes)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_model(path)
    assert caught.value.report.lines() == [f"missing     {our_name('detectron2', gone)}"]


def test_every_entry_lands_in_its_place(tmp_path):
    """Each weight of a Swin-T PRO-SCALE has numbers of its own, and is found under our name, in order."""
    entries = {}
    for number, (name, shape) in enumerate(official_shapes("pro-scale@swin-t").items()):
        # No two numbers of an entry are equal, and no two entries begin alike.
        entries[name] = (torch.arange(float(math.prod(shape))) + number).view(shape)
    torch.save(entries, tmp_path / "model.pth")
    model, _, _ = load_model(tmp_path / "model.pth")
    ours = model.state_dict()
    assert len(entries) == len(ours)
    for name, expected in entries.items():
        assert torch.equal(ours[our_name("detectron2", name)], expected), name


def test_every_entry_that_does_not_fit_is_listed(tmp_path):
    shapes = official_shapes("m2f@r50")
    del shapes["sem_seg_head.predictor.decoder_norm.bias"]
    shapes["sem_seg_head.predictor.decoder_norm.extra"] = (3,)
    shapes["teacher.weight"] = (3,)
    shapes["backbone.stem.conv1.weight"] = (64, 3, 3, 3)
    path = write_shapes(tmp_path / "model.pth", shapes)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_model(path)
    report = caught.value.report
    assert report.missing == ["decoder.decoder_norm.bias"]
    assert sorted(report.unexpected) == ["sem_seg_head.predictor.decoder_norm.extra", "teacher.weight"]
    assert report.misshapen == [
        "backbone.stem.conv1.weight: (64, 3, 3, 3) in the file, (64, 3, 7, 7) in the model"
    ]
    assert len(report.lines()) == 4
    assert "1 missing, 1 misshapen" in str(caught.value)


def test_another_model_than_the_files_is_refused(tmp_path):
    path = write_shapes(tmp_path / "model.pth", official_shapes("m2f@r50"))
    with pytest.raises(CheckpointMismatchError, match="does not fit pro-scale@r50"):
        load_model(path, model_spec("pro-scale", "r50"))


def transformers_model(backbone: str):
    transformers = pytest.importorskip("transformers")
    if backbone == "swin-t":
        config = transformers.SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
            drop_path_rate=0.0, out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
    else:
        config = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    torch.manual_seed(0)
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=config, num_labels=19)
    ).eval()


@pytest.mark.parametrize("backbone", ["swin-t", "r50"])
def test_a_transformers_file_gives_transformers_outputs(backbone, tmp_path):
    theirs = transformers_model(backbone)
    with torch.no_grad():
        # Statistics and gains as of a trained net: at initialisation many are zeros and ones.
        for name, entry in theirs.state_dict().items():
            if entry.is_floating_point() and entry.ndim == 1:
                entry += 0.1 * torch.rand(entry.shape)
            if name.endswith("sampling_offsets.weight"):
                entry += 0.01 * torch.randn(entry.shape)
    theirs.save_pretrained(tmp_path)
    # In torch's own weights_only-readable form too, under version 5's names.
    torch.save(theirs.state_dict(), tmp_path / "version5.bin")
    # 448 makes every stage's map a whole number of Swin's windows, and larger than one: transformers does not
    # shift where a map is no larger than a window, detectron2 and segmeter do.
    side = 448 if backbone == "swin-t" else 224
    images = normalise(image(5, side, side))[None]
    with torch.no_grad():
        expected = theirs(pixel_values=images, pixel_mask=torch.ones(1, side, side, dtype=torch.long))
    model, again = (load_model(tmp_path / file) for file in ("model.safetensors", "version5.bin"))
    for _, spec, _ in (model, again):
        assert (spec.text, spec.num_classes) == (f"m2f@{backbone}", 19)
    # One model in both, to the bit.
    found = again[0].state_dict()
    assert all(torch.equal(entry, found[name]) for name, entry in model[0].state_dict().items())
    with torch.no_grad():
        encoded = model[0].encoder(model[0].backbone(images))
        output = model[0].decoder(encoded.multi_scale, encoded.mask_features)
    for ours, reference in (
        (output.class_logits, expected.class_queries_logits),
        (output.mask_logits, expected.masks_queries_logits),
    ):
        # Two float32 programs of one function: 1e-3 of the output's scale, as attention masks of a logit at 0
        # may flip a query.
        assert (ours - reference).abs().max() <= 1e-3 * reference.abs().max()


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_by_name_and_runs_nothing(tmp_path, suffix, legacy):
    marker, path = tmp_path / "it_ran", tmp_path / f"model{suffix}"
    content = {"model": {"sem_seg_head.a": torch.zeros(2)}, "hook": Calls(os.system, f"touch {marker}")}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {}, "hook": content["hook"]}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=rf"refused.*{os.system.__module__}\.system"):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_nested_torch_load_is_refused(tmp_path):
    marker, path = tmp_path / "it_ran", tmp_path / "model.pth"
    inner = pickle.dumps(Calls(os.system, f"touch {marker}"))
    torch.save({"model": Calls(torch.storage._load_from_bytes, inner)}, path)
    with pytest.raises(ValueError, match=r"torch\.storage\._load_from_bytes"):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    view = Calls(
        torch._utils._rebuild_tensor_v2, torch.zeros(2).untyped_storage(), 0, (10**6,), (1,), False, {}
    )
    torch.save({"model": {"sem_seg_head.a": view}}, path)
    with pytest.raises(ValueError, match=r"not a whole torch checkpoint|refused"):
        read_checkpoint(path)


def test_a_view_that_shows_one_number_a_billion_times_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"sem_seg_head.a": torch.zeros(()).expand(10**6, 10**6)}, path)
    with pytest.raises(ValueError, match=r"a bomb of .* bytes that claims 4,000,000,000,000 bytes"):
        read_checkpoint(path)


def test_one_array_stored_once_and_shown_often_is_refused(tmp_path):
    # The memo of a pickle holds 1 MB once; 10,000 names for it would be 10 GB of tensors.
    array = np.zeros(2**17)
    path = write_pkl(tmp_path / "model.pkl", {f"sem_seg_head.{number}": array for number in range(10_000)})
    with pytest.raises(ValueError, match="a bomb of"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [10**13, 2**62])
def test_memory_that_a_file_asks_for_is_not_given(tmp_path, size):
    path = tmp_path / "model.pth"
    torch.save({"sem_seg_head.a": Calls(bytearray, size)}, path)
    with pytest.raises(ValueError, match=r"not a whole torch checkpoint|refused"):
        read_checkpoint(path)


def test_entries_that_are_no_numbers_are_told(tmp_path):
    entries = {"sem_seg_head.predictor.class_embed.weight": np.zeros((20, 256), np.float32)}
    entries["sem_seg_head.note"] = "text"
    entries["sem_seg_head.names"] = np.array(["a"])
    path = tmp_path / "model.pkl"
    with pytest.raises(ValueError, match="only numbers are read"):
        read_checkpoint(write_pkl(path, entries))
    del entries["sem_seg_head.names"]
    assert read_checkpoint(write_pkl(path, entries)).ignored == ["sem_seg_head.note"]


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"zip bomb of .* that unpacks to 50,000,000"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pkl"])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 rubbish", b"\x80\x02"])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "half.pkl"
    content = write_pkl(path, {f"sem_seg_head.{number}": np.ones(999) for number in range(9)}).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a whole pickle"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "entries, reason",
    [
        ({"fc.weight": np.zeros(3)}, "holds no model that segmeter knows.*fc.weight"),
        (
            {"sem_seg_head.predictor.query_feat.weight": np.zeros((5, 256))},
            "has no decoder.class_embed.weight",
        ),
        ([1, 2], "must be a dict of weights"),
    ],
)
def test_files_without_a_model_are_refused(tmp_path, entries, reason):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(entries))
    with pytest.raises(ValueError, match=reason):
        load_model(path)


@pytest.mark.parametrize("name", ["model.txt", "missing.pth"])
def test_no_checkpoint_at_all(tmp_path, name):
    (tmp_path / "model.txt").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"unknown kind of checkpoint|no such checkpoint"):
        read_checkpoint(tmp_path / name)
