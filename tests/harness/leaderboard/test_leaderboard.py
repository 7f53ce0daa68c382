"""A leaderboard: every model counted alike, times within their setting, nothing of a file obeyed."""

import json
from pathlib import Path
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness.leaderboard import leaderboard, usual_size
from segmeter.harness.records import read_paths
from tests.helpers.report_sample import HOSTILE

SIZE = (64, 64)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def timing(model: str, ms: float, number: int, **settings: Any) -> dict[str, Any]:
    return {
        "schema": "segmeter.run/2",
        "id": f"run-{number}",
        "time": f"2026-01-0{number}T00:00:00+00:00",
        "kind": "profile",
        "status": "ok",
        "model": model,
        "title": model,
        "settings": {"device": "cpu", "dtype": "fp32", "batch": 1, "padded_size": "64x64", **settings},
        "figures": {"fps": 1000 / ms},
        "statistics": {"latency_ms": {"median": ms, "low": ms - 1, "high": ms + 1}},
        "environment": {"device_name": "A CPU"},
    }


def quality(model: str, **scores: Any) -> dict[str, Any]:
    return {"schema": "segmeter.quality/1", "title": model, "model": model, "dataset": "coco", **scores}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "a": timing("m2f@r50", 50.0, 1),
        "b": timing("m2f@r50", 40.0, 2),
        "c": timing("m2f@r50", 30.0, 3, dtype="bf16"),
        "d": timing("rt-m2f@r50", 20.0, 4),
        "e": timing("mine.py:Net", 10.0, 5),
        "f": quality("m2f@r50", pq=51.9),
        "g": quality("lite-m2f@r50", pq=True, miou=40.0),
        "h": {**timing("m2f@r50", 1.0, 6), "status": "crashed"},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


def test_rows_are_counted_alike_and_times_are_the_newest(folder: Path) -> None:
    found = read_paths([folder])
    assert usual_size(found) == SIZE
    record = leaderboard(found)
    rows = {(row["model"], row["setting"]): row for row in record["rows"]}
    fp32, bf16 = "A CPU, fp32, batch 1, 64x64", "A CPU, bf16, batch 1, 64x64"
    assert set(rows) == {
        ("m2f@r50", fp32),
        ("m2f@r50", bf16),
        ("rt-m2f@r50", fp32),
        ("mine.py:Net", fp32),
        ("lite-m2f@r50", ""),
    }
    assert rows["m2f@r50", fp32]["ms"] == 40.0 and rows["m2f@r50", bf16]["ms"] == 30.0
    assert rows["m2f@r50", fp32]["total"] == rows["m2f@r50", bf16]["total"] == pytest.approx(2.62, abs=0.005)
    assert rows["m2f@r50", fp32]["pq"] == 51.9 and rows["m2f@r50", fp32]["source"] == "b.json, f.json"
    own = rows["mine.py:Net", fp32]
    assert own["total"] is None and "is code" in own["note"] and own["ms"] == 10.0
    assert rows["lite-m2f@r50", ""]["ms"] is None and rows["lite-m2f@r50", ""]["pq"] is None
    assert record["settings"][0] == fp32 and [one["file"] for one in record["passed_over"]] == ["broken.json"]


def test_a_row_comes_with_a_file(folder: Path) -> None:
    before = len(leaderboard(read_paths([folder]))["rows"])
    assert run("card", "pro-scale@r50", "--padded-size", "64x64", "--out", folder / "card.json") == 0
    rows = leaderboard(read_paths([folder]))["rows"]
    added = [row for row in rows if row["model"] == "pro-scale@r50"]
    assert len(rows) == before + 1 and added[0]["source"] == "card" and added[0]["total"] > 1


def test_a_file_given_twice_is_one(folder: Path) -> None:
    once = read_paths([folder])
    assert len(read_paths([folder, folder / "a.json", folder]).runs) == len(once.runs)


def test_the_page_holds_its_data_and_nothing_acts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = timing(HOSTILE, 12.5, 7)
    hostile["environment"]["device_name"] = HOSTILE
    (folder / "hostile.json").write_text(json.dumps(hostile))
    assert run("report", "--site", folder / "site", folder, "--padded-size", "64x64") == 0
    said = capsys.readouterr()
    assert "6 rows" in said.out and "passed over" in said.err
    page = (folder / "site" / "index.html").read_text()
    assert "<script>alert" not in page and "<img" not in page and page.count("<script") == 2
    data = page.split('id="site-data">')[1].split("</script>")[0]
    rows = json.loads(data)["rows"]
    assert rows[-2]["title"] == HOSTILE or HOSTILE in [row["title"] for row in rows]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--site", "out", "none"), "neither a file nor a folder"),
        (("--site", "out", "."), "no timing, quality record or card"),
        (("--site", "out", "--images", "."), "not with --site"),
        (("--padded-size", "64x64"), "go with --site"),
        (("--site", "out", "--convention", "mac", "."), "did you mean 'macs'"),
    ],
)
def test_misuse_is_told_in_one_line(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", *words) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
