"""Budget files as facts: what a limit allows to the unit, what is read from where, what is refused."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmeter.harness.gate.budgets import MAX_DIGITS, Limit, ModelBudget, parse_limit, read_budgets

KIBI = 1024


@pytest.mark.parametrize(
    ("written", "most"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("1_000", 1000),
        ("281.2 GMACs", 281_200_000_000),  # as a float 281199999999.99997
        ("0.3 kMACs", 300),
        ("1 MAC", 1),
        ("1.9999 kMACs", 1999),  # no model has 0.9 of a MAC
        ("47.5 M", 47_500_000),
        ("3 TFLOPs", 3 * 10**12),
        ("2 GFLOP", 2 * 10**9),
        ("6 GB", 6 * 10**9),
        ("6 kB", 6000),
        ("1 KiB", KIBI),
        ("1.5 MiB", 3 * KIBI**2 // 2),
        ("2 GiB", 2 * KIBI**3),
        ("12 bytes", 12),
        ("12 B", 12),
        ("  5 MACs ", 5),
        ("5MACs", 5),
        ("9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
        (10**24 - 1, 10**24 - 1),
    ],
)
def test_an_absolute_limit_allows_whole_units_up_to_it(written: object, most: int) -> None:
    limit = parse_limit("total", written)
    assert not limit.relative
    assert limit.most(None) == limit.most(1) == most


@pytest.mark.parametrize(
    ("written", "baseline", "most"),
    [
        ("0 %", 1000, 1000),
        ("+0 %", 1000, 1000),
        ("+2 %", 100, 102),
        ("2 %", 100, 102),
        ("2%", 149, 151),  # 151.98
        ("+0.1 %", 1000, 1001),  # as floats 1000.9999999999999
        ("+7 %", 100, 107),
        ("+50 %", 3, 4),
        ("+100 %", 0, 0),
        ("+1 %", 10**15, 10**15 + 10**13),
    ],
)
def test_a_relative_limit_is_exact(written: str, baseline: int, most: int) -> None:
    limit = parse_limit("total", written)
    assert limit.relative
    assert limit.most(baseline) == most
    assert limit.most(None) is None


@given(st.integers(0, 10**15), st.integers(0, 10**4))
def test_no_tolerance_allows_more_than_its_share(baseline: int, hundredths: int) -> None:
    most = Limit(Fraction(hundredths, 100), relative=True).most(baseline)
    assert most is not None
    allowed = Fraction(baseline) * (1 + Fraction(hundredths, 10**4))
    assert most <= allowed < most + 1


@pytest.mark.parametrize(
    "written",
    [-1, 1.5, True, None, [], {}, "", "x", "-1 MACs", "1 2", "1e9", "nan", "inf", "1.", ".5", "%", 10**24],
)
def test_what_is_no_limit_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"total must be a limit such as"):
        parse_limit("total", written)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("+5 GMACs", "an increase is given in percent"),
        ("+5", "an increase is given in percent"),
        ("5 GMAX", "unknown unit 'GMAX'"),
        ("5 KMACs", "unknown unit 'KMACs'"),  # k is 1000, Ki 1024: K is neither
        ("5 mMACs", "unknown unit 'mMACs'"),
        ("5 kiB", "unknown unit 'kiB'"),
        ("1" * (MAX_DIGITS + 1), "has 25 digits"),
    ],
)
def test_what_is_wrong_with_a_limit_is_said(written: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_limit("total", written)


def read(folder: Path, text: str):
    path = folder / "budgets.toml"
    path.write_text(text)
    return read_budgets(path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    budgets = read(
        tmp_path,
        """
        baseline = "sub/base.json"
        size = "512x1024"
        convention = "published"
        tolerance = "1.5 %"
        num_classes = 19

        [models.first]
        model = "m2f@r50"

        [models."second one"]
        model = "mine.py:Net"
        size = "64x64"
        convention = "flops"
        tolerance = "0 %"
        num_classes = 1
        num_queries = 1000000
        options = { width = 3 }
        components = { "layers.*" = "layer" }
        allow_uncounted = ["a::b"]
        limits = { total = "2 GFLOPs", params = "+1 %", "layers.*.ffn" = 5 }
        """,
    )
    assert budgets.baseline == tmp_path / "sub" / "base.json"
    assert budgets.models == (
        ModelBudget("first", "m2f@r50", "512x1024", "published", Fraction(3, 2), 19),
        ModelBudget(
            "second one",
            "mine.py:Net",
            "64x64",
            "flops",
            Fraction(0),
            1,
            1_000_000,
            {"width": 3},
            {"layers.*": "layer"},
            ("a::b",),
            {
                "total": Limit(Fraction(2 * 10**9), relative=False),
                "params": Limit(Fraction(1), relative=True),
                "layers.*.ffn": Limit(5, relative=False),
            },
        ),
    )


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    budgets = read(tmp_path, '[models.a]\nmodel = "m2f"\n')
    assert budgets.baseline is None
    assert budgets.models == (ModelBudget("a", "m2f", "1024x2048", "macs", None, None, None),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no model"),
        ("models = 3", "names no model"),
        ("models = {}", "names no model"),
        ("[models]\na = 3", "models.a must be a table, got 3"),
        ("[models.a]", 'lacks the key "model"'),
        ("[models.a]\nmodel = 3", "models.a.model must be text, got 3"),
        ('[models.a]\nmodel = " "', "models.a.model must be text, got ' '"),
        ('[models.a]\nmodel = "m"\nsize = 5', "models.a.size must be text"),
        ('[models.a]\nmodel = "m"\nconvention = "mac"', "unknown convention 'mac'; did you mean 'macs'"),
        (
            '[models.a]\nmodel = "m"\nnum_classes = 0',
            "num_classes must be a whole number from 1 to 1000000, got 0",
        ),
        ('[models.a]\nmodel = "m"\nnum_classes = 1000001', "num_classes must be a whole number from 1"),
        ('[models.a]\nmodel = "m"\nnum_queries = true', "num_queries must be a whole number"),
        ('[models.a]\nmodel = "m"\nnum_queries = 1.0', "num_queries must be a whole number"),
        ('[models.a]\nmodel = "m"\ntolerance = "1 GMACs"', "tolerance must be a percentage"),
        ('[models.a]\nmodel = "m"\noptions = 1', "models.a.options must be a table"),
        ('[models.a]\nmodel = "m"\ncomponents = { a = 1 }', "models.a.components.a must be text, got 1"),
        ('[models.a]\nmodel = "m"\nallow_uncounted = "a"', "allow_uncounted must be a list of operators"),
        ('[models.a]\nmodel = "m"\nallow_uncounted = [1]', "allow_uncounted must be a list of operators"),
        ('[models.a]\nmodel = "m"\nlimits = 1', "models.a.limits must be a table"),
        ('[models.a]\nmodel = "m"\nlimits = { total = "x" }', "models.a.limits.total must be a limit"),
        ('[models.a]\nmodel = "m"\nmodle = "m"', "unknown key 'modle'; did you mean 'model'"),
        ('seize = "1x1"\n[models.a]\nmodel = "m"', "unknown key 'seize'; did you mean 'size'"),
        ('baseline = 3\n[models.a]\nmodel = "m"', "baseline must be text, got 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError) as raised:
        read(tmp_path, text)
    assert told in str(raised.value)
    assert "budgets.toml" in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such budget file: .*none.toml"):
        read_budgets(tmp_path / "none.toml")
