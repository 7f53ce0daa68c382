"""Names out of files act nowhere: not in a terminal, a job's log, markup, a spreadsheet or a picture."""

import csv
import doctest
import html.parser
import io
import json
import re
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from segmeter.commands.console import show, show_json, warn
from segmeter.commands.main import main
from segmeter.harness.records.runs import export, run_from
from segmeter.plain import csv_text, json_text, latex, markdown_code, one_line, plain, shown
from segmeter.reports.html.parts import tag
from segmeter.reports.plots.breakdown import figure_bytes
from segmeter.reports.plots.style import paper_style
from segmeter.reports.text.gate_ci import FORMATS, rendered
from segmeter.reports.text.markdown import markdown_table
from tests.helpers.places import DATA

ESCAPES = "\x1b[31m\x1b]0;title\x07\x9b2J\x08\x7f\u202e\u2028\x85"
COMMANDS = (
    "\n::error file=a,line=1::pwned\r\n::set-output name=a::b\n  ::stop-commands::x\n##[error]x##vso[x]"
)
MARKUP = "<script>alert(1)</script><img src=x onerror=y>|`b`|![i](http://x)[/red][bold]:smile:$\\bad{ @user"
HOSTILE = f"m{ESCAPES}{COMMANDS}{MARKUP}"
# What a terminal acts on, or what turns a line into two.
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")
# What GitHub's runner takes for a command: a line that begins so, once blanks before it are cut off.
COMMAND = re.compile(r"^\s*::[\w-]+.*::|##\w*\[", re.MULTILINE)


def assert_harmless(text: str) -> None:
    assert not ACTS.search(text), ACTS.findall(text)
    assert not COMMAND.search(text), COMMAND.findall(text)


@given(st.text())
def test_no_text_at_all_acts_in_a_terminal_or_a_log(text: str) -> None:
    line = plain(text)
    assert "\n" not in line
    assert_harmless(line)
    assert plain(line) == line


@given(st.text("ab :#[]error\n\x1b", max_size=60))
def test_no_broken_line_of_a_table_is_a_command(text: str) -> None:
    words = plain(f"{text}::error file=x::y")
    for start in range(len(words)):
        assert not re.match(r"::(error|warning|set-output)\b.*::", words[start:], re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    ["m2f@swin-t:layers=3", "aten::mm", "mylib::fused_ffn", "layers.*.ffn", "größe 3 µs ± 2", "a\u00a0b"],
)
def test_good_names_stay_as_they_are(text: str) -> None:
    assert plain(text) == text


def test_the_terminal_shows_letters(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    show(HOSTILE, table)
    warn(HOSTILE)
    said = capsys.readouterr()
    assert_harmless(said.out + said.err)
    assert said.err.count("\n") == 1
    # Markup is letters too, and no reason to stop.
    assert "[/red][bold]:smile:" in said.out.replace("\n", "")


def test_json_is_the_same_content_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"model": HOSTILE})
    said = capsys.readouterr().out
    assert_harmless(said)
    assert json.loads(said) == {"model": HOSTILE}
    assert json.loads(json_text([HOSTILE], None)) == [HOSTILE]


def gate_record() -> dict:
    change = {"kind": "changed", "path": HOSTILE, "text": HOSTILE, "work": 1, "params": 1, "components": []}
    over = {"what": HOSTILE, "status": "over", "now": 3, "before": 2, "limit": 2, "unit": "MACs"}
    rest = {"causes": [change, change], "detail": HOSTILE, "file": HOSTILE, "line": 1}
    uncounted = {**over, "status": "uncounted"}
    about = {"name": HOSTILE, "model": HOSTILE, "size": HOSTILE, "convention": "macs", "unit": "GMACs"}
    model = {**about, "verdicts": [{**over, **rest}, {**uncounted, **rest}], "changes": [change]}
    return {"schema": "x", "passed": False, "against": HOSTILE, "models": [model]}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_the_gate_is_harmless(form: str) -> None:
    text = rendered(gate_record(), form)
    own = [line for line in text.splitlines() if form == "github" and line.startswith("::error ")]
    rest = text
    for line in own:
        # Its own commands: one line each, in which nothing ends the properties or the message early.
        assert re.fullmatch(r"::error file=[^:,]*,line=1,title=[^:,]*::.*", line)
        rest = rest.replace(line, "")
    assert len(own) == (2 if form == "github" else 0)
    assert_harmless(rest)
    if form == "junit":
        assert len(ElementTree.fromstring(text).findall(".//failure")) == 2
    if form in ("json", "sarif"):
        json.loads(text)


