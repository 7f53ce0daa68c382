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
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.chain import Sizes
from segmeter.encoders.interface import EncoderOutput
from segmeter.encoders.parts.text_tower import TextTower
from segmeter.encoders.systems.maskclip import ImageTower, TowerSize
from segmeter.harness.models.spec import parse_model
from tests.helpers.parity_recipe import feature, load_recipe
from tests.helpers.places import DATA

VALUES = np.load(DATA / "panoptic_parity.npz")
# Of each tensor's standard deviation. float32 noise is up to 3e-5; the mildest mistake tried (offsets in
# another order) is off by 1e-2.
TOLERANCE = 1e-4
# A pixel at a hard threshold may fall to its other side on another machine, and move a query or two.
SHARE = 0.96
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


def features(channels: dict[str, int], height: int = 64, width: int = 96) -> dict[str, Tensor]:
    return {
        name: feature(index, (2, channel, -(-height // stride), -(-width // stride)))
        for index, stride, (name, channel) in zip((2, 3, 4, 5), (4, 8, 16, 32), channels.items(), strict=True)
    }


def run(text: str, size: tuple[int, int] = (64, 96)) -> tuple[object, object]:
    """What a model's encoder and decoder give, from the recipe's weights."""
    spec = parse_model(text, num_classes=19)
    built: dict[str, nn.Module] = {"backbone": Backbone(spec.backbone)}
    value: object = features(CHANNELS[spec.backbone], *size)
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
        # Corners are aligned where a width is odd.
        ("kmax", "kmax@r50", THREE),
    ],
)
def test_encoder_and_decoder_agree_with_the_official_modules(
    case: str, text: str, names: tuple[str, ...]
) -> None:
    outputs = maps(*names)(*run(text, (65, 97) if case == "kmax" else (64, 96)))
    expected = {key.split("/")[1] for key in VALUES if key.startswith(f"{case}/")}
    assert expected == set(outputs)
    compare(case, outputs)


def compare(case: str, outputs: dict[str, Tensor]) -> None:
    for name, tensor in outputs.items():
        key = f"{case}/{name}"
        assert tensor.shape == tuple(VALUES[f"{key}/shape"]), name
        flat = tensor.numpy().ravel()
        places = np.linspace(0, flat.size - 1, min(500, flat.size)).astype(np.int64)
        errors = np.sort(np.abs(flat[places] - VALUES[key]) / VALUES[f"{key}/std"])
        error = errors[int(SHARE * (len(errors) - 1))]
        assert error < TOLERANCE, f"{name}: {error:.2e} of its standard deviation"


@pytest.mark.parametrize("case", ["plain", "a", "b"])
def test_eco_m2f_takes_the_official_exit(case: str) -> None:
    (stage,) = (s for s in parse_model("eco-m2f@swin-t:exit=gate").stages if s.name == "encoder")
    encoder = stage.build({"backbone": Backbone("swin-t")}).eval()
    load_recipe(encoder, salt="" if case == "plain" else case)
    layers: list[nn.Module] = []
    for layer in encoder.get_submodule("transformer.encoder.layers").children():
        layer.register_forward_hook(lambda module, inputs, output: layers.append(module))
    inputs = {name: value[:1] for name, value in features(CHANNELS["swin-t"]).items()}
    with torch.no_grad():
        output = encoder(inputs)
    assert len(layers) == VALUES[f"eco_{case}/exit"]
    found = {"mask_features": output.mask_features, **dict(zip(THREE, output.multi_scale, strict=True))}
    compare(f"eco_{case}", found)


def test_an_image_leaves_eco_m2f_where_it_would_alone() -> None:
    (stage,) = (s for s in parse_model("eco-m2f@swin-t:exit=gate").stages if s.name == "encoder")
    encoder = stage.build({"backbone": Backbone("swin-t")}).eval()
    load_recipe(encoder)
    gate = encoder.get_submodule("transformer.encoder.gt")
    # Two images that leave at 2 and at 5.
    gate.forward = lambda tokens: torch.eye(5)[[0, 3]][-len(tokens) :]  # type: ignore[method-assign]
    both = features(CHANNELS["swin-t"])
    with torch.no_grad():
        together = encoder(both)
        last = encoder({name: value[1:] for name, value in both.items()})
        gate.forward = lambda tokens: torch.eye(5)[[0]]  # type: ignore[method-assign]
        first = encoder({name: value[:1] for name, value in both.items()})
    alone = torch.cat((first.mask_features, last.mask_features))
    torch.testing.assert_close(together.mask_features, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(first.mask_features, last.mask_features)


def test_fc_clip_agrees_with_the_official_decoder_and_ensemble() -> None:
    spec = parse_model("fc-clip:names=60", num_classes=19)
    stages = {stage.name: stage for stage in spec.stages}
    decoder = stages["decoder"].build({}).eval()
    load_recipe(decoder, variant="full")
    decoder.get_buffer("text").copy_(F.normalize(feature(77, (60, 768)), dim=-1))
    maps = [feature(10 + index, (1, 256, 64 // s, 96 // s)) for index, s in enumerate((32, 16, 8))]
    encoded = EncoderOutput(mask_features=feature(20, (1, 256, 16, 24)), multi_scale=maps)
    dense = feature(21, (1, 1536, 2, 3))
    sizes = Sizes((64, 96), (64, 96), (50, 70))
    with torch.no_grad():
        decoded, passed_on = stages["decoder"].call(decoder, (encoded, dense), sizes)
    logits = {"class_logits": decoded.class_logits, "mask_logits": decoded.mask_logits}
    compare("fcclip_decoder", logits)
    # The temperature and the norm stand elsewhere officially: each has the name that it has there.
    postprocess = stages["postprocess"].build({}).eval()
    load_recipe(postprocess, lambda name: name.removeprefix("head."), variant="full")
    postprocess.get_buffer("seen").copy_(torch.arange(19) % 2 == 1)
    with torch.no_grad():
        output = stages["postprocess"].call(postprocess, (decoded, passed_on), sizes)
    compare("fcclip_postprocess", {"class_logits": output.class_logits, "semantic": output.semantic})


def test_the_text_tower_agrees_with_transformers() -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        hidden_act="gelu",
        eos_token_id=49407,
    )
    theirs = CLIPTextModelWithProjection(config).eval()
    ours = TextTower(layers=2).eval()
    load_recipe(ours, variant="full")
    weights = ours.state_dict()
    renamed = {
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
        "text_model.final_layer_norm.weight": weights["ln_final.weight"],
        "text_model.final_layer_norm.bias": weights["ln_final.bias"],
        "text_projection.weight": weights["text_projection"].t(),
    }
    for layer in range(2):
        block, place = f"transformer.resblocks.{layer}.", f"text_model.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            fused = weights[f"{block}attn.in_proj_{kind}"].chunk(3)
            for part, third in zip("qkv", fused, strict=True):
                renamed[f"{place}self_attn.{part}_proj.{kind}"] = third
            renamed[f"{place}self_attn.out_proj.{kind}"] = weights[f"{block}attn.out_proj.{kind}"]
            for index in (1, 2):
                renamed[f"{place}layer_norm{index}.{kind}"] = weights[f"{block}ln_{index}.{kind}"]
            renamed[f"{place}mlp.fc1.{kind}"] = weights[f"{block}mlp.c_fc.{kind}"]
            renamed[f"{place}mlp.fc2.{kind}"] = weights[f"{block}mlp.c_proj.{kind}"]
    theirs.load_state_dict(renamed)
    ids = torch.randint(1, 49406, (3, 77), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate((9, 40, 76)):
        ids[row, end], ids[row, end + 1 :] = 49407, 0
    with torch.no_grad():
        expected = theirs(input_ids=ids).text_embeds
        found = ours(ids)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_maskclips_tower_agrees_with_the_official_one() -> None:
    # Six layers of 64 channels: one update of the masks.
    tower = ImageTower(TowerSize(resolution=56, width=64, layers=6, heads=4, embedding=32)).eval()
    load_recipe(tower, variant="full")
    masks = F.interpolate(feature(31, (2, 100, 8, 12)), size=(56, 56), mode="bilinear")
    with torch.no_grad():
        embeddings, updated = tower(feature(30, (2, 3, 56, 56)), masks)
    compare("maskclip_tower", {"embeddings": embeddings, "masks": updated})


def test_rap_sams_head_agrees_with_the_official_one() -> None:
    (stage,) = (s for s in parse_model("rap-sam@r50", num_classes=19).stages if s.name == "decoder")
    head = stage.build({}).eval()
    load_recipe(head, variant="full")
    head.get_buffer("text")[:, :-1] = F.normalize(feature(40, (768, 19)), dim=0)
    with torch.no_grad():
        decoded = stage.call(head, feature(45, (2, 256, 16, 24)), SIZES)
    logits = {"class_logits": decoded.class_logits, "mask_logits": decoded.mask_logits}
    compare("rap_sam", logits)
