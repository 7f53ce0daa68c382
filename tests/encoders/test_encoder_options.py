"""What the options do, and what bad ones are told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.encoders import ENCODERS, build_encoder, encoder_options
from segmeter.encoders.lite_m2f import interleave
from segmeter.encoders.parts.recalibration import Recalibration

CHANNELS = {"res2": 16, "res3": 16, "res4": 16, "res5": 16}


def features(batch: int = 1, height: int = 64, width: int = 96, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"res{i}": torch.randn(batch, 16, height >> i, width >> i, generator=generator) for i in range(2, 6)
    }


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ENCODERS)
def test_shapes_and_strides(name: str) -> None:
    encoder = build_encoder(name, CHANNELS).eval()
    output = encoder(features(batch=2))
    stride = 8 if name == "rt-m2f" else 4
    assert output.mask_features.shape == (2, 256, 64 // stride, 96 // stride)
    assert [tuple(m.shape) for m in output.multi_scale] == [(2, 256, 64 // s, 96 // s) for s in (32, 16, 8)]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(name: str) -> None:
    encoder = build_encoder(name, CHANNELS).eval()
    both = features(batch=2)
    with torch.no_grad():
        together = encoder(both).mask_features[1:]
        alone = encoder({level: m[1:] for level, m in both.items()}).mask_features
    # Batched and single products sum in another order: float32 noise.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_pro_scale_with_all_stages_last_equals_m2f() -> None:
    m2f = build_encoder("m2f", CHANNELS, layers=4).eval()
    pro_scale = build_encoder(
        "pro-scale", CHANNELS, stages=(0, 0, 4), pixel_embedding="conv", recalibration=None
    ).eval()
    pro_scale.load_state_dict(m2f.state_dict())
    inputs = features()
    with torch.no_grad():
        expected, found = m2f(inputs), pro_scale(inputs)
    assert torch.equal(expected.mask_features, found.mask_features)


def test_lite_m2f_without_high_level_layers_equals_m2f() -> None:
    m2f = build_encoder("m2f", CHANNELS, layers=2).eval()
    lite = build_encoder("lite-m2f", CHANNELS, high_level_layers=0, full_layers=2).eval()
    lite.load_state_dict(m2f.state_dict())
    inputs = features()
    with torch.no_grad():
        assert torch.equal(m2f(inputs).mask_features, lite(inputs).mask_features)


def test_high_level_layers_leave_the_finest_tokens_alone() -> None:
    lite = build_encoder("lite-m2f", CHANNELS, high_level_layers=2, full_layers=0).eval()
    inputs = features()
    with torch.no_grad():
        finest = lite.input_proj[2](inputs["res3"])
        coarsest = lite.input_proj[0](inputs["res5"])
        output = lite(inputs)
    assert torch.equal(output.multi_scale[2], finest)
    assert not torch.allclose(output.multi_scale[0], coarsest)


@given(st.integers(0, 30), st.integers(1, 8))
def test_interleaving_keeps_the_counts_and_ends_with_a_full_layer(high: int, full: int) -> None:
    order = interleave(high, full)
    assert (order.count(False), order.count(True)) == (high, full)
    assert order[-1] is True


def test_average_pooling_keeps_a_constant_map_constant_up_to_its_border() -> None:
    from segmeter.encoders.parts.pixel_embedding import PooledSmoothing

    smoother = PooledSmoothing(32, "avg")
    smoother.norm = torch.nn.Identity()
    constant = torch.full((1, 32, 5, 7), 2.5)
    torch.testing.assert_close(smoother(constant), constant)


def test_paper_recalibration_gates_each_token_by_its_own_place() -> None:
    # A guide of the same size needs no resizing: the gate of token i is sigmoid(t * w . guide_i).
    module = Recalibration("paper", dim=8, temperature=0.3)
    tokens, guide = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    gate = (0.3 * (guide @ module.ops.weight.t() + module.ops.bias)).sigmoid()
    torch.testing.assert_close(module(tokens, guide, (3, 4), (3, 4)), tokens * gate)


@pytest.mark.parametrize("kind", ["linear", "conv", "paper"])
@settings(deadline=None, max_examples=20)
@given(sizes=st.tuples(*[st.integers(1, 6)] * 4), temperature=st.floats(-2, 2))
def test_recalibration_only_shrinks(kind: str, sizes: tuple[int, ...], temperature: float) -> None:
    height, width, guide_height, guide_width = sizes
    module = Recalibration(kind, dim=4, temperature=temperature)
    tokens = torch.randn(2, height * width, 4)
    guide = torch.randn(2, guide_height * guide_width, 4)
    gated = module(tokens, guide, (height, width), (guide_height, guide_width))
    # A sigmoid lies in (0, 1).
    assert (gated.abs() <= tokens.abs()).all() and gated.shape == tokens.shape


def test_defaults_are_the_papers() -> None:
    assert encoder_options("pro-scale") == {
        "stages": (3, 3, 3),
        "pixel_embedding": "lpe",
        "recalibration": "linear",
        "recalibration_temperature": 0.1,
    }
    assert encoder_options("lite-m2f")["high_level_layers"] == 5
    assert encoder_options("rt-m2f") == {}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("pro-scal", {}, "did you mean 'pro-scale'"),
        ("pro-scale", {"stage": (1, 1, 1)}, "did you mean 'stages'"),
        ("pro-scale", {"stages": (0, 0, 0)}, "must not all be 0"),
        ("pro-scale", {"stages": (1, 1)}, "three whole numbers"),
        ("pro-scale", {"stages": (1, -1, 1)}, "three whole numbers"),
        ("pro-scale", {"stages": "333"}, "three whole numbers"),
        ("pro-scale", {"pixel_embedding": "lpee"}, "did you mean 'lpe'"),
        ("pro-scale", {"recalibration": "linea"}, "did you mean 'linear'"),
        ("pro-scale", {"recalibration_temperature": float("nan")}, "finite"),
        ("m2f", {"layers": 0}, "from 1"),
        ("m2f", {"layers": True}, "whole number"),
        ("lite-m2f", {"high_level_layers": 0, "full_layers": 0}, "not both be 0"),
        ("rt-m2f", {"pixel_embedding": "lpe"}, "no options"),
    ],
)
def test_bad_options_are_told_in_one_line(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")) as error:
        build_encoder(name, CHANNELS, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ({"res3": 16, "res4": 16, "res5": 16}, "lacks 'res2'"),
        ({**CHANNELS, "res6": 16}, "unknown feature level 'res6'"),
        ({**CHANNELS, "res5": 0}, "positive integer"),
    ],
)
def test_bad_channels_are_told(channels: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_encoder("m2f", channels)


def test_bad_features_are_told() -> None:
    encoder = build_encoder("m2f", CHANNELS)
    missing = features()
    del missing["res4"]
    with pytest.raises(ValueError, match="features lack 'res4'"):
        encoder(missing)
    with pytest.raises(ValueError, match=r"features\['res3'\] must be \(B, 16, H, W\)"):
        encoder({**features(), "res3": torch.zeros(1, 4, 8, 12)})


def test_rt_m2f_takes_levels_that_halve_rounded_up() -> None:
    encoder = build_encoder("rt-m2f", CHANNELS).eval()
    odd = {
        name: torch.randn(1, 16, *size)
        for name, size in zip(CHANNELS, ((50, 37), (25, 19), (13, 10), (7, 5)), strict=True)
    }
    with torch.inference_mode():
        output = encoder(odd)
    assert [tuple(m.shape[-2:]) for m in output.multi_scale] == [(7, 5), (13, 10), (25, 19)]
    with pytest.raises(ValueError, match=r"features\['res4'\] must be 13x10.* got 12x9$") as error:
        encoder({**odd, "res4": torch.zeros(1, 16, 12, 9)})
    assert "\n" not in str(error.value)
