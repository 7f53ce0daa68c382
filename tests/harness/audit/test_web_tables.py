"""HTML tables: what a browser shows is what is read, and nothing of it is run or passed on as markup."""

import random
from pathlib import Path

import pytest

from segmeter.harness.audit import audit_comparisons, read_comparisons
from segmeter.harness.audit.comparisons.reading import read_tables
from segmeter.harness.audit.comparisons.web_tables import web_tables
from segmeter.reports.text.comparisons import FORMATS, rendered
from tests.helpers.bounds import bounded

PAGE = """<!-- | not | a table | -->
<p>FPS measured on a V100, batch 1.</p>
<table><tbody>
<th valign="bottom">Name</th>
<th>inference<br/>time<br/>(s/im)</th><th>box<br/>AP</th><th>download</th>
<tr><td><a href="a.yaml">R50-C4</a></td>
<td>0.102</td><td><b>35.7</b></td><td><a href="x.pkl">model</a>&nbsp;|&nbsp;<a href="y">metrics</a></td></tr>
<tr><td>R50-FPN<sup>2x</sup><td>0.038*<td>37.9<td>
</table>
<p>* on an A100.</p>
<script>document.write("<table><tr><td>1</td></tr></table>")</script>
"""


def written(tmp_path: Path, text: str, name: str = "page.html") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["page.html", "zoo.md", "copied.txt"])
def test_a_table_of_a_page(name: str, tmp_path: Path) -> None:
    text = PAGE if name == "zoo.md" else PAGE[PAGE.index("<p>") :]
    (table,) = read_tables(written(tmp_path, text, name))
    assert [(c.header, c.kind) for c in table.columns[:3]] == [
        ("Name", "model"),
        ("inference time (s/im)", "latency"),
        ("box AP", "metric"),
    ]
    first, second = table.rows
    assert [first.figures[1].value, second.figures[1].value] == [102.0, 38.0]
    assert first.figures[2].marked and not second.figures[2].marked
    assert (first.model, second.model) == ("R50-C4", "R50-FPN")
    assert table.context(first, table.columns[1], "device") == "V100"
    assert table.context(second, table.columns[1], "device") == "A100"


def test_spans_reach_over_rows_and_columns() -> None:
    (table,) = web_tables(
        "<table><tr><th rowspan=2>model<th colspan=2>GMACs</tr><tr><th>encoder<th>total</tr>"
        "<tr><td rowspan=2>A<td>1<td>2</tr><tr><td>3<td>4</tr></table>"
    )
    assert [cells for _, cells in table.rows] == [
        ["model", "GMACs", "GMACs"],
        ["model", "encoder", "total"],
        ["A", "1", "2"],
        ["A", "3", "4"],
    ]


def test_three_lines_above_and_three_below_are_notes_of_a_table() -> None:
    lines = "".join(f"<p>line {number}</p>\n" for number in range(4))
    first, second = web_tables(
        f"{lines}<table><tr><td>a</tr><tr><td>1</tr></table>\n{lines}<table><tr><td>b</tr><tr><td>2</tr></table>"
    )
    assert first.notes == [f"line {number}" for number in (1, 2, 3, 0, 1, 2)]
    assert second.notes == [f"line {number}" for number in (1, 2, 3)]
    # Lines are numbered from 1, as editors number them.
    assert [line for line, _ in first.rows] == [5, 5]
    assert [line for line, _ in second.rows] == [10, 10]


def test_a_paragraph_that_ends_is_a_note_of_its_own() -> None:
    (table,) = web_tables("<p>Measured on a V100.</p>Batch 1.<table><tr><td>a</tr><tr><td>1</tr></table>")
    assert table.notes == ["Measured on a V100.", "Batch 1."]


def test_a_cell_of_three_rows_stands_in_three() -> None:
    (table,) = web_tables(
        "<table><tr><td rowspan=3>A<td>1</tr><tr><td>2</tr><tr><td>3</tr><tr><td>B</tr></table>"
    )
    assert [cells for _, cells in table.rows] == [["A", "1"], ["A", "2"], ["A", "3"], ["B"]]


def test_a_header_of_two_lines(tmp_path: Path) -> None:
    (table,) = read_tables(
        written(
            tmp_path,
            "<table><tr><th rowspan=2>model<th colspan=2>GMACs</tr><tr><th>encoder<th>total</tr>"
            "<tr><td>A<td>1.5<td>2.5</tr></table>",
        )
    )
    assert [column.header for column in table.columns] == ["model", "GMACs encoder", "GMACs total"]


HOSTILE = (
    "<table><tr><th>model<th>FPS (V100)</tr><tr><td>&lt;script&gt;alert(1)&lt;/script&gt;<td>{}</tr>"
    '<tr><td>=cmd|"/c calc"!A1<td>{}</tr></table>'
)


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_of_a_cell_leaves_as_markup(form: str, tmp_path: Path) -> None:
    record = audit_comparisons(read_comparisons([written(tmp_path, HOSTILE.format("-3", "-5"))]))
    assert record["counts"]["findings"]["contradiction"] == 2
    out = rendered(record, form)
    if form == "md":
        assert "<script" not in out and "](" not in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "text",
    [
        "<table>",
        "<table><tr><td>1</table>",
        "<table><tr><td colspan=99999999999>1</tr></table>",
        "<p>no table</p>",
        "<" * 1000,
        "<table><tr>" + "<td>" * 1000,
    ],
)
def test_damaged_pages_are_answered_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.html") as caught:
        read_comparisons([written(tmp_path, text)])
    assert "\n" not in str(caught.value)


def test_a_page_of_spans_is_bounded() -> None:
    wide = "<td colspan=200 rowspan=200>1" * 200
    with pytest.raises(ValueError, match="table cells"):
        web_tables("<table>" + f"<tr>{wide}</tr>" * 300 + "</table>")


def test_random_markup_ends() -> None:
    chance = random.Random(0)
    parts = [
        "<table>",
        "</table>",
        "<tr>",
        "<td>",
        "</td>",
        "<th rowspan=3>",
        "<sup>",
        "*",
        "1.5",
        "<b>",
        "a",
        "&lt;",
    ]
    for _ in range(300):
        for table in web_tables("".join(chance.choices(parts, k=60))):
            assert all(isinstance(cell, str) for _, cells in table.rows for cell in cells)


OPENINGS = [
    "<!--",
    "<a ",
    '<a b="',
    "<a b='>",
    "</a ",
    "<![CDATA[",
    "<![if ",
    "<?x ",
    "<script ",
    "<script>",
    "<",
    "&#9",
]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("end", ["", ">"])
def test_a_page_of_openings_is_read_in_one_go(opening: str, end: str) -> None:
    # Looked for once for each opening, the end that never comes takes minutes.
    assert bounded(web_tables, "<table>" + opening * 100_000 + end, seconds=5) == ""


def test_a_comment_that_does_not_end_hides_no_table() -> None:
    table = "<table><tr><td>a<td>b</tr><tr><td>1<td>2</tr></table>"
    for before in (
        "<!-- x",
        "<script>x='<!--'</script>",
        "<!doctype html>",
        "<!-- <table> -->",
        "&#" + "9" * 5000,
    ):
        (found,) = web_tables(f"{before}\n{table} <a")
        assert found.rows == [(2, ["a", "b"]), (2, ["1", "2"])]
