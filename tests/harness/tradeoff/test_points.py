"""Trade-off points: what the papers print, what is measured, what records and the user's file add."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness.counting.layers import layer_costs
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.spec import parse_model
from segmeter.harness.records.runs import Run, save
from segmeter.harness.tradeoff.collect import (
    all_points,
    measured_points,
    published_points,
)
from segmeter.harness.tradeoff.figure_data import points_data
from segmeter.harness.tradeoff.own import own_points
from segmeter.harness.tradeoff.point import COSTS, QUALITIES, Point
from segmeter.harness.tradeoff.realised import realised_savings
from segmeter.harness.tradeoff.records import read_records, record_points


@pytest.fixture(scope="module")
def published() -> list[Point]:
    return published_points()


@pytest.fixture(scope="module")
def measured(published: list[Point]) -> list[Point]:
    return measured_points(published)


def one(points: list[Point], **wanted: str) -> Point:
    (found,) = (p for p in points if all(getattr(p, key) == value for key, value in wanted.items()))
    return found


def test_every_point_is_plain_and_says_where_it_is_from(
    published: list[Point], measured: list[Point]
) -> None:
    for p in (*published, *measured):
        # What has a cost and a quality stands in a chart, which has a command.
        drawable = any(p.figures[c] for c in COSTS) and any(p.figures[q] for q in QUALITIES)
        assert p.reference and (p.command.startswith("segmeter ") or not drawable)
    json.dumps([asdict(p) for p in (*published, *measured)], allow_nan=False)


def test_tables_that_agree_make_one_point(published: list[Point]) -> None:
    p = one(published, paper="pro-scale", label="PRO-SCALE (1,1,1)", backbone="swin-t", dataset="cityscapes")
    # Table 2 prints the cost and the qualities, Table 15 the FPS.
    assert (p.gflops_encoder, p.pq, p.miou, p.fps) == (55.14, 60.58, 78.29, 6.47)
    assert "Table 2, row 4" in p.reference and "Table 15, row 3" in p.reference


def test_tables_that_contradict_each_other_make_two(published: list[Point]) -> None:
    rows = [
        p
        for p in published
        if (p.paper, p.label, p.backbone, p.dataset) == ("pro-scale", "M2F", "r50", "coco")
    ]
    # 4.91 images a second in Table 9, 2.10 in Table 16, for one and the same model.
    assert sorted(p.fps for p in rows) == [2.10, 4.91]
    assert any("differs from" in p.note for p in rows)


def test_printed_coco_figures_are_told_apart_by_their_input(published: list[Point]) -> None:
    coco = {"paper": "pro-scale", "dataset": "coco"}
    # 117.00 is for 800x1088, R50's 135.00 for 800x1216: the front must not mix them.
    assert one(published, label="PRO-SCALE (3,3,3)", backbone="swin-t", **coco).encoder_basis == "800x1088"
    assert one(published, label="PRO-SCALE (3,3,3)", backbone="r50", **coco).encoder_basis == "800x1216"


def test_open_vocabulary_rows_compare_with_nothing(published: list[Point]) -> None:
    rows = [p for p in published if p.encoder in ("fc-clip", "maskclip") and p.gflops_total]
    assert rows and all(p.encoder_basis == p.total_basis == "" for p in rows)


def test_measured_points_share_one_size_and_keep_the_printed_quality(measured: list[Point]) -> None:
    sizes = {(p.dataset, p.encoder_basis) for p in measured}
    assert sizes == {("coco", "800x1088"), ("cityscapes", "1024x2048")}
    wanted = {"paper": "pro-scale", "backbone": "swin-t", "dataset": "cityscapes"}
    p = one(measured, label="PRO-SCALE (3,3,3)", **wanted)
    # FACTS, section 2: 135.35 and 392.07 measured on the official code; the PQ is Table 2's.
    assert p.gflops_encoder == pytest.approx(135.35, abs=0.005)
    assert p.gflops_total == pytest.approx(392.07, abs=0.005)
    assert p.pq == 63.06
    # The saving at one size is the true one: Table 1 prints -31.81 % for Lite-M2F on COCO.
    coco = {"paper": "pro-scale", "backbone": "swin-t", "dataset": "coco"}
    m2f = one(measured, label="M2F", **coco).gflops_encoder
    lite = next(p for p in measured if p.label == "Lite-M2F" and p.dataset == "coco").gflops_encoder
    assert 100 * (lite / m2f - 1) == pytest.approx(-38.8, abs=0.1)


def test_a_printed_command_runs_and_gives_the_point(
    measured: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    p = one(measured, paper="pro-scale", label="PRO-SCALE (1,1,1)", backbone="r50", dataset="coco")
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(p.command)[1:], "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["total_gmacs"] == pytest.approx(p.gflops_total)


def timing(model: str, title: str, ms: float, **more: Any) -> Run:
    return Run(
        id=f"run-{title}-{ms:.0f}",
        time="2026-01-01T00:00:00+00:00",
        kind="profile",
        status="ok",
        model=model,
        title=f"{title}, Swin-T",
        settings={
            "device": "cpu",
            "dtype": "fp32",
            "batch": 1,
            "padded_size": "128x256",
            "num_classes": 19,
            "num_queries": 100,
        },
        figures={"fps": 1e3 / ms},
        statistics={"latency_ms": {"median": ms, "low": 0.9 * ms, "high": 1.1 * ms}},
        environment={"device_name": "a processor"},
        **more,
    )


def test_timings_take_the_printed_quality_and_carry_their_interval(
    tmp_path: Path, published: list[Point]
) -> None:
    save(timing("m2f@swin-t", "M2F", 100.0), tmp_path / "runs")
    failed = timing("rt-m2f@swin-t", "RT-M2F", 50.0)
    failed.status, failed.error = "crashed", "it did"
    save(failed, tmp_path / "runs")
    (p,) = record_points(read_records(tmp_path), published)
    assert (p.fps, p.latency_ms, p.pq) == (10.0, 100.0, 64.00)
    # 1000 / 110 and 1000 / 90 images a second.
    assert p.spread is not None
    assert p.spread["fps"]["low"] == pytest.approx(9.09, abs=0.01)
    assert p.spread["fps"]["high"] == pytest.approx(11.11, abs=0.01)
    assert "a processor" in p.speed_basis and "Table 2" in p.note


def test_quality_records_are_counted_and_damaged_files_named(tmp_path: Path) -> None:
    record = {
        "schema": "segmeter.quality/1",
        "model": "pro-scale@r50:stages=1,1,1",
        "title": "PRO-SCALE (1,1,1), R50",
        "dataset": "cityscapes",
        "split": "val",
        "images": 500,
        "pq": 59.1,
        "miou": None,
        "ap": None,
    }
    (tmp_path / "mine.json").write_text(json.dumps(record))
    (tmp_path / "cut.json").write_text('{"schema": "segmeter.run/1", ')
    (tmp_path / "bad.json").write_text(json.dumps({**record, "pq": "59.1"}))
    (tmp_path / "other.json").write_text('{"schema": "something else"}')
    records = read_records(tmp_path)
    assert sorted(d.path.name for d in records.damaged) == ["bad.json", "cut.json"]
    (p,) = record_points(records, [])
    # FACTS, section 2: R50 (1,1,1) is 298.12 in all at 1024x2048.
    assert p.gflops_total == pytest.approx(298.12, abs=0.005)
    assert p.pq == 59.1 and "500 images" in p.note


DAMAGED = {
    "statistics": {"latency_ms": {"median": "fast"}},
    "ratios": [{"baseline": "x", "times_faster": 0, "low": 1, "high": 1}],
    "components": {"encoder.ffn": {"ms": "long"}},
    "figures": {"fps": -1},
}


@pytest.mark.parametrize("field", DAMAGED)
def test_a_timing_with_damaged_figures_is_named(field: str, tmp_path: Path) -> None:
    path = save(timing("m2f@swin-t", "M2F", 100.0), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: DAMAGED[field]}))
    records = read_records(tmp_path)
    assert records.runs == [] and [d.path for d in records.damaged] == [path]
    assert "must be a number" in records.damaged[0].reason


def test_a_ratio_without_a_lower_bound_is_read_and_says_none(tmp_path: Path) -> None:
    """Few rounds on a busy machine: an interval that begins at 0 is what was measured, and is no damage."""
    parts = {"encoder.ffn": {"ms": 40.0}}
    m2f = timing("m2f@swin-t", "M2F", 100.0, components=parts)
    ratio = {"baseline": m2f.id, "times_faster": 1.25, "low": 0, "high": 2.6}
    for run in (m2f, timing("pro-scale@swin-t", "PRO-SCALE", 80.0, ratios=[ratio], components=parts)):
        save(run, tmp_path)
    found = read_records(tmp_path)
    assert found.damaged == []
    (pair,) = realised_savings([run for _, run in found.runs])
    total = next(row for row in pair["rows"] if row["component"] == "total")
    assert (total["realised"], total["low"], total["high"]) == (pytest.approx(0.2), None, None)


def test_own_points(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    header = "label,dataset,gflops_encoder,pq,pq_low,pq_high,spread"
    file.write_text(f"{header}\nA net,coco,80,50.5,50,51,3 seeds\n\nB,,,49,,,\n")
    a, b = own_points(file)
    assert a.source == "own" and a.reference == f"{file}, line 2"
    assert a.spread == {"pq": {"low": 50.0, "high": 51.0, "kind": "3 seeds"}}
    assert b.gflops_encoder is None and b.spread is None
    assert [p.label for p in all_points(None, file)][-2:] == ["A net", "B"]


BAD = {
    "label,pqq,fps\nx,1,2\n": "line 1: unknown column 'pqq'; did you mean 'pq'?",
    "label,pq,pq\nx,1,2\n": "line 1: column 'pq' stands twice",
    "pq,fps\n1,2\n": "line 1: column 'label' is missing",
    "label,backbone\nx,r50\n": "line 1: no figure",
    "label,pq\nx,abc\n": "line 2, column 'pq': expected a percentage from 0 to 100, got 'abc'",
    "label,pq\na,1\nx,101\n": "line 3, column 'pq'",
    "label,fps\nx,-1\n": "line 2, column 'fps': expected a number from 0",
    "label,fps\nx,nan\n": "line 2, column 'fps'",
    "label,pq\nx\n": "line 2: expected 2 columns, got 1",
    "label,pq\n,50\n": "line 2, column 'label': is empty",
    "label,pq,dataset\nx,50,cocoo\n": "line 2, column 'dataset': 'cocoo' is unknown; did you mean 'coco'?",
    "label,pq,pq_low\nx,50,49\n": "an error bar needs pq_low <= pq <= pq_high",
    "label,pq\n": "only a header",
    "": "is empty",
    'label,pq\n"x,50\n': "not CSV",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_row_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.csv") as told:
        own_points(file)
    assert BAD[text] in str(told.value) and "\n" not in str(told.value)


def test_own_models_are_counted_and_meet_their_row(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Plain(nn.Module):\n"
        "    def __init__(self, in_channels):\n"
        "        super().__init__()\n"
        "        self.of = nn.ModuleDict({k: nn.Conv2d(c, 256, 1) for k, c in in_channels.items()})\n"
        "    def forward(self, features):\n"
        "        m = {k: self.of[k](v) for k, v in features.items()}\n"
        "        return m['res2'], [m['res5'], m['res4'], m['res3']]\n"
    )
    (tmp_path / "mine.csv").write_text("label,dataset,pq\nPlain,cityscapes,50\n")
    points = [
        Point(**p) for p in points_data(None, tmp_path / "mine.csv", [f"{tmp_path}/mine.py:Plain"], "r50")
    ]
    own = [p for p in points if p.source == "own"]
    scored = one(own, dataset="cityscapes")
    # 1x1 convolutions of 256, 512, 1024, 2048 channels to 256: each level down has a quarter of the pixels of
    # 256x512 and twice the channels.
    expected = 256 * 512 * 256 * 256 * (1 + 1 / 2 + 1 / 4 + 1 / 8) / 1e9
    assert scored.gflops_encoder == pytest.approx(expected) and scored.pq == 50.0
    assert one(own, dataset="coco").pq is None


def test_layers_cost_what_the_papers_table_6_prices_them_at() -> None:
    size = ImageSize((1024, 2048), (1024, 2048))
    costs = layer_costs(parse_model("pro-scale:stages=1,1,1", num_classes=19), size)
    # Table 6: two more layers of a stage add 57.93 - 55.14, 69.62 - 55.14 and 118.00 - 55.14.
    assert [sum(layer) for layer in costs["layers"]] == pytest.approx([1.395, 7.24, 31.43], abs=0.04)
    assert costs["updated"] == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_high_level_layer_only_reads_the_fine_level() -> None:
    size = ImageSize((1024, 2048), (1024, 2048))
    costs = layer_costs(parse_model("lite-m2f", num_classes=19), size)
    # Five layers project 32,768 values of stride 8 (a 256x256 matrix each) and update none of them.
    assert costs["layers"][0][2] == pytest.approx(32768 * 256 * 256 / 1e9)
    assert costs["updated"][0] == [True, True, False] and costs["updated"][5] == [True, True, True]
    with pytest.raises(ValueError, match="no deformable encoder layers"):
        layer_costs(parse_model("rt-m2f", num_classes=19), size)


def test_realised_savings_stand_beside_the_claim() -> None:
    parts = {
        "encoder.ffn": {"ms": 40.0, "ms_low": 38.8, "ms_high": 41.2},
        "encoder.norms": {"ms": 0.1},
        "backbone.trunk": {"ms": 60.0},
    }
    m2f = timing("m2f@swin-t", "M2F", 100.0, components=parts)
    halved = {**parts, "encoder.ffn": {"ms": 30.0, "ms_low": 28.8, "ms_high": 31.2}}
    ratio = {"baseline": m2f.id, "times_faster": 1.25, "low": 1.0, "high": 2.0}
    pro = timing("pro-scale@swin-t", "PRO-SCALE (3,3,3)", 80.0, components=halved, ratios=[ratio])
    (pair,) = realised_savings([m2f, pro])
    rows = {row["component"]: row for row in pair["rows"]}
    assert set(rows) == {"total", "encoder", "encoder.ffn"}
    # 1.25 times faster is a fifth less time.
    assert rows["total"]["realised"] == pytest.approx(0.2)
    assert (rows["total"]["low"], rows["total"]["high"]) == (0.0, 0.5)
    assert rows["encoder.ffn"]["realised"] == pytest.approx(0.25)
    # 3 % and 4 % of spread are 5 % together: 0.75 of the time is left, give or take 0.0375.
    assert rows["encoder.ffn"]["low"] == pytest.approx(0.25 - 0.0375)
    assert rows["encoder.ffn"]["high"] == pytest.approx(0.25 + 0.0375)
    assert rows["encoder"]["low"] is None
    # The FFN runs on all K tokens six times in M2F; in PRO-SCALE three times each on s4, on s4 and s3, and on
    # all, with s4 : s3 : s2 = 1 : 4 : 16, so K = 21: 3 * (1 + 5 + 21) / (6 * 21) = 81 / 126.
    assert rows["encoder.ffn"]["claimed"] == pytest.approx(1 - 81 / 126)
    assert realised_savings([pro]) == []


def test_matching_is_a_loss_of_its_own_and_records_hold_their_own_macs() -> None:
    """A model whose work depends on the images, or is somebody's own, is counted where it was timed."""
    whole = 38_622_423_168  # MACs of ViT-S at 512x512, to the integer
    parts = {"encoder.ffn": {"ms": 60.0}, "decoder.ffn": {"ms": 40.0}}
    plain = timing("segmenter@vit-s", "Segmenter", 100.0, components=parts)
    plain.settings |= {"padded_size": "512x512", "num_classes": 150, "num_queries": None}
    merged = {
        "encoder.ffn": {"ms": 30.0, "published_gmacs": 8.0},
        "encoder.matching": {"ms": 5.0, "published_gmacs": whole / 1e11},
        "decoder.ffn": {"ms": 25.0, "published_gmacs": 1.0},
    }
    ratio = {"baseline": plain.id, "times_faster": 1.6, "low": 1.5, "high": 1.7}
    own = timing("segmenter@vit-s:reduction=mine.py:Mine", "Mine", 60.0, components=merged, ratios=[ratio])
    own.settings |= plain.settings
    assert realised_savings([plain, own]) == []
    own.figures["published_gmacs"] = whole / 2e9
    (pair,) = realised_savings([plain, own])
    rows = {row["component"]: row for row in pair["rows"]}
    assert rows["total"]["claimed"] == pytest.approx(0.5)
    assert rows["encoder.ffn"]["realised"] == pytest.approx(0.5)
    # A hundredth of all MACs, a twentieth of the time: what merging costs.
    assert rows["encoder.matching (of the whole)"]["claimed"] == pytest.approx(-0.01)
    assert rows["encoder.matching (of the whole)"]["realised"] == pytest.approx(-0.05)
