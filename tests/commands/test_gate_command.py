"""`segmeter check` and `segmeter baseline update` from the outside: exit codes, formats, bad input, git."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from segmeter.commands.main import main
from tests.helpers.places import ROOT

MODEL = """
from torch import nn


class Ffn(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.expand = nn.Conv2d(3, hidden, 1, bias=False)


    def forward(self, x):
        return self.expand(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.ffn = Ffn(8)

    def forward(self, image):
        return self.ffn(image)
"""
BUDGETS = """
baseline = "baseline.json"
size = "32x64"

[models.tiny]
model = "net.py:Net"
limits = { ffn = "60 kMACs" }
"""
# 3 channels in, 8 out, at 32*64 places.
MACS = 3 * 8 * 32 * 64
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run_command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch project: a model in a file, and a budget for it."""
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "budgets.toml").write_text(BUDGETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_within_over_and_misuse_have_their_exit_codes(project: Path, run: Run) -> None:
    code, out, err = run("check", "budgets.toml")
    assert (code, out) == (2, "")
    assert err == "segmeter: no baseline baseline.json; write it with `segmeter baseline update`\n"
    assert run("baseline", "update", "budgets.toml") == (0, "baseline.json: 1 models\n", "")
    assert run("check", "budgets.toml")[0] == 0
    budgets = project / "budgets.toml"
    budgets.write_text(budgets.read_text().replace("60 kMACs", "49151"))
    code, out, _ = run("check", "budgets.toml")
    assert code == 1
    assert "over budget: 1 of 3 figures of 1 model, against baseline.json" in out


def test_the_baseline_is_the_same_each_time_and_holds_no_folder(project: Path, run: Run) -> None:
    run("baseline", "update")
    first = (project / "baseline.json").read_text()
    run("baseline", "update")
    assert (project / "baseline.json").read_text() == first
    assert str(project) not in first
    content = json.loads(first)
    assert content["models"]["tiny"]["total"] == MACS
    # One module a line.
    assert sum('"kind": "Conv2d"' in line for line in first.splitlines()) == 1


@pytest.fixture
def over(project: Path, run: Run) -> Path:
    """A project whose FFN was half as wide when its baseline was written."""
    (project / "half.py").write_text(MODEL.replace("Ffn(8)", "Ffn(4)"))
    budgets = project / "budgets.toml"
    text = budgets.read_text()
    budgets.write_text(text.replace("net.py", "half.py"))
    run("baseline", "update")
    budgets.write_text(text)
    baseline = project / "baseline.json"
    baseline.write_text(baseline.read_text().replace("half.py", "net.py"))
    return project


def test_text_names_figures_and_cause(over: Path, run: Run) -> None:
    code, out, _ = run("check")
    assert code == 1
    assert "24.58 kMACs  49.15 kMACs  +24.58 kMACs (+100.00 %)" in out
    assert "ffn.expand: Conv2d weight 4x3x1x1 became weight 8x3x1x1 [+24.58 kMACs, +12 parameters]" in out


def test_json_holds_whole_numbers(over: Path, run: Run) -> None:
    _, out, _ = run("check", "--format", "json")
    record = json.loads(out)
    assert (record["schema"], record["passed"]) == ("segmeter.check/1", False)
    verdicts = {v["what"]: v for v in record["models"][0]["verdicts"]}
    assert (verdicts["total"]["before"], verdicts["total"]["now"]) == (MACS // 2, MACS)
    assert verdicts["ffn"]["status"] == "within"


def test_github_annotates_file_and_line_of_the_class(over: Path, run: Run) -> None:
    _, out, _ = run("check", "--format", "github")
    # nn.Conv2d is not defined in the project: the class around it, Ffn, is, on line 5.
    assert out.startswith(
        "::error file=net.py,line=5,title=segmeter%3A tiny::total +24.58 kMACs (+100.00 %25)"
    )
    assert out.count("::error ") == 2  # total and parameters


def test_junit_has_a_case_for_each_figure(over: Path, run: Run) -> None:
    _, out, _ = run("check", "--format", "junit")
    suite = ElementTree.fromstring(out).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["total", "params"]


def test_markdown_is_a_table(over: Path, run: Run) -> None:
    _, out, _ = run("check", "--format", "markdown")
    assert out.startswith("### segmeter: over budget")
    assert "| total | 24.58 kMACs | 49.15 kMACs |" in out


def test_sarif_points_at_the_line(over: Path, run: Run) -> None:
    _, out, _ = run("check", "--format", "sarif", "--output", "gate.sarif")
    assert out == ""
    content = json.loads((over / "gate.sarif").read_text())
    assert content["version"] == "2.1.0"
    place = content["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("net.py", 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"60 kMACs"', '"60 kMAX"', "unknown unit 'kMAX'"),
        ('"60 kMACs"', "nan", "must be a limit such as"),
        ('"60 kMACs"', "inf", "must be a limit such as"),
        ('"60 kMACs"', "-1", "must be a limit such as"),
        ('"60 kMACs"', "true", "must be a limit such as"),
        ("ffn =", "fnn =", "no component 'fnn'; did you mean 'ffn'?"),
        ("size =", "seize =", "unknown key 'seize'; did you mean 'size'?"),
        ("limits", "limit", "unknown key 'limit'; did you mean 'limits'?"),
        ("[models.tiny]", "[models.tiny", "budgets.toml is not TOML"),
        ("32x64", "33x64", "33x64"),
        ("net.py:Net", "net.py:Nett", "models.tiny: "),
        ("net.py:Net", "gone.py:Net", "no such file"),
        ("baseline.json", "budgets.toml", "baseline budgets.toml is not valid JSON"),
    ],
)
def test_bad_budgets_are_one_line_and_exit_2(
    project: Path, run: Run, old: str, new: str, message: str
) -> None:
    run("baseline", "update")
    budgets = project / "budgets.toml"
    assert old in budgets.read_text()
    budgets.write_text(budgets.read_text().replace(old, new))
    code, out, err = run("check")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("segmeter.baseline/2", "segmeter.baseline/9", "has schema 'segmeter.baseline/9', expected"),
        ("net.py:Net", "other.py:Net", "baseline is of another model, other.py:Net instead of net.py:Net"),
        ("32x64", "64x64", "baseline is of another size, 64x64 instead of 32x64"),
        ('"tiny"', '"large"', "baseline baseline.json lacks tiny; run `segmeter baseline update`"),
        ('"params": 24', '"params": -24', "params must be a whole number >= 0, below 2^63, got -24"),
        ('"calls": 1, ', "", "must have exactly the keys"),
    ],
)
def test_bad_baselines_are_one_line_and_exit_2(
    project: Path, run: Run, old: str, new: str, message: str
) -> None:
    run("baseline", "update")
    baseline = project / "baseline.json"
    assert old in baseline.read_text()
    baseline.write_text(baseline.read_text().replace(old, new))
    code, out, err = run("check")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_baseline_from_before_inputs_were_kept_is_read(project: Path, run: Run) -> None:
    run("baseline", "update")
    baseline = project / "baseline.json"
    text = re.sub(r'"inputs": "[^"]*", ', "", baseline.read_text())
    assert '"inputs"' not in text
    baseline.write_text(text.replace("segmeter.baseline/2", "segmeter.baseline/1"))
    assert run("check")[0] == 0


