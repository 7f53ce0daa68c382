"""The commands audit and reconcile, run in this process so that counts are shared."""

import csv
import html
import io
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from segmeter.commands import main as cli

Result = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> "Runner":
    return Runner(capsys)


class Runner:
    """Runs the command line and returns exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        out, err = self.capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, out, err


def test_audit_begins_with_counts_and_ends_with_findings(run: Runner) -> None:
    code, out, _ = run("audit")
    assert code == 0
    order = [out.index(text) for text in ("128 GFLOPs cells", "Table 1, GMACs", "Findings:")]
    assert order == sorted(order)
    # Every system of the tables is counted.
    assert "not modelled" not in out[order[2] :] + out[: order[1]]
    assert "of 108 cells 62 are reproduced at the stated size and 44 consistent" in " ".join(out.split())


def test_json_csv_and_markdown_hold_the_same_cells(run: Runner) -> None:
    record = json.loads(run("audit", "--table", "2", "--json")[1])
    rows = list(csv.DictReader(io.StringIO(run("audit", "--table", "2", "--format", "csv")[1])))
    assert [r["printed"] for r in rows] == [c["printed"] for c in record["cells"]]
    assert [r["verdict"] for r in rows] == [c["verdict"] for c in record["cells"]]
    markdown = run("audit", "--table", "2", "--format", "md")[1]
    assert markdown.count("\n| ") > len(rows) and "537.80" in markdown
    for found in record["findings"]:
        # "<" and ">" are letters in Markdown too, not tags.
        assert found["text"] in html.unescape(markdown)


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="no TeX installed")
def test_latex_compiles(run: Runner, tmp_path: Path) -> None:
    body = run("audit", "--format", "latex")[1]
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + body + "\\end{document}"
    (tmp_path / "audit.tex").write_text(document, encoding="utf-8")
    tex = shutil.which("pdflatex") or shutil.which("tectonic")
    assert tex
    arguments = ["-interaction=nonstopmode", "-halt-on-error"] if tex.endswith("pdflatex") else []
    done = subprocess.run([tex, *arguments, "audit.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_is_whole_and_escaped(run: Runner) -> None:
    body = run("audit", "--table", "1", "--format", "latex")[1]
    assert body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\end{tabular}") > 0
    rows = [line for line in body.split("\n") if line.endswith(r"\\") and line.startswith("1 & ")]
    assert rows and all(row.count(" & ") == 9 for row in rows[:2])
    plain = body.split("\n", 1)[1]
    # Outside comments, every percent sign and underscore is escaped.
    assert all(before == "\\" for before, sign in pairwise(plain) if sign in "%_")


def test_reconcile_shows_what_was_tried(run: Runner) -> None:
    code, out, _ = run("reconcile", "--encoder", "m2f", "--backbone", "swin-t", "--published", "117.0")
    assert code == 0 and "explained: the first match is credible" in out
    assert "800x1088" in out and "tried" in out and "by chance" in out
    record = json.loads(run("reconcile", "pro-scale", "--published", "123.45", "--json")[1])
    assert record["verdict"] == "nothing does"
    out = run("reconcile", "pro-scale", "--published", "123.45")[1]
    assert "nothing does: no unit" in out and "a wrong figure would be explained" in out


def test_reconcile_of_several_figures_at_once(run: Runner) -> None:
    arguments = ["reconcile", "m2f@swin-t", "--published", "117.0", "--with", "pro-scale=56.18"]
    code, out, _ = run(*arguments)
    assert code == 0 and "no offset: one unit, size and boundary give all figures" in out
    assert "pro-scale@swin-t: printed 56.18, counted 56.17" in out and "of 400 such sets" in out
    record = json.loads(run(*arguments, "--json")[1])
    assert record["schema"] == "segmeter.reconcile-jointly/1" and len(record["figures"]) == 2


BAD = {
    "unknown table": (["audit", "--table", "12"], "nearest: 11"),
    "not a table": (["audit", "--table", "one"], "table must be a number"),
    "unknown paper": (["audit", "--paper", "pro-scal"], "did you mean 'pro-scale'"),
    "paper without encoder figures": (["audit", "--paper", "pem"], "choose pro-scale"),
    "unknown format": (["audit", "--format", "latx"], "did you mean 'latex'"),
    "two formats": (["audit", "--format", "md", "--json"], "not both"),
    "missing annotations": (["audit", "--annotations", "/no/such.json"], "cannot read annotations"),
    "missing records": (["audit", "--records", "/no/such"], "is not a folder"),
    "no figure": (["reconcile", "m2f"], "--published 117.0"),
    "no number": (["reconcile", "m2f", "--published", "x"], "positive number"),
    "unknown what": (["reconcile", "m2f", "--published", "1", "--what", "ttal"], "did you mean 'total'"),
    "no joint figure": (
        ["reconcile", "m2f", "--published", "1", "--with", "m2f@r50"],
        "--with must be MODEL=FIGURE",
    ),
    "no encoder": (["reconcile", "--published", "117"], "no encoder given"),
    "unknown backbone": (["reconcile", "m2f@swin-x", "--published", "117"], "did you mean"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, run: Runner) -> None:
    arguments, told = BAD[case]
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and told in err, err


def test_given_tables_end_in_the_gates_exit_codes(run: Runner, tmp_path: Path) -> None:
    right, odd, wrong = (tmp_path / name for name in ("right.csv", "odd.csv", "wrong.csv"))
    right.write_text("model,GMACs\nA,10.0\nB,20.0 (+100 %)\n")
    odd.write_text("model,GMACs,mIoU\nA,10.0,**40.0**\nB,20.0,45.0\nC,30.0,44.0\n")
    wrong.write_text("model,GMACs\nA,10.0\nB,20.0 (+50 %)\n")
    assert run("audit", str(right))[0] == 0
    assert run("audit", str(odd))[0] == 0
    assert run("audit", str(odd), "--strict")[0] == 1
    code, out, _ = run("audit", str(right), str(wrong))
    assert code == 1 and "20 against 10 is +100 %, printed +50 %" in out
    for arguments in (
        *((str(tmp_path / "none.csv"),), (str(right), "--format", "sarf"), (str(right), "--table", "2")),
        *((str(right), "--header", str(tmp_path / "none.toml")), ("--strict",)),
    ):
        code, out, err = run("audit", *arguments)
        assert code == 2 and not out and len(err.strip().splitlines()) == 1


def test_what_stands_in_a_cell_acts_nowhere(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    name = "\x1b[31m[red]::error::x|y &lt;script>"
    path.write_text(f"model,GMACs\nA,10.0\n{name},20.0 (+50 %)\nC,=HYPERLINK(1)\n")
    text = run("audit", str(path))[1]
    markdown, sarif = (run("audit", str(path), "--format", form)[1] for form in ("md", "sarif"))
    for out in (text, markdown, sarif):
        assert "\x1b[31m" not in out and "::error::" not in out
    assert "<script>" not in markdown and "x\\|y" in markdown
    results = json.loads(sarif)["runs"][0]["results"]
    assert {result["level"] for result in results} >= {"warning", "note"}
    lines = [place["physicalLocation"]["region"]["startLine"] for place in results[0]["locations"]]
    assert lines == [3, 2]
