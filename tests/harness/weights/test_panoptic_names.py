"""Checkpoints of MaskFormer's, PEM's, YOSO's and ECO-M2F's own code load, convert and load again.

``tests/data/panoptic_names.json`` lists names and shapes of the official encoders and decoders; the backbone
has detectron2's names.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segmeter.harness.models import parse_model, real_model
from segmeter.harness.weights import convert, load_model

PREFIXES = {
    "maskformer@r50": ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."),
    "pem@r50:decoder_layers=2:width=64": ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."),
    "yoso@r50:fcs=3": ("yoso_neck.", "yoso_head."),
    "eco-m2f@r50:exit=gate": ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."),
}


def official(name: str, prefixes: tuple[str, str]) -> str:
    """The authors' name of an entry of ours; torchvision's for the backbone."""
    encoder, decoder = prefixes
    name = name.replace("backbone.trunk.", "backbone.")
    return (
        name.replace("encoder.", encoder, 1)
        if name.startswith("encoder.")
        else (name.replace("decoder.", decoder, 1) if name.startswith("decoder.") else name)
    )


@pytest.mark.parametrize("text", PREFIXES)
def test_an_official_checkpoint_is_recognised_loaded_and_converted(text: str, tmp_path: Path) -> None:
    spec = parse_model(text, num_classes=7, num_queries=11)
    entries = {
        official(name, PREFIXES[text]): entry.contiguous()
        for name, entry in real_model(spec).state_dict().items()
    }
    if text.startswith("yoso"):
        entries["yoso_head.criterion.empty_weight"] = torch.ones(8)
    save_file(entries, tmp_path / "official.safetensors")
    loaded, found, report = load_model(tmp_path / "official.safetensors")
    assert found == spec and report.is_whole
    convert(tmp_path / "official.safetensors", tmp_path / "ours.safetensors")
    again, same, _ = load_model(tmp_path / "ours.safetensors")
    assert same == spec
    for name, entry in again.state_dict().items():
        torch.testing.assert_close(entry, loaded.state_dict()[name], rtol=0, atol=0)
        torch.testing.assert_close(entry, entries[official(name, PREFIXES[text])], rtol=0, atol=0)