def test_the_users_traceback_is_shown_only_when_asked_for(project: Path, run: Run) -> None:
    (project / "net.py").write_text("def Net():\n    return 1 / 0\n")
    budgets = project / "budgets.toml"
    budgets.write_text(budgets.read_text().replace('baseline = "baseline.json"', ""))
    line = "segmeter: models.tiny: net.py:Net cannot be built: ZeroDivisionError: division by zero\n"
    code, _, err = run("check")
    assert (code, err.replace(f"{project}/", "")) == (2, line)
    _, _, err = run("check", "--verbose")
    assert "Traceback" in err
    assert "return 1 / 0" in err


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_summary_that_a_full_disk_does_not_take_is_misuse_by_name(project: Path, run: Run) -> None:
    run("baseline", "update")
    code, _, err = run("check", "--summary", "/dev/full")
    assert (code, err) == (2, "segmeter: cannot write /dev/full: No space left on device\n")


def test_another_revision_is_counted_in_a_worktree_of_its_own(project: Path, run: Run) -> None:
    git(project, "init", "--quiet")
    (project / "net.py").write_text(MODEL.replace("Ffn(8)", "Ffn(4)"))
    git(project, "add", "net.py")
    git(project, "commit", "--quiet", "-m", "half as wide")
    (project / "net.py").write_text(MODEL)
    code, out, _ = run("check", "--baseline", "git:HEAD")
    assert code == 1
    assert "ffn.expand: Conv2d weight 4x3x1x1 became weight 8x3x1x1" in out
    assert "against git:HEAD" in out
    listed = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1
    code, _, err = run("check", "--baseline", "git:no-such-branch")
    assert (code, err) == (2, "segmeter: no git revision 'no-such-branch'\n")
    # A clone of its newest commit alone, as CI makes it.
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True).stdout
    (project / ".git" / "shallow").write_text(head)
    code, _, err = run("check", "--baseline", "git:HEAD~1")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("segmeter: no git revision 'HEAD~1': this clone is shallow; fetch its history")


