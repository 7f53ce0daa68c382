"""Whole models: agreement with the official Mask2Former, parameters, sizes.

``tests/data/full_m2f_r50*.npz`` hold 3,000 values each of the official R50 M2F's ``pred_logits``
(1, 100, 134) and ``pred_masks`` (1, 100, 32, 48), run in float32 on the CPU with the weights and
the image of ``tests/helpers/parity_recipe.py`` (facebookresearch/Mask2Former @9b0651c, detectron2 0.6,
torch 2.12.1). For each output they hold a sorted sample of flat indices and the values there::

    rng = np.random.default_rng(0)
    for name, output in (("pred_logits", pred_logits), ("pred_masks", pred_masks)):
        index = np.sort(rng.choice(output.size, 3000, replace=False)).astype(np.int32)
        arrays[f"{name}_index"], arrays[f"{name}_value"] = index, output.ravel()[index]
    np.savez_compressed(path, **arrays)
"""

import re

import numpy as np
import pytest
import torch

from segmeter.encoders.chain import Model
from segmeter.encoders.images import PIXEL_MEAN, PIXEL_STD, normalise, pad_to_multiple
from segmeter.encoders.segmenter.model import build_masked_model
from tests.helpers.parity_recipe import image, load_recipe
from tests.helpers.places import DATA


