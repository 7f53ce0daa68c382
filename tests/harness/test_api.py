"""The Python interface: its examples run, and what it says of time and cost holds together."""

import doctest

import pytest
import torch
from torch import nn

import segmeter
import segmeter.harness.api


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 3, padding=1)
        self.narrow = nn.Conv2d(64, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.wide(image))


@pytest.mark.parametrize("module", [segmeter.harness.api, segmeter])
def test_the_examples_in_the_documentation_run(module: object) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_every_public_name_is_documented() -> None:
    for name in segmeter.__all__:
        assert getattr(segmeter, name).__doc__, name


def test_components_of_a_profile_add_up_and_the_dear_one_is_the_slow_one() -> None:
    model = Net().train()
    timed = segmeter.profile(model, (1, 3, 128, 128), seconds=0.3)
    assert model.training and model.wide.training
    assert timed.low <= timed.latency_ms <= timed.high
    assert min(timed.samples) <= timed.latency_ms <= max(timed.samples)
    assert timed.components.keys() == {"wide", "narrow", "other"}
    # 27 * 64 products a pixel against 64.
    assert timed.components["wide"] > timed.components["narrow"]
    assert timed.parameter_bytes == 4 * (27 * 64 + 64 + 64 + 1)


def test_a_profile_takes_arguments_as_count_does() -> None:
    bilinear = nn.Bilinear(2, 3, 4)
    pair = (torch.ones(5, 2), torch.ones(5, 3))
    by_place = segmeter.profile(bilinear, pair, seconds=0.05)
    by_name = segmeter.profile(bilinear, dict(zip(("input1", "input2"), pair, strict=True)), seconds=0.05)
    assert by_place.parameter_bytes == by_name.parameter_bytes == 4 * (2 * 3 * 4 + 4)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("pro-scal", {}, "did you mean 'pro-scale'"),
        (nn.Identity(), {"seconds": float("nan")}, "seconds must be a number above 0, got nan"),
        (nn.Identity(), {"seconds": 0}, "seconds must be a number above 0, got 0"),
        (nn.Identity(), {"depth": 0}, "depth must be 1 or more, got 0"),
    ],
)
def test_bad_input_to_profile_is_one_line(
    model: nn.Module | str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segmeter.profile(model, (1, 3, 64, 64), **options)


def test_a_model_by_its_text_is_built_and_timed() -> None:
    timed = segmeter.profile("pro-scale@r50:stages=1,0,0", (1, 3, 64, 64), seconds=0.1, depth=1)
    assert {"backbone", "encoder", "decoder", "postprocess"} <= timed.components.keys()