@pytest.mark.parametrize("folder", ["src", "python/lib"])
def test_a_revision_s_own_package_is_counted_not_the_installed_one(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """As with an editable install: the working tree's folder is on the path of every process."""
    package = project / folder / "gate_test_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MODEL.replace("Ffn(8)", "Ffn(4)"))
    budgets = project / "budgets.toml"
    budgets.write_text(budgets.read_text().replace("net.py:Net", "gate_test_package:Net"))
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "half as wide")
    (package / "__init__.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(project / folder))
    code, out, _ = run("check", "--baseline", "git:HEAD")
    sys.modules.pop("gate_test_package")
    assert code == 1
    assert "ffn.expand: Conv2d weight 4x3x1x1 became weight 8x3x1x1" in out


def test_outside_a_repository_a_revision_is_misuse(project: Path, run: Run) -> None:
    code, _, err = run("check", "--baseline", "git:HEAD")
    assert code == 2
    assert err.count("\n") == 1


def test_segmeters_own_encoders_are_within_budget_and_count_the_same_on_every_torch(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    code, out, _ = run("check", "results/budgets.toml")
    assert (code, out.splitlines()[-1][:13]) == (0, "within budget")
    # The recorded file is the same to the byte on whatever Python and torch this runs.
    again = tmp_path / "baseline.json"
    run("baseline", "update", "results/budgets.toml", "--output", str(again))
    assert again.read_bytes() == Path("results/baseline.json").read_bytes()


def test_a_model_s_toml_file_lies_beside_the_budget(project: Path, run: Run) -> None:
    (project / "models").mkdir()
    (project / "models" / "net.py").write_text(MODEL)
    (project / "models" / "tiny.toml").write_text('model = "net.py:Net"\n[components]\n"ffn.*" = "wide"\n')
    budgets = project / "models" / "budgets.toml"
    budgets.write_text('[models.tiny]\nmodel = "tiny.toml"\nsize = "32x64"\nlimits = { wide = "49_152" }\n')
    code, out, err = run("check", "models/budgets.toml")
    assert (code, err) == (0, "")
    assert "wide" in out


def commit_all(project: Path) -> None:
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "first")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('size = "32x64"', 'size = "64x64"', "in the budget file size 32x64 became 64x64"),
        ("net.py:Net", "wide.py:Net", "in the budget file model net.py:Net became wide.py:Net"),
    ],
)
def test_what_the_budget_file_asks_for_counts_as_a_change_under_a_revision(
    project: Path, run: Run, old: str, new: str, said: str
) -> None:
    (project / "wide.py").write_text(MODEL.replace("Ffn(8)", "Ffn(16)"))
    budgets = project / "budgets.toml"
    budgets.write_text(budgets.read_text().replace("60 kMACs", "900 kMACs"))
    commit_all(project)
    budgets.write_text(budgets.read_text().replace(old, new))
    code, out, _ = run("check", "--baseline", "git:HEAD", "--format", "sarif")
    assert code == 1
    (total,) = [r for r in json.loads(out)["runs"][0]["results"] if ": total " in r["message"]["text"]]
    # Twice the MACs, and why.
    assert (
        f"(+100.00 %) since git:HEAD to 98.30 kMACs, limit 49.15 kMACs, because {said}"
        in (total["message"]["text"])
    )
    place = total["locations"][0]["physicalLocation"]
    # What was edited is the budget file.
    assert place["artifactLocation"]["uri"] == "budgets.toml"
    assert place["region"]["startLine"] == budgets.read_text().splitlines().index("[models.tiny]") + 1


