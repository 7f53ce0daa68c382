"""What gives a printed figure, and what chance would have given."""

from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.audit.hypotheses import Hypothesis, Subject
from segmeter.harness.audit.joint import _solve, reconcile_jointly
from segmeter.harness.audit.reconcile import read_figure, reconcile_figure, reconcile_steps
from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import model_spec

M2F, PRO_SCALE = Subject("m2f", "swin-t"), Subject("pro-scale", "swin-t")


def test_a_figure_says_how_it_may_have_been_rounded() -> None:
    assert read_figure("55.14")[1]["rounded"] == pytest.approx((55.135, 55.145))
    value, ranges = read_figure("234.50")
    assert value == 234.5 and ranges["zeros appended"] == pytest.approx((234.45, 234.55))
    assert ranges["cut off"] == pytest.approx((234.5, 234.51))
    assert read_figure(" 519G ")[0] == 519 and "zeros appended" not in read_figure("519G")[1]
    # Below 100 the tool prints three decimals: 12.0 is no rounded 12.
    assert set(read_figure("12.0")[1]) == {"rounded", "cut off"}
    for text in ("", "-3", "0", "1e3", "nan", "117,0"):
        with pytest.raises(ValueError, match="positive number"):
            read_figure(text)


def test_117_is_the_whole_encoder_at_800x1088() -> None:
    steps: list[str] = []
    record = reconcile_figure(M2F, "117.0", step=steps.append)
    assert len(steps) == reconcile_steps()
    first = record["matches"][0]
    assert record["verdict"] == "explained"
    assert (first["path"], first["boundary"], first["size"]) == ("published", "whole encoder", "800x1088")
    # 870,400 of 2,097,152 pixels of 281.13.
    assert first["giga"] == pytest.approx(281.13 * 870400 / 2097152, abs=0.01)
    assert first["by_chance"] < 0.1 and record["tried"] > 1000
    plausibility = [m["plausibility"] for m in record["matches"]]
    assert plausibility == sorted(plausibility, reverse=True)
    for match in record["matches"]:
        low, high = record["ranges"][match["rounding"]]
        assert low <= match["giga"] <= high


# The same encoder at 1024x2048 in other units and boundaries: 281.13 GMACs as the papers count.
OTHER_WAYS = {
    # Twice the count.
    "562.26": ("published x 2", "whole encoder", "1024x2048"),
    # The sampling of six layers: 3.17 by grid_sample as fvcore traces it.
    "284.30": ("sampling", "whole encoder", "1024x2048"),
    # Less lateral 3.39, 3x3 convolution 77.48 and mask features 8.59 of official_flops' modules.
    "191.67": ("published", "encoder without pixel embedding", "1024x2048"),
}


@pytest.mark.parametrize("figure", OTHER_WAYS)
def test_the_unit_path_and_boundary_are_found(figure: str) -> None:
    record = reconcile_figure(M2F, figure)
    first = record["matches"][0]
    assert (first["path"], first["boundary"], first["size"]) == OTHER_WAYS[figure]


def total_of(figure: str) -> dict[str, Any]:
    return reconcile_figure(M2F, figure, "total")


def test_a_total_is_a_mean_over_images() -> None:
    first = total_of("234.50")["matches"][0]
    assert first["size"] == "mean over 100 images of val2017" and first["boundary"] == "whole model"
    assert total_of("537.8")["matches"][0]["size"] == "1024x2048"


def test_a_total_depends_on_classes_and_queries() -> None:
    """At 512x512 with ADE20K's 150 classes and 200 queries, which is what gives the figure."""
    size = ImageSize((512, 512), (512, 512))
    spec = model_spec("m2f", "swin-t", num_classes=150, num_queries=200)
    giga = count_model(spec, size, "published").figures.total / 1e9
    record = total_of(f"{giga:.2f}")
    first = next(m for m in record["matches"] if m["size"] == "512x512" and m["boundary"] == "whole model")
    assert first["setup"] == "ADE20K: 150 classes, 200 queries"
    # A model that is given with its classes is tried with no others.
    given = reconcile_figure(Subject("m2f", "swin-t", num_classes=19), "234.50", "total")
    assert {m["setup"] for m in given["matches"] + given["nearest"]} <= {
        f"as given: 19 classes, {queries} queries" for queries in (100, 200)
    }


