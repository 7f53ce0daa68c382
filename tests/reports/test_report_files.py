"""The main job, run whole: its files, and that they agree with each other."""

import csv
import html
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.in_process import forked


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "latest"
    photo = folder.parent / "own.png"
    Image.new("RGB", (320, 240), (200, 30, 30)).save(photo)
    own = folder.parent / "mine.csv"
    own.write_text("label,dataset,gflops_encoder,pq\n<b>mine</b>,cityscapes,60,61.5\n")
    given = ["--images", str(photo), "--add", str(own), "--out", str(folder)]
    done = forked("report", *given)
    assert done.returncode == 0, done.stderr
    return folder


def test_all_files_are_there_and_nothing_half_written(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    wanted = {"report.html", "report.md", "report.json", "figures.csv", "figures"}
    wanted |= {"breakdown.pdf", "breakdown.svg", "breakdown.png"}
    assert wanted <= names
    assert not [name for name in names if name.startswith(".")]


def test_the_record_holds_four_models_at_every_size(report: Path) -> None:
    record = json.loads((report / "report.json").read_text())
    assert set(record["records"]) == {"cityscapes", "coco-val2017", "own.png"}
    for group in record["records"].values():
        assert [r["encoder"] for r in group] == ["m2f", "lite-m2f", "rt-m2f", "pro-scale"]
    # 240x320 is resized to 800x1067 and padded to 800x1088.
    assert record["records"]["own.png"][0]["padded_size"] == [800, 1088]
    assert record["records"]["own.png"][0]["original_size"] == [240, 320]
    assert record["records"]["cityscapes"][0]["total_gmacs"] == pytest.approx(537.85, abs=0.01)


def test_every_model_really_ran(report: Path) -> None:
    passes = json.loads((report / "report.json").read_text())["forward_passes"]
    assert len(passes) == 4
    for one in passes:
        assert one["seconds"] > 0 and one["weights"].startswith("random")
        # 240x320 at short side 256: 256x341, padded to 256x352.
        assert one["input_size"] == [256, 352]
        assert one["outputs"]["masks"] == [1, 100, 256, 341]
        assert one["outputs"]["semantic"] == [1, 133, 256, 341]


def test_markdown_and_csv_say_what_the_record_says(report: Path) -> None:
    text = (report / "report.md").read_text()
    for figure in ("281.13", "171.99", "129.78", "135.35", "537.85", "published", "not counted"):
        assert figure in text
    rows = list(csv.DictReader(io.StringIO((report / "figures.csv").read_text())))
    (encoder,) = (
        r for r in rows if (r["input"], r["model"], r["component"]) == ("cityscapes", "m2f@swin-t", "encoder")
    )
    assert float(encoder["figure"]) == pytest.approx(281.13, abs=0.001)
    assert encoder["unit"] == "GMACs" and encoder["convention"] == "published"


def test_the_page_holds_everything_in_less_than_2_mb(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert len(text.encode()) < 2_000_000
    record = json.loads((report / "report.json").read_text())
    for group in record["records"].values():
        assert all(f"{r['total_gmacs']:.2f}" in text for r in group)
    assert all(one["title"] in html.unescape(text) for one in record["audit"]["findings"])
    drawings = sorted((report / "figures").iterdir())
    assert len(drawings) >= 13
    for path in drawings:
        assert f'id="figure-{path.stem}"' in text
        assert f"](figures/{path.name})" in (report / "report.md").read_text()


def test_the_audit_is_in_the_record_once(report: Path) -> None:
    record = json.loads((report / "report.json").read_text())
    assert "reproduction" not in record
    counts = record["audit"]["counts"]
    # What the audit promises for the systems that segmeter models.
    assert counts["family_share"] >= 0.5 and len(record["audit"]["cells"]) == counts["cells"]


def test_own_points_are_marked_in_the_record_and_the_page(report: Path) -> None:
    record = json.loads((report / "report.json").read_text())
    (own,) = (p for p in record["figures"]["points"] if p["source"] == "own")
    assert (own["label"], own["pq"]) == ("<b>mine</b>", 61.5)
    text = (report / "report.html").read_text()
    assert "&lt;b&gt;mine&lt;/b&gt;" in text and "<b>mine" not in text
    assert "--add" in record["command"]


def test_the_figure_is_a_picture_in_three_formats(report: Path) -> None:
    assert (report / "breakdown.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (report / "breakdown.svg").read_text()
    width, height = Image.open(report / "breakdown.png").size
    # 6.9 x 3.0 inches at 300 dpi
    assert (width, height) == (2070, 900)


def test_the_figure_is_the_same_for_the_same_records(report: Path) -> None:
    from segmeter.reports.plots.breakdown import breakdown_figure, figure_bytes

    records = json.loads((report / "report.json").read_text())["records"]["cityscapes"]
    assert figure_bytes(breakdown_figure(records), "svg") == (report / "breakdown.svg").read_bytes()