def test_places_are_relative_to_the_repository_from_any_folder(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project / "a folder" / "models"
    inner.mkdir(parents=True)
    (inner / "net.py").write_text(MODEL)
    (inner / "budgets.toml").write_text(BUDGETS.replace('baseline = "baseline.json"', "").replace("60", "1"))
    git(project, "init", "--quiet")
    for folder in (project, inner, inner.parent):
        monkeypatch.chdir(folder)
        code, out, _ = run("check", str(inner / "budgets.toml"), "--format", "github")
        assert (code, out.splitlines()[0][:42]) == (1, "::error file=a folder/models/net.py,line=5")
    _, out, _ = run("check", str(inner / "budgets.toml"), "--format", "sarif")
    (result,) = json.loads(out)["runs"][0]["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert uri == {"uri": "a%20folder/models/net.py", "uriBaseId": "%SRCROOT%"}


def test_every_result_has_a_place_to_upload(project: Path, run: Run) -> None:
    """Code scanning refuses a file with one result that has none."""
    (project / "net.py").write_text("from torch import nn\n\n\ndef Net():\n    return nn.Conv2d(3, 8, 1)\n")
    budgets = project / "budgets.toml"
    budgets.write_text(
        '[models.tiny]\nmodel = "net.py:Net"\nsize = "32x64"\nlimits = { total = 1, params = 1 }\n'
    )
    code, out, _ = run("check", "--format", "sarif")
    results = json.loads(out)["runs"][0]["results"]
    assert (code, len(results)) == (1, 2)
    for result in results:
        place = result["locations"][0]["physicalLocation"]
        assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("budgets.toml", 1)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("9" * 400, "total must be a limit such as"),
        (f'"{"9" * 400} GMACs"', "total has 400 digits"),
        ("0x" + "f" * 5000, "Exceeds the limit (4300 digits) for integer string conversion\n"),
        ('"1e400"', "total must be a limit such as"),
        ("[" * 300 + "]" * 300, "got [[[[[[[...]]]]]]]"),
        ("[" * 20_000 + "]" * 20_000, "nested beyond reason"),
        ("{a = " * 20_000 + "1" + "}" * 20_000, "nested beyond reason"),
        (".".join(["{x"] * 1) + ".a" * 20_000 + " = 1}", "nested beyond reason"),
    ],
    ids=["digits", "text-of-digits", "hexadecimal", "exponent", "lists", "deep-lists", "tables", "keys"],
)
def test_a_limit_beyond_reason_is_one_line_and_exit_2(
    project: Path, run: Run, limit: str, message: str
) -> None:
    budgets = project / "budgets.toml"
    budgets.write_text(BUDGETS.replace('{ ffn = "60 kMACs" }', "{ total = " + limit + " }"))
    code, out, err = run("check")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err and len(err) < 3000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 20_000 + "]" * 20_000, "nested beyond reason"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, "nested beyond reason"),
        ("[" * 900 + "]" * 900, "has schema None"),
        ("NaN", "NaN is no number"),
        ("9" * 5000, "is not valid JSON"),
        ("\ud800", "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
    ids=["lists", "dicts", "lists-that-parse", "nan", "digits", "surrogate", "empty"],
)
def test_a_hostile_baseline_is_one_line_and_exit_2(
    project: Path, run: Run, content: str, message: str
) -> None:
    (project / "baseline.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    code, out, err = run("check")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err and len(err) < 3000


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        ("total", 10**400, "total must be a whole number >= 0, below 2^63"),
        ("total", 1.5, "total must be a whole number"),
        ("total", True, "total must be a whole number"),
        ("total", MACS - 1, "its modules add up to 49152"),
        ("params", 25, "its modules add up to 24"),
        ("uncounted", {"a": 1}, "uncounted must map names to text"),
        ("modules", {"x": [[[[]]]]}, "must have exactly the keys"),
    ],
)
def test_a_baseline_that_was_tampered_with_is_refused(
    project: Path, run: Run, figure: str, value: object, message: str
) -> None:
    run("baseline", "update")
    baseline = project / "baseline.json"
    content = json.loads(baseline.read_text())
    content["models"]["tiny"][figure] = value
    baseline.write_text(json.dumps(content))
    code, out, err = run("check")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
