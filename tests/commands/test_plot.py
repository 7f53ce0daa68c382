"""plot and table as a user runs them: files, records, own points, and bad input in one line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from segmeter.commands.main import main


@dataclass
class Done:
    returncode: object
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, where counts are kept from one call to the next."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        told = capsys.readouterr()
        return Done(ended.value.code, told.out, told.err)

    return call


def test_own_points_are_on_the_front_and_in_three_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "label,dataset,gflops_encoder,pq\nMine,coco,20,53.5\nElse,cityscapes,20,60\nFree,coco,,50\n"
    )
    done = run(
        *("plot", "pareto", "--dataset", "coco", "--backbone", "swin-t"),
        *("--add", "mine.csv", "--out", "figures", "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    names = [f"pareto-gflops-encoder-pq-coco.{kind}" for kind in ("pdf", "svg", "png")]
    assert [Path(file).name for file in record["files"]] == names
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(names)
    assert [p["label"] for p in record["data"] if p["on_front"]] == ["Mine"]
    assert "800x1088" in record["caption"]
    # What has no place in this chart is named with the reason, and nothing else is.
    assert done.stderr.splitlines() == [
        "segmeter: not drawn: Else: of cityscapes, the chart is of coco (--dataset)",
        "segmeter: not drawn: Free: without gflops_encoder",
    ]


def test_one_file_by_its_suffix_at_column_width(run: Run, tmp_path: Path) -> None:
    done = run("plot", "not-counted", "--backbone", "r50", "--out", tmp_path / "it.png")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["it.png"]
    # 3.35 inches at 300 dpi
    assert Image.open(tmp_path / "it.png").width == 1005


def test_a_damaged_record_is_named_and_passed_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text("{")
    done = run("plot", "realised", "--from", tmp_path, "--out", tmp_path / "x.svg")
    assert done.returncode == 2
    assert "cut.json" in done.stderr and "nothing matches: no timing records" in done.stderr
    assert not (tmp_path / "x.svg").exists()


def test_a_table_goes_to_a_file(run: Run, tmp_path: Path) -> None:
    done = run("table", "7", "--format", "latex", "--out", tmp_path / "seven.tex")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "seven.tex").read_text()
    # FACTS, section 2: Swin-L's total is 1949.70 measured and printed.
    assert text.count("1949.70") == 2 and r"\toprule" in text


BAD = {
    "no kind": (["plot"], "choose from breakdown, circles"),
    "unknown kind": (["plot", "paretto"], "did you mean 'pareto'"),
    "unknown figure": (["plot", "pareto", "--y", "pqq"], "did you mean 'pq'"),
    "unknown cost": (["plot", "pareto", "--x", "gflop"], "did you mean 'gflops-total'"),
    "option of another kind": (
        ["plot", "circles", "--x", "fps"],
        "--x does not go with circles, only with pareto",
    ),
    "model of no use": (["plot", "lpe", "timm:resnet50"], "a MODEL does not go with lpe"),
    "unknown data set": (["plot", "pareto", "--dataset", "cocoo"], "did you mean 'coco'"),
    "nothing selected": (
        ["plot", "circles", "--backbone", "swin-l"],
        "nothing matches: the paper has no model",
    ),
    "no timing": (["plot", "pareto", "--x", "latency"], "give timing records with --from"),
    "two backbones": (["plot", "layers", "--backbone", "r50", "--backbone", "r101"], "takes one --backbone"),
    "no picture": (["plot", "layers", "--out", "x.jpg"], "expected a folder or a file in .pdf, .svg, .png"),
    "missing own file": (["plot", "pareto", "--add", "/no/such.csv"], "no such file of points: /no/such.csv"),
    "missing records": (["plot", "realised", "--from", "/no/such"], "/no/such is not a folder"),
    "no table": (["table"], "choose from 1 to 11, 15, 16"),
    "unknown table": (["table", "13"], "choose from 1 to 11, 15, 16; nearest: 11"),
    "unknown format": (["table", "2", "--format", "markdown"], "choose from text, md, csv, latex, html"),
    "text to a file": (["table", "2", "--out", "x.txt"], "--out needs --format"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, run: Run, tmp_path: Path) -> None:
    arguments, told = BAD[case]
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and told in done.stderr, done.stderr
    assert done.stdout == "" and list(tmp_path.iterdir()) == []
