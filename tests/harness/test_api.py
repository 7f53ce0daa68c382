"""The Python interface: its examples run, and what it says of time and cost holds together."""

import doctest
import subprocess
import sys

import pytest
import torch
from torch import nn

import segmeter
import segmeter.harness.api
from tests.helpers.places import ROOT


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
    for name in set(segmeter.__all__) - {"__version__"}:
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


def test_a_printed_count_is_a_table_and_its_repr_one_line() -> None:
    counted = segmeter.count(Net(), (1, 3, 8, 8))
    assert repr(counted) == f"Count(Net: {64 * (27 * 64 + 64):,} MACs, {27 * 64 + 64 + 64 + 1:,} parameters)"
    text = str(counted)
    # 27 of 28 products are the wide convolution's.
    for part in (
        "component",
        "wide",
        "96.43 %",
        "narrow",
        "3.57 %",
        "total",
        "100.00 %",
        "not counted nothing",
    ):
        assert part in text
    assert len(text) < 1500


def test_a_notebook_prints_the_table_that_a_terminal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = segmeter.count(Net(), (1, 3, 8, 8))
    in_a_terminal = str(counted)
    # How rich tells a notebook, where it would show the table itself and leave nothing to print.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(counted) == in_a_terminal and "96.43 %" in in_a_terminal


def test_a_difference_is_one_line_until_it_is_printed() -> None:
    counted = segmeter.count(Net(), (1, 3, 8, 8))
    more = segmeter.count(nn.Sequential(Net(), nn.Conv2d(1, 2, 1)), (1, 3, 8, 8)).diff(counted)
    assert repr(more).count("\n") == 0 and len(repr(more)) < 100 < len(str(more))


def test_the_op_needs_no_import_of_its_own() -> None:
    code = "import segmeter, sys; assert 'torch' not in sys.modules; print(segmeter.ops.install.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("segmeter."), done.stderr


def test_a_count_is_the_same_text_in_a_pipe_and_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = segmeter.count(Net(), (1, 3, 8, 8))
    monkeypatch.setenv("COLUMNS", "20")
    assert "0.00011" in str(counted) and "…" not in str(counted)


def test_frames_add_up_to_what_they_split() -> None:
    counted = segmeter.count(Net(), (1, 3, 8, 8))
    frame = counted.to_frame()
    assert frame["macs"].sum() == counted.macs and frame["params"].sum() == counted.params
    assert frame.loc["wide", ["kind", "component", "output"]].tolist() == ["Conv2d", "wide", "1x64x8x8"]
    timed = segmeter.profile(Net(), (1, 3, 8, 8), seconds=0.05)
    assert timed.to_frame()["share"].sum() == pytest.approx(1)
    assert timed.to_frame()["ms"].to_dict() == timed.components


def test_a_notebook_shows_tables_with_names_escaped() -> None:
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(8, 16))
    counted = segmeter.count(model, (4, 8))
    assert '<td style="text-align: left">&lt;b&gt;</td>' in counted._repr_html_()
    timed = segmeter.profile(model, (4, 8), seconds=0.05)
    assert "<b>" not in timed._repr_html_() and "<th" in timed._repr_html_()
    assert repr(timed).count("\n") == 0 and "median" in str(timed)


def test_what_an_own_encoder_needs_is_at_the_top() -> None:
    from importlib.metadata import version

    from segmeter.encoders import build_encoder

    channels = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}
    assert isinstance(build_encoder("m2f", channels), segmeter.Encoder)
    assert not isinstance(object(), segmeter.Encoder)
    assert segmeter.EncoderOutput.__name__ == "EncoderOutput"
    assert segmeter.__version__ == version("segmeter")
