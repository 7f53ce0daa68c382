"""A paper's numbers: the worked example is whole, and what is typed by hand or out of date is found."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness.paper import check_paper, read_plan
from tests.helpers.places import ROOT

EXAMPLE = ROOT / "docs" / "paper"
MINE = "import torch\n\ndef tiny():\n    return torch.nn.Conv2d(3, 4, 1)\n"
# 32 x 32 pixels of 3 x 4 products; with a kernel of 3, nine times that.
PLAN = """
[defaults]
padded_size = "32x32"
convention = "macs"
[numbers.small]
count = "mine.py:tiny"
digits = 6
"""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_the_example_is_as_it_would_be_written_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("paper", EXAMPLE / "numbers.toml", "--check", EXAMPLE / "main.tex") == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert run("paper", EXAMPLE / "numbers.toml", "--out", tmp_path) == 0
    for path in tmp_path.iterdir():
        kept = EXAMPLE / path.name
        if path.suffix == ".tex":
            # The versions are in the second line of the macros.
            lines = [line for line in path.read_text().splitlines() if not line.startswith("% segmeter ")]
            assert [x for x in kept.read_text().splitlines() if not x.startswith("% segmeter ")] == lines
        else:
            assert kept.read_bytes().startswith(b"%PDF-")
    assert len(list(tmp_path.iterdir())) == 6


def test_the_examples_latex_is_whole() -> None:
    main_text = (EXAMPLE / "main.tex").read_text()
    included = {
        name: (EXAMPLE / f"{name}.tex").read_text() for name in re.findall(r"\\input\{(.*?)\}", main_text)
    }
    whole = "\n".join([main_text, *included.values()])
    bare = re.sub(r"(?<!\\)%.*", "", whole).replace("\\{", "").replace("\\}", "")
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(.*?)\}", bare):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    used = set(re.findall(r"\\(num[A-Za-z]+)", main_text))
    assert used == set(re.findall(r"\\newcommand\{\\(\w+)\}", included["numbers"]))
    rows = [line for line in included["table-costs"].splitlines() if line.endswith(r"\\")]
    assert len(rows) == 6 and {row.count("&") for row in rows} == {4}
    for name in re.findall(r"\\includegraphics.*?\{(.*?)\}", whole):
        assert (EXAMPLE / f"{name}.pdf").is_file()
    for name in re.findall(r"\\ref\{(.*?)\}", main_text):
        assert rf"\label{{{name}}}" in whole


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_the_example_compiles(tmp_path: Path) -> None:
    for path in EXAMPLE.iterdir():
        shutil.copy(path, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
    # Nothing runs into a margin, no reference is left open, no letter is missing.
    assert not re.search(r"Overfull|undefined|Missing character", done.stdout), done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "numbers.toml").write_text(PLAN)
    return tmp_path


def test_a_number_is_counted_and_written_with_its_source(folder: Path) -> None:
    assert run("paper", "numbers.toml") == 0
    text = (folder / "numbers.tex").read_text()
    # 12,288 MACs.
    assert r"\newcommand{\numSmall}{0.000012}% GMACs: mine.py:tiny, total, convention macs" in text


def number(macro: str, value: float, unit: str, digits: int = 2) -> dict[str, Any]:
    return {"macro": macro, "value": value, "text": f"{value:.{digits}f}", "unit": unit, "source": "s"}


NUMBERS = [
    number("numA", 135.348, "GMACs"),
    number("numChange", -51.856, "%", 1),
    number("numTime", 12.34, "ms"),
    number("numOld", 97.5, "GMACs", 1),
]


def findings(folder: Path, text: str, written: str | None = None) -> list[tuple[int, str, str]]:
    """Line, rule and macro of each finding in a text."""
    macros = folder / "numbers.tex"
    plain = "".join(f"\\newcommand{{\\{one['macro']}}}{{{one['text']}}}% s\n" for one in NUMBERS)
    macros.write_text(plain if written is None else written)
    (folder / "main.tex").write_text(text)
    check = check_paper(folder / "main.tex", NUMBERS, {macros: plain}, macros, "num")
    return [
        (one["line"], one["rule"], match[1] if (match := re.search(r"\\(num\w+)", one["text"])) else "")
        for one in check["findings"]
        if one["file"].endswith("main.tex") or written is not None
    ]


@pytest.mark.parametrize(
    ("text", "rule", "macro"),
    [
        ("costs 135.35 GMACs", "typed by hand", "numA"),
        ("costs 135.3~GFLOPs", "typed by hand", "numA"),
        ("costs 135 of them", "typed by hand", "numA"),
        ("\\textbf{135.348}", "typed by hand", "numA"),
        ("falls by 51.9\\,\\%", "typed by hand", "numChange"),
        ("falls by $-51.9\\%$", "typed by hand", "numChange"),
        ("falls by 52\\% of it", "typed by hand", "numChange"),
        ("takes 12~ms", "typed by hand", "numTime"),
        ("costs 136.2 GMACs", "differs", "numA"),
        ("takes 12.5 ms", "differs", "numTime"),
        ("\\newcommand{\\mine}{135.35}", "typed by hand", "numA"),
        ("costs \\numB{} GMACs", "not defined", "numB"),
        ("takes \\SI{12}{ms}", "typed by hand", "numTime"),
        ("takes \\qty{12}{\\milli\\second}", "typed by hand", "numTime"),
        ("a 135-GMAC encoder", "typed by hand", "numA"),
        ("takes 12ms", "typed by hand", "numTime"),
        ("falls by 52 per cent", "typed by hand", "numChange"),
        ("costs 135.35% so\nGMACs", "typed by hand", "numA"),
    ],
)
def test_a_figure_beside_the_macros_is_found(text: str, rule: str, macro: str, tmp_path: Path) -> None:
    assert findings(tmp_path, f"first\n\n{text}\n") == [(3, rule, macro)]


@pytest.mark.parametrize(
    "text",
    [
        "costs \\numA{} GMACs, \\numChange\\,\\%",
        "% costs 135.35 GMACs",
        "costs 135.35 GMACs as printed % segmeter: ignore",
        "\\begin{verbatim}\n135.35\n\\end{verbatim}",
        "\\label{fig:135.35}\\cite{a135.35}\\hspace{135.35pt}\\vspace{12.34ex}",
        "\\begin{tabular}{p{135.35mm}}x\\end{tabular}",
        "\\includegraphics[width=12.34cm]{135.35}",
        "takes 135.35 ms",
        "takes \\qty{135.35}{\\milli\\second}, a 135-way split, 135Gold",
        "\\verb|135.35|\\lstinline!135.35!\\iffalse 135.35\n\\fi",
        "\\end{document}\n135.35",
        "\\verb|" * 20_000 + "\\iffalse" * 20_000,
        "12 layers, 52 rows, 97 images",
        "ResNet-135, v12.34.1, 1024x135, 1135.35, 135.35.1, GPT-135",
        "costs 140.0 GMACs of another",
        # Brackets that never close are looked through once, not once for each.
        "\\ref{" * 30_000,
        "\\begin{verbatim}" * 10_000,
        "",
    ],
)
def test_what_is_no_figure_of_ours_is_left_alone(text: str, tmp_path: Path) -> None:
    assert findings(tmp_path, text) == []


def test_a_macro_that_moved_is_out_of_date_and_so_is_its_old_value(tmp_path: Path) -> None:
    written = "".join(
        f"\\newcommand{{\\{one['macro']}}}{{{'120.7' if one['macro'] == 'numOld' else one['text']}}}% s\n"
        for one in NUMBERS
    )
    assert findings(tmp_path, "a\n120.7 GMACs\n", written) == [
        (4, "out of date", "numOld"),
        (2, "differs", "numOld"),
    ]


def test_included_files_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    parts = ("part", "bare", "sections/own")
    for part in parts:
        (tmp_path / f"{part}.tex").write_text("\n\n135.35\n")
    text = "\\input{part}\\input bare\n\\subimport{sections/}{own}\\input{missing}\\input{numbers}"
    assert findings(tmp_path, text) == []
    check = check_paper(tmp_path / "main.tex", NUMBERS, {}, tmp_path / "numbers.tex", "num")
    found = [one for one in check["findings"] if not one["file"].endswith("numbers.tex")]
    assert [(one["file"], one["line"]) for one in found] == [(f"{tmp_path}/{part}.tex", 3) for part in parts]


def test_no_include_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of its folder"):
        findings(tmp_path, "\\input{../../etc/passwd}")


def test_exit_codes_and_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "main.tex").write_text("\\input{numbers}\n\\numSmall\n")
    assert run("paper", "numbers.toml", "--check", "main.tex") == 1
    assert "numbers.tex:1: out of date: is not written yet" in capsys.readouterr().out
    assert run("paper", "numbers.toml") == 0
    assert run("paper", "numbers.toml", "--check", "main.tex") == 0
    (folder / "main.tex").write_text("\n0.000012 GMACs\n")
    capsys.readouterr()
    assert run("paper", "numbers.toml", "--check", "main.tex", "--json") == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert (found["file"], found["line"], found["rule"]) == ("main.tex", 2, "typed by hand")
    assert run("paper", "numbers.toml", "--check", "none.tex") == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no [numbers.NAME]"),
        ("[numbers.a]\ncuont = 'm2f'", "did you mean 'count'"),
        ("[numbers.a]\nwhat = 'total'", "needs one of count, record, change and ratio, got none"),
        ("[numbers.a]\ncount = 'm2f'\nrecord = 'x'", "got count and record"),
        ("[numbers.'a b']\ncount = 'm2f'", "is no name"),
        ("[numbers.a]\ncount = 'm2f'\ndigits = 99", "digits must be from 0 to 9"),
        ("[numbers.a]\ncount = 'm2f'\nconvention = 'mac'", "did you mean 'macs'"),
        ("[numbers.a-b]\ncount = 'm2f'\n[numbers.a_b]\ncount = 'm2f'", "are both \\numAB"),
        ("[numbers.a]\nchange = ['a', 'b']", "no other number 'a'"),
        ("[numbers.a]\nratio = ['b', 'b']\n[numbers.b]\nratio = ['a', 'a']", "are made of each other"),
        ("[numbers.a]\nrecord = 'none.json'\nwhat = 'fps'", "none.json is missing"),
        ("[numbers.a]\ncount = 'mine.py:tiny'\nwhat = 'encodr'", "has no component 'encodr'"),
        ("[numbers.a]\ncount = 'no-such'", "no-such"),
        ("[tables.a]\nmodels = ['m2f']\ncolumns = ['latency_ms']", "names no records"),
        ("[tables.a]\nmodels = [1]", "must be a list of texts"),
        ("[figures.a]\nkind = 'pie'\nmodels = ['m2f']", "unknown kind of figure 'pie'"),
        ("[figures.a]\nkind = 'layers'\nmodels = ['m2f@r50']", "a MODEL does not go with layers"),
        ("[figures.a]\nkind = 'realised'\nrecords = 'none'", "figures.a"),
        ("[figures.a]\nkind = 'pareto'\ny = 'pg'", "did you mean 'pq'"),
        ("[figures.a]\nkind = 'pareto'\npadded_size = '32x32'", "figures.a.padded_size is unknown"),
        ("prefix = 'a1'\n[numbers.a]\ncount = 'm2f'", "prefix must be letters"),
        ("[[", "is not TOML"),
    ],
)
def test_a_bad_file_is_told_in_one_line(
    content: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "numbers.toml").write_text(content)
    assert run("paper", "numbers.toml") == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and "numbers.toml" in said.err
    assert not (folder / "numbers.tex").exists()


def test_nothing_in_a_name_acts_in_latex(folder: Path) -> None:
    hostile = "50 % \\\\input{/etc/passwd} $x$ & #1 ~^_"
    (folder / "numbers.toml").write_text(
        f'[tables.a]\nmodels = ["mine.py:tiny"]\npadded_size = "32x32"\ncolumns = ["total"]\n'
        f'caption = "{hostile}\\nsecond"\nlabel = "x}}\\\\input{{y}}"\n'
    )
    assert read_plan(folder / "numbers.toml").tables[0].caption.endswith("second")
    assert run("paper", "numbers.toml") == 0
    text = (folder / "table-a.tex").read_text()
    (told,) = re.findall(r"^\\caption\{.*\}$", text, re.M)
    assert "\\input" not in text and r"50 \% \textbackslash{}input\{/etc/passwd\} \$x\$ \& \#1" in told
    assert r"\label{xinputy}" in text
