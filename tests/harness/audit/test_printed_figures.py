"""Single cells of tables: markup, separators, unit letters, changes, and what rounds to a printed figure."""

import pytest

from segmeter.harness.audit.comparisons.figures import (
    PREFIX,
    at_least,
    clean,
    is_bold,
    read_figure,
    read_number,
    scaled,
)
from segmeter.harness.audit.comparisons.table import Figure


@pytest.mark.parametrize(
    ("cell", "letters"),
    [
        ("12.5", "12.5"),
        ("Swin", "Swin"),
        (r"\textbf{52.0}\cite{a}", "52.0"),
        (r"$52.0_{\pm 0.3}$", "52.0 ± 0.3"),
        (r"$52.0_{ ± 0.3 }$", "52.0 ± 0.3"),
        (r"\textbf{\textit{\underline{\emph{\text{7}}}}}", "7"),
        (r"{\bf 31.2}", "31.2"),
        (r"\SI{12}{\ms}", "12"),
        (r"12.0\footnote{at night}\%", "12.0%"),
        (r"1{,}234~ms", "1,234 ms"),
        ("<b>[M2F](x)</b>", "M2F"),
        ("![logo](x.png) [M2F](y)", "logo M2F"),
        ("M2F<sup>a</sup> R50<SUB>b</SUB>", "M2F R50"),
        ("a<br>b &lt; c", "a b < c"),
        ("**1.5**", "1.5"),
        ("__`1.5`__", "1.5"),
        ("* 1.5 *", "1.5"),
        ("  two   words ", "two words"),
    ],
)
def test_markup_is_taken_from_a_cell(cell: str, letters: str) -> None:
    assert clean(cell) == letters


@pytest.mark.parametrize(
    ("cell", "bold"),
    [
        ("**1.5**", True),
        ("__1.5__", True),
        ("<B>1.5</B>", True),
        ("<strong class='x'>", True),
        (r"\mathbf{1}", True),
        (r"{\bfseries 1}", True),
        ("1.5", False),
        ("<br>", False),
        ("a_b_c", False),
        (r"\bfit", False),
    ],
)
def test_bold_is_told(cell: str, bold: bool) -> None:
    assert is_bold(cell) is bold


@pytest.mark.parametrize(
    ("text", "comma", "value", "half", "mark"),
    [
        ("12.5", None, 12.5, 0.05, "."),
        ("12", None, 12, 0.5, ""),
        ("12.", None, 12, 0.5, ""),
        ("0.125", None, 0.125, 0.0005, "."),
        ("1,234", None, 1234, 0.5, ""),
        ("1,234", True, 1.234, 0.0005, ","),
        ("1,234", False, 1234, 0.5, ""),
        ("1,234,567", True, 1234567, 0.5, ""),
        ("1,234.5", True, 1234.5, 0.05, "."),
        ("12,5", None, 12.5, 0.05, ","),
        ("-12,5", None, -12.5, 0.05, ","),
        ("1.234,5", None, 1234.5, 0.05, ","),
        ("\u22123", None, -3, 0.5, ""),
        ("↓3.0", None, -3, 0.05, "."),
        ("↑3.0", None, 3, 0.05, "."),
        ("- 3", None, -3, 0.5, ""),
        ("9999999999999998", None, 9999999999999998, 0.5, ""),
    ],
)
def test_numbers_and_the_half_of_their_last_digit(
    text: str, comma: bool | None, value: float, half: float, mark: str
) -> None:
    found = read_number(text, comma)
    assert found is not None
    assert found[0] == value and found[2] == mark
    assert found[1] == pytest.approx(half, rel=1e-12)