def test_what_chance_would_explain_is_said_beside_the_answer() -> None:
    """Two decimals leave little to chance, whole numbers much."""
    fine, coarse = (reconcile_figure(M2F, text)["explained_by_chance"] for text in ("281.13", "281"))
    assert fine < 0.02 < coarse < 0.5


def of_one(*gigas: float, path: str = "published", size: str = "512x512") -> list[Hypothesis]:
    return [Hypothesis(path, "whole model", size, "", giga, 0.5) for giga in gigas]


def test_several_figures_have_one_offset_or_none() -> None:
    windows = [read_figure(text)[1] for text in ("226", "293", "868")]
    values = [226.0, 293.0, 868.0]
    exact = {("a", "", "", ""): of_one(226.2, 293.4, 867.6)}
    (_, rounding, low, high), *_ = _solve(exact, windows, values)[0]
    assert rounding == "rounded" and low <= 0 <= high
    # The same amount more in each: 2.2, 2.0, 2.4, which roundings of half a unit allow.
    shifted = {("a", "", "", ""): of_one(228.2, 295.0, 870.4)}
    ((_, _, low, high),) = (s for s in _solve(shifted, windows, values)[0] if s[1] == "rounded")
    assert low == pytest.approx(-2.5) and high == pytest.approx(-1.9)
    # Amounts that differ by more than the rounding: no solution, and told as a miss.
    apart = {("a", "", "", ""): of_one(228.2, 296.5, 870.4)}
    solutions, misses = _solve(apart, windows, values)
    assert not solutions and len(misses) == 1


def test_two_encoders_of_one_table_are_solved_at_once() -> None:
    record = reconcile_jointly([(M2F, "117.0"), (PRO_SCALE, "56.18")], "encoder")
    first = record["solutions"][0]
    assert (record["verdict"], first["size"], first["boundary"]) == ("no offset", "800x1088", "whole encoder")
    assert record["solved_by_chance"] < 0.05
    with pytest.raises(ValueError, match="2 to 20 figures"):
        reconcile_jointly([(M2F, "117.0")], "encoder")


def test_nothing_does_when_nothing_does() -> None:
    record = reconcile_figure(PRO_SCALE, "123.45")
    assert record["verdict"] == "nothing does" and record["matches"] == []
    assert len(record["nearest"]) == 3
    # Table 3's C_2: what matches is as implausible as chance.
    conv = (("stages", (1, 1, 1)), ("pixel_embedding", "conv"))
    chance = reconcile_figure(Subject("pro-scale", "swin-t", conv), "73.49")
    assert chance["verdict"] != "explained"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'm2f'"):
        reconcile_figure(Subject("m2ff", "swin-t"), "117")
    with pytest.raises(ValueError, match="encoder or total"):
        reconcile_figure(M2F, "117", "backbone")


OWN = """
import torch
from torch import nn
from segmeter.encoders.interface import EncoderOutput

class Encoder(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Conv2d(c, 256, 1) for name, c in in_channels.items()})

    def forward(self, features):
        maps = {name: self.project[name](x) for name, x in features.items()}
        BODY
        levels = [maps[name] for name in ("res5", "res4", "res3")]
        return EncoderOutput(mask_features=maps["res2"], multi_scale=levels)
"""


def test_an_encoder_of_ones_own_can_be_reconciled(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("BODY", "pass"))
    # 1x1 convolutions of 96 to 768 channels to 256 at strides 4 to 32, 1024x2048:
    # 256 * 2^21 * (96/16 + 192/64 + 384/256 + 768/1024) = 6.04 GMACs, twice that in FLOPs.
    record = reconcile_figure(Subject(f"{path}:Encoder", "swin-t"), "12.08")
    first = record["matches"][0]
    assert (first["path"], first["size"]) == ("products x 2", "1024x2048")
    # What it does not have makes no boundary of its own.
    assert {m["boundary"] for m in record["matches"]} == {"whole encoder"}


def test_an_encoder_whose_work_depends_on_its_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choosy.py"
    path.write_text(OWN.replace("BODY", "maps['res5'] = maps['res5'] * int(maps['res5'].sum() > 0)"))
    with pytest.raises(ValueError, match="its work depends on its input"):
        reconcile_figure(Subject(f"{path}:Encoder", "swin-t"), "12.08")
