"""Checkpoints of Segmenter and SegFormer in the names of their authors and of libraries."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segmeter.harness.models import parse_model, real_model
from segmeter.harness.weights import load_model
from tests.helpers.reduction_recipe import fill


def test_segmenters_own_file_is_recognised_and_merges_with_algm(tmp_path: Path) -> None:
    model = real_model(parse_model("segmenter@vit-ti:num_classes=7:train_size=96"))
    fill(model)
    entries = {**model.state_dict(), "encoder.head.weight": torch.zeros(1000, 192)}
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": entries, "epoch": 3}, file)
    loaded, spec, report = load_model(file)
    assert spec.text == "segmenter@vit-ti:train_size=96"
    assert (spec.num_classes, report.is_whole) == (7, True)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    merging, spec, _ = load_model(file, parse_model("segmenter@vit-ti:reduction=algm"))
    assert dict(spec.options)["train_size"] == 96
    assert merging.encoder.reduction is not None


def test_cts_own_file_is_recognised_by_its_policy_network(tmp_path: Path) -> None:
    """Names as tue-mps/cts-segmenter saves them: ``policy_net`` beside encoder and decoder."""
    model = real_model(parse_model("segmenter@vit-ti:num_classes=60:train_size=480:reduction=cts:shared=90"))
    fill(model)
    ours = "encoder.reduction.policy."
    entries = {
        name.replace(f"{ours}network.", "policy_net.backbone.").replace(
            f"{ours}heads.0.", "policy_net.head."
        ): x
        for name, x in model.state_dict().items()
    }
    assert entries["policy_net.head.weight"].shape == (2, 320, 1, 1)
    entries["encoder.head.weight"] = torch.zeros(1000, 192)
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": entries, "optimizer": {"state": {}}, "n_cls": 60, "epoch": 3}, file)
    loaded, spec, report = load_model(file)
    assert set(spec.text.split(":")) == {"segmenter@vit-ti", "train_size=480", "reduction=cts", "shared=90"}
    assert (spec.num_classes, report.is_whole) == (60, True)
    images = torch.randn(1, 3, 480, 480, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.encoder(images).x, model.encoder(images).x)
    with pytest.raises(ValueError, match="holds weights of reduction=cts, not of reduction=tome"):
        load_model(file, parse_model("segmenter@vit-ti:reduction=tome"))


def nvlabs_names(entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our entries as NVlabs' file has them."""
    import re

    found = {"decode_head.conv_seg.weight": torch.zeros(7, 256, 1, 1)}
    for name, tensor in entries.items():
        stage = re.match(r"backbone\.layers\.(\d)\.(\d)(?:\.(\d+))?\.(.*)", name)
        if stage is None:
            found[name] = tensor
            continue
        number, part, _, _ = stage.groups()
        one = int(number) + 1
        if part == "0":
            rest = name.split(".", 4)[4].replace("projection", "proj")
            found[f"backbone.patch_embed{one}.{rest}"] = tensor
        elif part == "2":
            found[f"backbone.norm{one}.{name.split('.')[-1]}"] = tensor
        else:
            _, _, _, _, block, rest = name.split(".", 5)
            at = f"backbone.block{one}.{block}."
            if "in_proj" in rest:
                kind = rest.rpartition("_")[2]
                q, k, v = tensor.chunk(3)
                found |= {f"{at}attn.q.{kind}": q, f"{at}attn.kv.{kind}": torch.cat([k, v])}
            elif "ffn" in rest:
                _, _, layer, kind = rest.split(".")
                ours = {"0": "mlp.fc1", "1": "mlp.dwconv.dwconv", "4": "mlp.fc2"}[layer]
                flat = tensor.flatten(1) if layer != "1" and kind == "weight" else tensor
                found[f"{at}{ours}.{kind}"] = flat
            else:
                found[at + rest.replace("attn.attn.out_proj", "attn.proj")] = tensor
    return found


def test_nvlabs_segformer(tmp_path: Path) -> None:
    model = real_model(parse_model("segformer@mit-b0:num_classes=7"))
    fill(model)
    file = tmp_path / "segformer.pth"
    torch.save({"state_dict": nvlabs_names(model.state_dict())}, file)
    loaded, spec, report = load_model(file)
    assert (spec.text, spec.num_classes, report.is_whole) == ("segformer@mit-b0", 7, True)
    assert "decode_head.conv_seg.weight" in report.ignored
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_mmseg_segformer_of_another_width(tmp_path: Path) -> None:
    text = "segformer@mit-b0:head=mmseg:head_channels=64"
    model = real_model(parse_model(f"{text}:num_classes=7"))
    save_file({k: v for k, v in model.state_dict().items() if "tracked" not in k}, tmp_path / "m.safetensors")
    assert set(load_model(tmp_path / "m.safetensors")[1].text.split(":")) == set(text.split(":"))


def test_transformers_segformer(tmp_path: Path) -> None:
    """Names and outputs are those of transformers' own module with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=7)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    fill(theirs, factor=3)
    file = tmp_path / "model.safetensors"
    entries = theirs.state_dict()
    # In the names that the hub's files have, whatever this version calls them.
    if "segformer.encoder.block.0.0.layer_norm_1.weight" not in entries:
        theirs.save_pretrained(tmp_path)
    else:
        save_file({name: entry.contiguous() for name, entry in entries.items()}, file)
    loaded, spec, report = load_model(file)
    assert (spec.text, spec.num_classes, report.is_whole) == ("segformer@mit-b0", 7, True)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = loaded.decode_head(loaded.backbone(images))
        expected = theirs(images).logits
    # transformers' norms add 1e-5 to the variance where mmseg's add 1e-6.
    assert torch.allclose(ours, expected, atol=2e-3 * expected.abs().max().item())
