"""Every system in every command that counts it, as a user writes it, and a reducer of one's own outside."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmeter.commands.main import main
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.encoders.table import ENCODERS

OTHERS = sorted(set(SYSTEMS) - set(ENCODERS))
# The 900 queries of DINO need as many tokens.
SIZE = "--padded-size 256x256 --num-classes 19"
MINE = """
import torch
from torch import nn

class Halves(nn.Module):
    layers = (2,)

    def forward(self, tokens):
        first = tokens.protected
        places = torch.arange(tokens.x.shape[1])
        index = torch.where(places < first, places, first + (places - first) // 2)
        index = index.expand(len(tokens.x), -1)
        x = torch.zeros(len(index), int(index.max()) + 1, tokens.x.shape[2])
        sums = x.scatter_add(1, index[..., None].expand_as(tokens.x), tokens.x)
        counts = x[..., 0].scatter_add(1, index, torch.ones(index.shape))
        return sums / counts[..., None], index
"""


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    return said.out


@pytest.mark.parametrize("system", OTHERS)
def test_a_system_is_counted_and_compared_by_its_name_alone(
    system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(run(f"flops {system} {SIZE} --json", capsys))
    parts = record["components"]
    assert record["backbone"] == SYSTEMS[system].default_backbone
    assert sum(part["gmacs"] for part in parts.values()) == pytest.approx(record["total_gmacs"])
    both = json.loads(run(f"compare m2f@r50 {system} {SIZE} --json", capsys))
    assert both["models"][1]["total_gmacs"] == record["total_gmacs"]


def test_a_system_is_drawn_on_its_own_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Each stands for others: a backbone of its own, a default beside Swin-T, no encoder of the four.
    systems = ("fc-clip", "rt-detr", "pem", "segformer")
    drawn = json.loads(run(f"plot not-counted {' '.join(systems)} --out {tmp_path}/a.svg --json", capsys))
    models = [one["model"] for one in drawn["data"]]
    for system in systems:
        assert any(m.startswith(f"{system}@{SYSTEMS[system].default_backbone}") for m in models), system
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_a_reducer_from_a_file_elsewhere_is_counted_looked_into_timed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    plain, mine = "segmenter@vit-ti", "segmenter@vit-ti:reduction=mine.py:Halves"
    record = json.loads(run(f"flops {mine} --padded-size 64x64 --images photo.png --json", capsys))
    # 16 patches and a class token; block 2 reads them all and hands on the half.
    (image,) = record["images"]
    assert image["tokens_entering"] == [17, 17] + 10 * [9] and image["tokens"] == [17] + 11 * [9]
    looked = json.loads(
        run(f"tokens --encoder {mine} --random-weights --images photo.png --out t --json", capsys)
    )
    assert looked["model"].startswith("segmenter@vit-ti:reduction=mine.py") and Path("t/tokens.json").exists()
    run(
        f"profile {plain} {mine} --padded-size 64x64 --images photo.png --seconds 0.1 --min-rounds 3 --out p",
        capsys,
    )
    assert {json.loads(path.read_text())["model"] for path in Path("p").glob("*.json")} == {plain, mine}
    for kind in ("breakdown", "resolution"):
        assert (
            run(f"plot {kind} {mine} --out {kind}.svg", capsys)
            and "Halves" in Path(f"{kind}.svg").read_text()
        )
    assert run("plot realised --from p --out r.svg", capsys) and Path("r.svg").exists()
