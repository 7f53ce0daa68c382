"""Tables at any width: nothing that a table says is cut."""

import io
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from segmeter.reports.text.fit import fitted
from segmeter.reports.text.screen import Screen

WORDS = st.text("abcdefgh-()", min_size=1, max_size=14)
TEXTS = st.lists(WORDS, max_size=5).map(" ".join)
FIGURES = st.one_of(
    st.just("-"),
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.2f}"),
    st.floats(0, 100).map(lambda value: f"{value:.2f} %"),
    st.floats(0, 1e4).map(lambda value: f"{value:.1f} GMACs"),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    table = Table(title=draw(TEXTS))
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    for is_figure in kinds:
        table.add_column(draw(WORDS), justify="right" if is_figure else "left")
    for _ in range(draw(st.integers(0, 4))):
        table.add_row(*(draw(FIGURES if is_figure else TEXTS) for is_figure in kinds))
    return table


def drawn(table: Table, width: int) -> str:
    out = io.StringIO()
    Screen(file=out, width=width, color_system=None).print(fitted(table, width))
    return out.getvalue()


@settings(deadline=None, max_examples=150)
@given(tables(), st.sampled_from((60, 80, 100, 120, 200)))
def test_every_figure_and_word_is_there_whole(table: Table, width: int) -> None:
    text = drawn(table, width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for column in table.columns:
        for cell in column.cells:
            for part in [str(cell)] if column.justify == "right" else str(cell).split():
                assert part in ("", "-") or part in text, f"{part!r} is not in\n{text}"


def test_headings_stay_whole_over_rows_that_say_nothing() -> None:
    table = Table()
    for number in range(9):
        table.add_column(f"throughput-{number}")
    table.add_row(*["-"] * 9)
    assert "…" not in drawn(table, 60) and "throughput-8" in drawn(table, 200)


def test_a_column_without_figures_goes_and_one_that_never_changes_is_said_once() -> None:
    table = Table(title="Latency")
    for name, justify in (("model", "left"), ("where", "left"), ("ms", "right"), ("J/image", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for model, ms in (("m2f@swin-t:layers=3", "123.456"), ("pro-scale@swin-t:stages=1,1,1", "1234.567")):
        table.add_row(model, "an A100 on loan", ms, "-")
    assert "J/image" not in drawn(table, 120) and "123.456" in drawn(table, 120)
    narrow = drawn(table, 46)
    assert narrow.count("an A100 on loan") == 1
    # Narrower than any table: a block for each row, its figures under its name.
    blocks = drawn(table, 36).splitlines()
    at = blocks.index("pro-scale@swin-t:stages=1,1,1")
    assert re.match(r"\s+ms 1234\.567$", blocks[at + 1])
