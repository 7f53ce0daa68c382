"""``segmeter tokens`` as a user runs it: its files, its exit codes, its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmeter.commands.main import main

QUICK = ("--short-side", "96", "--distance", "8", "--radius", "4", "--sample", "64")
OWN = """
from torch import nn

class Projections(nn.Module):
    def __init__(self, in_channels, width=256):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Conv2d(c, width, 1) for name, c in in_channels.items()})

    def forward(self, features):
        maps = {name: layer(features[name]) for name, layer in self.project.items()}
        return maps["res2"], [maps["res5"], maps["res4"], maps["res3"]]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(folder / f"{number:02}.png")
    (folder / "damaged.png").write_bytes((folder / "00.png").read_bytes()[:200])
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["tokens", *(str(a) for a in arguments)])
    done = capsys.readouterr()
    return int(stopped.value.code or 0), done.out, done.err


def test_an_own_encoder_on_own_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    code, out, err = call(
        capsys, *QUICK, "--backbone", "mobilenetv3_small_050", "--encoder", f"{tmp_path}/mine.py:Projections",
        "--random-weights", "--images", photos, "--num-images", 4, "--seed", 9, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "random (seed 9): similarities of such features mean nothing" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokens.json", "tokens.csv", "tokens.md"} < names
    for figure in ("tokens-curves", "tokens-maps", "tokens-layers", "tokens-what-if"):
        assert {f"{figure}.pdf", f"{figure}.svg", f"{figure}.png"} < names
    record = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert len(record["images"]) == 4 and record["encoder_title"] == "Projections"
    assert [place["name"] for place in record["places"]] == ["backbone", "output", "pixel embedding"]
    # A 1x1 convolution's cost is linear in its tokens: half of them, half of its part.
    scales = record["what_if"]["encoders"][0]["scales"]
    parts = [2 * (s["curve"]["gmacs"][0] - s["curve"]["gmacs"][2]) for s in scales.values()]
    assert sum(parts) == pytest.approx(record["what_if"]["encoders"][0]["gmacs"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--images", "nowhere"), "no such photo or folder: nowhere"),
        (("--threshold", "1.5"), "threshold must be a cosine from -1 to 1, such as 0.9; got 1.5"),
        (("--backbone", "r50"), "no weights for backbone r50: give --weights FILE"),
        (("--backbone", "r50", "--weights", "none.pth"), "no such weights: none.pth"),
        (("--encoder", "pro-scal"), "unknown encoder 'pro-scal'; did you mean 'pro-scale'?"),
        (("--backbone", "r50", "--random-weights", "--encoder", "m2f:layers=2", "--at", "layer:3"),
         "the encoder has no layer:3; its layers: layer:1 to layer:2"),
        (("--num-images", "0"), "the number of images must be at least 1, got 0"),
        (("--short-side", "5"), "--short-side must be from 32"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 2 and not out
    assert line in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


INTERRUPTED = (
    OWN
    + """
class Interrupted(Projections):
    images = 0

    def forward(self, features):
        self.images += not features["res2"].is_meta
        if self.images == 3 and not features["res2"].is_meta:
            raise KeyboardInterrupt
        return super().forward(features)
"""
)


def test_ctrl_c_keeps_what_is_done(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # An encoder that presses Ctrl-C in the middle of the third image.
    (tmp_path / "stops.py").write_text(INTERRUPTED)
    code, out, err = call(
        capsys, *QUICK, "--backbone", "mobilenetv3_small_050",
        "--encoder", f"{tmp_path}/stops.py:Interrupted",
        "--random-weights", "--images", photos, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 130
    assert "interrupted: the figures are of 2 of 30 images" in err
    assert "damaged.png" in err
    assert "Interrupted: 2 of 31 images were done." in out
    record = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert record["interrupted"] and len(record["images"]) == 2
