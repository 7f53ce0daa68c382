"""The detectors' encoders, selections and decoders give what the authors' modules give from the same weights.

``tests/data/detection_parity.npz`` holds 500 sampled values of each output of the official modules (DINO,
Lite-DETR, MaskDINO, RT-DETR at the commits of ``detection_systems.json``), run on features of two images of
64x96 pixels with the weights of ``parity_recipe`` ("full"), 19 classes and 40 queries; where the authors'
code needs detectron2's layers or the compiled op, thin stand-ins and the authors' own PyTorch form took their
places.
"""

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.table import build_backbone
from segmeter.encoders.chain import Sizes
from segmeter.harness.models.spec import parse_model
from tests.encoders.systems.test_official_outputs import features
from tests.helpers.parity_recipe import feature, load_recipe
from tests.helpers.places import DATA

VALUES = np.load(DATA / "detection_parity.npz")
# Of each tensor's standard deviation, as for the other systems.
TOLERANCE = 1e-4
SIZES = Sizes((64, 96), (64, 96), (64, 96))
STRIDES = ("stride_64", "stride_32", "stride_16", "stride_8", "stride_4")
CHANNELS = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}


class Backbone(nn.Module):
    """Stands for a ResNet-50: the channels are all that is looked at."""

    channels = CHANNELS


def dino_name(name: str) -> str:
    """Our names of selection and decoder as DINO has them: heads that layers share are written once."""
    name = re.sub(r"^(bbox_embed|class_embed)\.", r"\1.0.", name)
    return re.sub(r"^(decoder\.|enc_out|tgt_embed)", r"transformer.\1", name)


def maskdino_name(name: str) -> str:
    name = name.replace("decoder.norm.", "decoder_norm.")
    return re.sub(r"^bbox_embed\.", "_bbox_embed.", name)


def same(name: str) -> str:
    return name


NAMES = {"dino": dino_name, "lite": dino_name, "maskdino": maskdino_name, "rt": same}


def run(case: str, text: str) -> dict[str, Tensor]:
    """Outputs of a model's encoder and of its last stage before post-processing."""
    spec = parse_model(f"{text}:num_queries=40", num_classes=19)
    built: dict[str, nn.Module] = {"backbone": Backbone()}
    value: object = features(CHANNELS)
    found: dict[str, Tensor] = {}
    for stage in spec.stages:
        if stage.name in ("backbone", "postprocess"):
            continue
        module = stage.build({name: built[name] for name in stage.needs}).eval()
        official = same if stage.name == "encoder" else NAMES[re.split(r"[_-]", case)[0]]
        load_recipe(module, official, variant="full")
        with torch.no_grad():
            value = stage.call(module, value, SIZES)
        if stage.name == "encoder":
            found |= named(value)
    return found | {
        name: getattr(value, name)
        for name in ("class_logits", "mask_logits", "boxes")
        if hasattr(value, name)
    }


def named(encoded: object) -> dict[str, Tensor]:
    """An encoder's outputs by stride."""
    found: dict[str, Tensor] = {}
    for level in encoded.multi_scale:  # type: ignore[attr-defined]
        stride = next(s for s in (64, 32, 16, 8, 4) if level.shape[-2:] == (-(-64 // s), -(-96 // s)))
        found[f"stride_{stride}"] = level
    if hasattr(encoded, "mask_features"):
        found["mask_features"] = encoded.mask_features
    return found


def check(case: str, outputs: Mapping[str, Tensor]) -> None:
    expected = {key.split("/")[1] for key in VALUES if key.startswith(f"{case}/")}
    assert expected <= set(outputs)
    for name in expected:
        key, tensor = f"{case}/{name}", outputs[name]
        assert tensor.shape == tuple(VALUES[f"{key}/shape"]), name
        flat = tensor.numpy().ravel()
        places = np.linspace(0, flat.size - 1, min(500, flat.size)).astype(np.int64)
        error = np.abs(flat[places] - VALUES[key]).max() / VALUES[f"{key}/std"]
        assert error < TOLERANCE, f"{name}: {error:.2e} of its standard deviation"


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("dino_4", "dino@r50"),
        ("dino_5", "dino@r50:levels=5"),
        ("lite_h3", "lite-dino@r50"),
        (
            "lite_h2_plain",
            "lite-dino@r50:expansions=1:high_level_layers=5:high_level_scales=2:key_aware=false",
        ),
        ("maskdino_panoptic", "maskdino@r50"),
        ("maskdino_instance", "maskdino@r50:task=instance"),
        ("maskdino_3levels", "maskdino@r50:levels=3"),
        ("rt_detr", "rt-detr@r50vd"),
    ],
)
def test_encoder_selection_and_decoder_agree_with_the_official_modules(case: str, text: str) -> None:
    check(case, run(case, text))


def test_the_pooled_resnet_agrees_with_the_official_one() -> None:
    """timm's ResNet-50-d under the names of RT-DETR's PResNet."""

    def official(name: str) -> str | None:
        name = name.removeprefix("trunk.")
        stem = {"0": "conv1_1.conv", "1": "conv1_1.norm", "3": "conv1_2.conv", "4": "conv1_2.norm"}
        name = re.sub(r"^conv1\.(\d)\.", lambda m: f"conv1.{stem.get(m[1], 'conv1_3.conv')}.", name)
        name = re.sub(r"^bn1\.", "conv1.conv1_3.norm.", name)
        stage = re.match(r"layer(\d)\.(\d+)\.(.*)", name)
        if stage is None:
            return name
        rest = re.sub(r"^(conv|bn)(\d)\.", _branch, stage[3])
        inner = "short.conv" if stage[1] != "1" else "short"
        rest = re.sub(r"^downsample\.1\.", f"{inner}.conv.", rest)
        rest = re.sub(r"^downsample\.2\.", f"{inner}.norm.", rest)
        return f"res_layers.{int(stage[1]) - 1}.blocks.{stage[2]}.{rest}"

    backbone = build_backbone("r50vd").eval()
    load_recipe(backbone, official, variant="full")
    with torch.no_grad():
        check("r50vd", backbone(feature(9, (1, 3, 64, 96))))


def _branch(found: re.Match[str]) -> str:
    return f"branch2{'abc'[int(found[2]) - 1]}.{'conv' if found[1] == 'conv' else 'norm'}."
