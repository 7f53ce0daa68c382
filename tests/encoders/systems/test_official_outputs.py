"""The systems' encoders and decoders give what the authors' modules give, from the same weights.

``tests/data/panoptic_parity.npz`` holds 500 sampled values of each output of the official modules, run on
features of two images of 64x96 pixels with the weights of ``parity_recipe`` ("full"); where the authors' code
needs detectron2's layers or a compiled modulated deformable convolution, thin stand-ins and torchvision's
operator took their places.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Sizes
from segmeter.harness.models.spec import parse_model
from tests.helpers.parity_recipe import feature, load_recipe
from tests.helpers.places import DATA

VALUES = np.load(DATA / "panoptic_parity.npz")
# Of each tensor's standard deviation. float32 noise is up to 3e-5; the mildest mistake tried (offsets in
# another order) is off by 1e-2.
TOLERANCE = 1e-4
SIZES = Sizes((64, 96), (64, 96), (64, 96))
CHANNELS = {
    "r50": {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048},
    "swin-t": {"res2": 96, "res3": 192, "res4": 384, "res5": 768},
}


class Backbone(nn.Module):
    """Stands for a backbone: the channels are all that is looked at."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.channels = CHANNELS[name]


def features(channels: dict[str, int]) -> dict[str, Tensor]:
    return {
        name: feature(index, (2, width, 64 // stride, 96 // stride))
        for index, stride, (name, width) in zip((2, 3, 4, 5), (4, 8, 16, 32), channels.items(), strict=True)
    }


def run(text: str, num_classes: int = 19) -> tuple[object, object]:
    """What a model's encoder and decoder give, from the recipe's weights."""
    spec = parse_model(text, num_classes=num_classes)
    built: dict[str, nn.Module] = {"backbone": Backbone(spec.backbone)}
    value: object = features(CHANNELS[spec.backbone])
    given = []
    for stage in spec.stages:
        if stage.name in ("encoder", "decoder"):
            module = stage.build({name: built[name] for name in stage.needs}).eval()
            load_recipe(module, variant="full")
            with torch.no_grad():
                value = stage.call(module, value, SIZES)
            given.append(value)
    return given[0], given[1]


def maps(*names: str) -> Callable[[object, object], dict[str, Tensor]]:
    """The outputs of an encoder with these maps, and of a mask decoder."""

    def named(encoded: object, decoded: object) -> dict[str, Tensor]:
        if isinstance(encoded, Tensor):
            found = {"mask_features": encoded}
        else:
            multi_scale = dict(zip(names, encoded.multi_scale, strict=False))  # type: ignore[attr-defined]
            found = {"mask_features": encoded.mask_features, **multi_scale}  # type: ignore[attr-defined]
        logits = ("class_logits", "mask_logits")
        return {**found, **{name: getattr(decoded, name) for name in logits}}

    return named


THREE = ("stride_32", "stride_16", "stride_8")


@pytest.mark.parametrize(
    ("case", "text", "names"),
    [
        ("maskformer_r50", "maskformer@r50", ("stride_32",)),
        ("maskformer_swin", "maskformer@swin-t", ()),
        ("pem", "pem@r50", THREE),
        ("yoso_fcs1", "yoso@r50", ()),
        ("yoso_fcs3", "yoso@r50:fcs=3", ()),
    ],
)
def test_encoder_and_decoder_agree_with_the_official_modules(
    case: str, text: str, names: tuple[str, ...]
) -> None:
    outputs = maps(*names)(*run(text))
    expected = {key.split("/")[1] for key in VALUES if key.startswith(f"{case}/")}
    assert expected == set(outputs)
    for name, tensor in outputs.items():
        key = f"{case}/{name}"
        assert tensor.shape == tuple(VALUES[f"{key}/shape"]), name
        flat = tensor.numpy().ravel()
        places = np.linspace(0, flat.size - 1, min(500, flat.size)).astype(np.int64)
        error = np.abs(flat[places] - VALUES[key]).max() / VALUES[f"{key}/std"]
        assert error < TOLERANCE, f"{name}: {error:.2e} of its standard deviation"