class Tags(html.parser.HTMLParser):
    """What a browser would make of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)


def test_markdown_holds_no_html_no_link_and_no_cell_of_its_own() -> None:
    table = markdown_table(["model", "GMACs"], [[HOSTILE, "1"]])
    assert_harmless(table)
    assert table.count("\n") == 2
    assert Tags(table).tags == []
    row = table.splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not re.search(r"(?<!\\)[`*\[\]]", row)
    report = rendered(gate_record(), "markdown")
    outside_code = re.sub(r"(`+) .*? \1(?!`)", "", report)
    assert Tags(outside_code).tags == []


@given(st.text("a`b |\n", max_size=20))
def test_code_in_markdown_ends_where_it_ends(text: str) -> None:
    code = markdown_code(text)
    fence = re.match("`+", code)[0]
    runs = re.findall("`+", code)
    assert runs.count(fence) == 2 and "\n" not in code


def test_html_has_no_element_of_a_name() -> None:
    made = tag("td", HOSTILE, title=HOSTILE)
    assert Tags(made).tags == ["td"]
    assert_harmless(made)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", " =1", "\t=1", "\r=1", HOSTILE]
)
def test_a_spreadsheet_sees_no_formula(cell: str) -> None:
    ((read, number),) = csv.reader(io.StringIO(csv_text([[cell, -1.5]])))
    assert not read.lstrip().startswith(("=", "+", "-", "@"))
    assert not ACTS.search(read)
    assert number == "-1.5"


def test_figures_stay_figures_in_csv() -> None:
    assert csv_text([["-3.5", "+2.00 %", "-", None, 7, "1e-5", "-1,024"]]) == (
        '-3.5,+2.00 %,-,,7,1e-5,"-1,024"\n'
    )


def test_latex_reads_no_command_of_a_name() -> None:
    made = latex(HOSTILE)
    assert_harmless(made)
    left = re.sub(r"\\textbackslash\{\}|\\text(less|greater)\{\}|\\[&%$#_{}]", "", made)
    assert not set(left) & set("\\&%$#_{}")


def test_a_picture_draws_the_letters() -> None:
    from matplotlib.figure import Figure

    with paper_style():
        figure = Figure()
        figure.text(0.1, 0.5, f"{HOSTILE}$\\bad{{$")
        svg = figure_bytes(figure, "svg").decode()
    ElementTree.fromstring(svg)
    assert not ACTS.search(svg)


@pytest.mark.parametrize(
    "value",
    [HOSTILE, [[[HOSTILE] * 9] * 9] * 9, {HOSTILE: 1}, 10**5000, float("nan")],
    ids=["text", "nested", "dict", "long", "nan"],
)
def test_a_value_in_a_message_is_short_and_one_line(value: object) -> None:
    assert len(shown(value)) < 500
    assert_harmless(shown(value))


def test_a_value_nested_beyond_the_stack_is_shown() -> None:
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert shown(value).startswith("[")
    while value:
        # Python frees a list in a list in a list on the stack.
        value = value.pop()


def test_an_error_line_has_an_end() -> None:
    assert len(one_line(ValueError("x" * 10**6))) < 2100
    assert "\n" not in one_line(ValueError(HOSTILE))


# Real commands on a hostile record ------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path, monkeypatch):
    content = json.loads((DATA / "run_version_1.json").read_text())
    content |= {"model": HOSTILE, "title": HOSTILE, "kind": HOSTILE, "id": "r1", "time": HOSTILE}
    content["components"] = {HOSTILE: next(iter(content["components"].values()), {"ms": 1.0})}
    content["notes"] = {HOSTILE: HOSTILE}
    content["settings"] |= {"method": HOSTILE, "device": HOSTILE, "dtype": HOSTILE, HOSTILE: HOSTILE}
    content["environment"]["device_name"] = HOSTILE
    (tmp_path / "r1.json").write_text(json.dumps(content))
    content |= {"id": "r2", "model": "=1+1", "title": "=1+1"}
    content["environment"] = {**content["environment"], "device_name": f"another {HOSTILE}"}
    (tmp_path / "r2.json").write_text(json.dumps(content))
    (tmp_path / "r3.json").write_text(json.dumps({"schema": HOSTILE}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "results list --from .",
        "results list --from . --json",
        "results show r1 --from .",
        "results show r1 --from . --json",
        "results diff r1 r2 --from .",
        "compare --from .",
        "compare --from . --markdown",
        "compare --from . --json",
        f"results show {HOSTILE.split()[0]} --from .",
    ],
)
def test_commands_that_print_records_are_harmless(records, command, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split(" "))
    said = capsys.readouterr()
    assert stopped.value.code in (0, 1, 2)
    assert said.out or said.err
    assert_harmless(said.out)
    assert_harmless(said.err)
    if "--markdown" in command:
        outside_code = "\n".join(line for line in said.out.splitlines() if not line.startswith("    "))
        assert Tags(outside_code).tags == []


def test_exported_records_hold_no_formula(records) -> None:
    run = run_from(json.loads((records / "r2.json").read_text()))
    export([run], "csv", records / "out.csv")
    header, row = csv.reader(io.StringIO((records / "out.csv").read_text(), newline=""))
    assert not any(cell.startswith(("=", "@")) for cell in (*header, *row))
    assert "'=1+1" in row


def test_examples_in_docstrings_hold() -> None:
    outcome = doctest.testmod(sys.modules["segmeter.plain"])
    assert outcome.attempted > 5 and not outcome.failed