def official_name(name: str) -> str | None:
    """Our name of an R50 M2F entry -> the official one, e.g. of timm's ``layer1.0.bn2.bias``."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return f"sem_seg_head.pixel_decoder.{rest}"
    if part == "decoder":
        return f"sem_seg_head.predictor.{rest}"
    rest = rest.removeprefix("trunk.")
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    rest = re.sub(r"\bbn(\d)", r"conv\1.norm", rest)
    if rest.startswith("conv1"):
        return f"backbone.stem.{rest}"
    return re.sub(r"^layer(\d)", lambda stage: f"backbone.res{int(stage[1]) + 1}", rest)


@pytest.fixture(scope="module")
def r50_m2f() -> Model:
    return build_masked_model("m2f", "r50", num_classes=133).eval()


# "full": all weights scaled by their fan-in; the 100 queries nearly collapse to one output and
# almost nothing is masked. "full_spread": queries differ, and most attention masks are about half
# blocked, 21 queries fully in the first layer, so that each known mistake in the decoder moves the
# class logits by 0.2 or more. Its salt was picked so that no logit is within 1e-4 of the threshold.
@pytest.mark.parametrize(
    "case, variant, salt",
    [("full_m2f_r50", "full", ""), ("full_m2f_r50_spread", "full_spread", "s45:")],
)
def test_outputs_equal_the_official_ones(r50_m2f, case, variant, salt):
    used = load_recipe(r50_m2f, official_name, variant, salt)
    # The official state dict has 558 entries: these and the loss's class weights.
    assert len(set(used)) == 557
    images = pad_to_multiple(normalise(image(11, 128, 192)))[None]
    with torch.no_grad():
        encoded = r50_m2f.encoder(r50_m2f.backbone(images))
        output = r50_m2f.decoder(encoded.multi_scale, encoded.mask_features)
    expected = np.load(DATA / f"{case}.npz")
    # The official code's own float32 noise against float64 is up to 5e-6 and 3.4e-5 here; other
    # CPUs and torch versions order their sums in other ways.
    for name, ours, tolerance in (
        ("pred_logits", output.class_logits, 5e-5),
        ("pred_masks", output.mask_logits, 3e-4),
    ):
        actual = ours.flatten()[torch.from_numpy(expected[f"{name}_index"])]
        error = (actual - torch.from_numpy(expected[f"{name}_value"])).abs().max()
        assert error <= tolerance, name


# Counted on the official modules with 19 classes; their R50 keeps its batch norms as buffers.
@pytest.mark.parametrize(
    "encoder, backbone, options, total, encoder_total",
    [
        ("m2f", "swin-t", {}, 47_405_966, 5_421_504),
        ("m2f", "r50", {}, 43_954_580, 6_035_904),
        ("pro-scale", "swin-t", {"stages": (3, 3, 3)}, 48_790_927, 6_806_465),
        ("pro-scale", "r50", {"stages": (1, 1, 1)}, 41_094_421, 3_175_745),
        ("m2f", "swin-l", {}, 215_506_312, 5_790_144),  # 200 queries by default
    ],
)
def test_parameters_equal_the_official_ones(encoder, backbone, options, total, encoder_total):
    with torch.device("meta"):
        model = build_masked_model(encoder, backbone, num_classes=19, **options)
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder_total
    assert sum(p.numel() for p in model.parameters()) == total


@pytest.mark.parametrize(
    "encoder, mask_stride", [("m2f", 4), ("lite-m2f", 4), ("pro-scale", 4), ("rt-m2f", 8)]
)
def test_every_encoder_makes_a_whole_model(encoder, mask_stride):
    with torch.device("meta"):
        model = build_masked_model(encoder, "r50", num_classes=19, num_queries=7).eval()
        decoded = []
        model.decoder.register_forward_hook(lambda module, args, out: decoded.append(out))
        output = model(torch.empty(2, 3, 96, 160), image_size=(90, 150), original_size=(45, 75))
    assert decoded[0].mask_logits.shape == (2, 7, 96 // mask_stride, 160 // mask_stride)
    assert output.semantic.shape == (2, 19, 45, 75)
    assert output.masks.shape == (2, 7, 45, 75)
    assert output.class_logits.shape == (2, 7, 20)


def test_sizes_default_to_the_padded_size(r50_m2f):
    photo = image(3, 50, 70)
    images = pad_to_multiple(normalise(photo))[None]
    with torch.no_grad():
        whole = r50_m2f(images)
        cut = r50_m2f(images, image_size=(50, 70), original_size=(50, 70))
    assert whole.semantic.shape == (1, 133, 64, 96)
    assert cut.semantic.shape == (1, 133, 50, 70)
    # A cut to the image that is not resized afterwards is the top left of the whole.
    assert torch.equal(cut.masks, whole.masks[..., :50, :70])
    assert torch.isfinite(whole.semantic).all()


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation_per_channel():
    photo = np.zeros((2, 3, 3), dtype=np.uint8)
    photo[1, 2] = (10, 20, 30)
    pixels = normalise(photo)
    assert pixels.shape == (3, 2, 3)
    for channel in range(3):
        mean, std = PIXEL_MEAN[channel], PIXEL_STD[channel]
        # float32 values of about 2: one rounding is 1e-7.
        assert pixels[channel, 0, 0].item() == pytest.approx(-mean / std, abs=1e-6)
        expected = (10 * (channel + 1) - mean) / std
        assert pixels[channel, 1, 2].item() == pytest.approx(expected, abs=1e-6)


def test_padding_is_zero_at_the_bottom_and_right():
    padded = pad_to_multiple(torch.ones(3, 33, 64))
    assert padded.shape == (3, 64, 64)
    assert padded[:, :33].eq(1).all()
    assert padded[:, 33:].eq(0).all()
    assert pad_to_multiple(torch.ones(2, 3, 5, 9), multiple=4).shape == (2, 3, 8, 12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: build_masked_model("m2f", "r50", 0), "num_classes must be .* at least 1, got 0"),
        (lambda: build_masked_model("m2f", "r50", 19, 0), "num_queries must be .* at least 1, got 0"),
        (lambda: build_masked_model("m2", "r50", 19), "did you mean 'm2f'"),
        (lambda: build_masked_model("m2f", "r5", 19), "did you mean 'r50'"),
        (lambda: build_masked_model("m2f", "r50", 19, stages=(1, 1, 1)), "m2f has no option 'stages'"),
        (lambda: normalise(np.zeros((4, 4), np.uint8)), r"image must be uint8 \(H, W, 3\)"),
        (lambda: normalise(np.zeros((4, 4, 3))), r"image must be uint8 \(H, W, 3\), got float64"),
        (lambda: pad_to_multiple(torch.ones(3, 4, 4), 0), "multiple must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 3, 1000, 2048), "multiples of 32, got 1000x2048; pad_to_multiple makes it 1024x2048"),
        ((1, 3, 0, 32), "multiples of 32, got 0x32"),
        ((3, 64, 64), r"images must be \(B, 3, H, W\), got \(3, 64, 64\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(r50_m2f, shape, message):
    with pytest.raises(ValueError, match=message):
        r50_m2f(torch.zeros(shape))