@pytest.mark.parametrize("text", ["1.2.3", "1e400", "10000000000000000", "-1" + 16 * "0", ",", "1,2,3"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("cell", "value", "half", "unit", "mark"),
    [
        ("55.14", 55.14, 0.005, "", "."),
        ("-55", -55, 0.5, "", ""),
        ("55.1G", 55.1, 0.05, "G", "."),
        ("55.1 GFLOPs", 55.1, 0.05, "GFLOPs", "."),
        ("12,5 ms", 12.5, 0.05, "ms", ","),
        ("1\u2009234 ms", 1234, 0.5, "ms", ""),
        # An approximate figure stands for 5 % either way, or for what rounds to it if that is more.
        ("~40", 40, 2, "", ""),
        ("≈ 4.0", 4, 0.2, "", "."),
        ("<4", 4, 0.5, "", ""),
        ("~-40", -40, 2, "", ""),
        ("31.2 ± 0.4", 31.2, 0.05, "", "."),
        ("31.2†", 31.2, 0.05, "", "."),
        ("31.2^a,b", 31.2, 0.05, "", "."),
        ("2.5x", 2.5, 0.05, "x", "."),
    ],
)
def test_a_cell_is_a_figure_with_its_range(
    cell: str, value: float, half: float, unit: str, mark: str
) -> None:
    found = read_figure(cell)
    assert found is not None
    assert (found.figure.value, found.unit, found.mark) == (value, unit, mark)
    assert found.figure.high - value == pytest.approx(half) == value - found.figure.low
    assert found.figure.change is None and not found.figure.marked


@pytest.mark.parametrize(
    ("cell", "change", "step", "ratio"),
    [
        ("55.14 (-12.3%)", -12.3, 0.05, "percent"),
        ("55.14 [+12 %]", 12, 0.5, "percent"),
        ("55.14 (↓12.34%)", -12.34, 0.005, "percent"),
        ("55.14 -12.3%", -12.3, 0.05, "percent"),
        ("55.14 (-1.5)", -1.5, 0.05, "absolute"),
        ("55.14 (2.0x)", 2.0, 0.05, "factor"),
        ("55.14 (2\u00d7)", 2, 0.5, "factor"),
        ("-12.3%", None, 0, "percent"),
        ("2.0x", None, 0, "factor"),
        ("2.0\u00d7", None, 0, "factor"),
        ("55.14 (0.3)", None, 0, ""),
        ("55.14 ms", None, 0, ""),
    ],
)
def test_a_change_printed_behind_a_figure(cell: str, change: float | None, step: float, ratio: str) -> None:
    found = read_figure(cell)
    assert found is not None
    assert (found.figure.change, found.figure.ratio) == (change, ratio)
    assert found.figure.change_step == pytest.approx(step)


@pytest.mark.parametrize("cell", ["Swin-T", "12 / 13", "1.2.3", "12 13", "(12)", "", "12.3 (best)", "1e5"])
def test_words_formulas_and_pairs_are_no_figure(cell: str) -> None:
    assert read_figure(cell) is None


def test_a_comma_is_its_columns() -> None:
    def value(comma: bool | None) -> float:
        found = read_figure("1,234", comma)
        assert found is not None
        return found.figure.value

    assert (value(None), value(True)) == (1234, 1.234)


def test_a_range_is_widened_and_never_narrowed() -> None:
    figure = Figure(10, 9.5, 10.5)
    assert at_least(figure, 0.5) is figure and at_least(figure, 0.2) is figure
    wide = at_least(figure, 2)
    assert (wide.low, wide.value, wide.high) == (8, 10, 12)


def test_another_unit_moves_what_is_in_it() -> None:
    figure = Figure(10, 9.5, 10.5, change=-2, change_step=0.5, ratio="absolute")
    giga = scaled(figure, 1000, True)
    assert giga == Figure(10000, 9500, 10500, -2000, 500, "absolute", True)
    # A percentage and a factor have no unit.
    percent = Figure(10, 9.5, 10.5, change=-2, change_step=0.5, ratio="percent")
    assert scaled(percent, 0.5, False) == Figure(5, 4.75, 5.25, -2, 0.5, "percent")
    assert scaled(figure, 1, False) is figure
    assert scaled(figure, 1, True) == Figure(10, 9.5, 10.5, -2, 0.5, "absolute", True)


def test_letters_are_powers_of_a_thousand_and_b_is_a_billion() -> None:
    assert [PREFIX[letter] for letter in "kmgt"] == [1000, 1000**2, 1000**3, 1000**4]
    assert PREFIX["b"] == PREFIX["g"]
