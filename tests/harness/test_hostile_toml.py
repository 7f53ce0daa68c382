"""Settings in TOML: read within bounds wherever they stand."""

from pathlib import Path

import pytest

from segmeter.files import parse_toml, read_toml
from segmeter.harness.audit.comparisons.columns import read_context, read_size
from segmeter.harness.audit.comparisons.reading import read_tables
from tests.helpers.bounds import bounded

PARTS = 20_000
# tomllib keeps every beginning of a dotted name: the square of its length, 1.6 GB of these 40 kB.
BOMBS = {
    "key": ".".join(["a"] * PARTS) + " = 1",
    "quoted": " . ".join(['"a b"'] * PARTS) + " = 1",
    "table": "[" + ".".join(["'a'"] * PARTS) + "]",
    "list of tables": "[[" + ".".join(["a"] * PARTS) + "]]",
    "inline": "x = {y = 1, " + ".".join(["a"] * PARTS) + " = 1}",
    "lists": "a = " + "[" * PARTS,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_deep_toml_is_refused_before_it_takes_memory(text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    assert "nested beyond reason" in bounded(read_toml, path, mebibytes=256)
    table = tmp_path / "table.csv"
    table.write_text(f"+++\n{text}\n+++\nMethod,PQ\na,1\n")
    assert "nested beyond reason" in bounded(read_tables, table, mebibytes=256)


def test_names_and_texts_with_many_dots_are_read() -> None:
    name = ".".join(["a"] * 50)
    written = "a." * 1000
    content = parse_toml(f'"{written}" = 1\ntext = "{written}"\n{name} = 2\n', "it")
    assert content["text"] == written
    assert content[written] == 1


@pytest.mark.parametrize("text", ["²²", "①②"])
def test_digits_that_are_no_numbers_are_letters(text: str) -> None:
    assert read_size(text) is None
    assert read_context("batch", text) is None
