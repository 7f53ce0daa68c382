"""The published figures as data, and what a damaged file says."""

from collections import Counter
from pathlib import Path

import pytest

from segmeter.harness.published.tables import (
    CLAIM_KINDS,
    FILES,
    METRICS,
    PRO_SCALE,
    claims,
    find_paper,
    papers,
    published_rows,
)
from tests.helpers.places import ROOT

SHIPPED = ROOT / "results" / "published"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*FILES, "claims.csv"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    return tmp_path


def test_every_printed_cell_is_there() -> None:
    rows = published_rows()
    own = [row for row in rows if row.paper == PRO_SCALE]
    # Cells per table as the paper prints them; Table 12 has a caption only.
    expected = {1: 66, 2: 60, 3: 18, 4: 20, 5: 30, 6: 50, 7: 40, 8: 13, 9: 6, 10: 16, 11: 8}
    assert Counter(row.table for row in own) == expected | {13: 5, 14: 2, 15: 10, 16: 24}
    assert sum(row.percent is not None for row in own) == 74
    assert len(rows) - len(own) == 375 + 12  # the 12 of SegFormer
    others = {"algm", "segformer", "segformer++", "yoso", "maskdino", "m2f", "pem", "step"}
    assert set(papers(rows)) == {PRO_SCALE, *others}
    assert {row.metric for row in rows} == set(METRICS)


def test_a_figure_keeps_its_print_and_its_place() -> None:
    rows = {(r.table, r.row, r.metric): r for r in published_rows() if r.paper == PRO_SCALE}
    damaged = rows[2, 1, "gflops_total"]
    assert (damaged.printed, damaged.value) == ("537.8 0", 537.8)
    row = rows[2, 4, "gflops_encoder"]
    assert (row.printed, row.value, row.percent) == ("055.14", 55.14, -80.38)
    assert (row.label, row.place, row.image_size) == ("pro-scale (1,1,1)", "Table 2, row 4", "1024x2048")


def test_other_sources_are_numbered_and_named() -> None:
    pem = {row.table: row.title for row in published_rows() if row.paper == "pem"}
    assert list(pem) == [1, 2, 3, 4] and "Panoptic segmentation on Cityscapes" in pem[1]
    # Where a table was kept on the way here is nobody's business.
    assert not any(".txt" in row.title for row in published_rows())


# What is done to a file: (file, line, old, new) -> what must be said.
DAMAGE = {
    "not a number": ("proscale.csv", 3, ",62.49,62.49,", ",62.49,sixty,", "line 3, column 'value'"),
    "value is not what is printed": ("proscale.csv", 3, ",62.49,62.49,", ",62.49,64.29,", "column 'printed'"),
    "unknown metric": (
        "proscale.csv",
        2,
        ",pq,",
        ",qp,",
        "line 2, column 'metric': 'qp' is unknown; did you mean",
    ),
    "unknown data set": ("others.csv", 2, ",ade20k,", ",ade20,", "did you mean 'ade20k'"),
    "unknown source": ("others.csv", 2, "tue-mps", "tue", "line 2, column 'table'"),
    "no model": ("proscale.csv", 2, ",m2f,", ",,", "line 2, column 'model': is empty"),
    "row 0": ("proscale.csv", 2, "1,1,", "1,0,", "line 2, column 'row_in_table'"),
    "a cell twice": ("proscale.csv", 3, ",miou,62.49,62.49,", ",pq,62.49,62.49,", "stands in line 2 already"),
    "too few columns": ("proscale.csv", 5, "234.50,234.5,,", "234.50", "line 5, column 'value': expected 14"),
    "header": ("proscale.csv", 1, "metric", "metrik", "line 1: column 'metric' is missing"),
    "infinite": ("proscale.csv", 3, ",62.49,62.49,", ",62.49,inf,", "expected a number, got 'inf'"),
    "percentage": ("proscale.csv", 10, "-19.83", "-19,83", "expected 14 columns, got 15"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_with_line_and_column(case: str, folder: Path) -> None:
    name, line, old, new, told = DAMAGE[case]
    lines = (folder / name).read_text(encoding="utf-8").split("\n")
    assert old in lines[line - 1], lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError) as error:
        published_rows(folder)
    assert told in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_text_or_cut_short_is_named(folder: Path) -> None:
    path = folder / "others.csv"
    content = path.read_bytes()
    path.write_bytes(content[:300] + b"\xff" + content[300:])
    with pytest.raises(ValueError, match=r"others\.csv, line 3: not UTF-8"):
        published_rows(folder)
    path.write_bytes(content[: content.rindex(b'"')])
    with pytest.raises(ValueError, match=r"others\.csv, line \d+"):
        published_rows(folder)
    path.unlink()
    with pytest.raises(OSError, match=r"others\.csv"):
        published_rows(folder)


def test_claims_name_cells_that_exist(folder: Path) -> None:
    found = claims()
    assert {claim.kind for claim in found} == set(CLAIM_KINDS)
    path = folder / "claims.csv"
    path.write_text(path.read_text().replace("9.3/coco/pq", "9.9/coco/pq"))
    with pytest.raises(ValueError, match=r"claims\.csv, line 2, column 'cells': '9\.9/coco/pq'"):
        claims(folder)
    path.write_text(path.read_text().replace("value,51.35", "valeu,51.35"))
    with pytest.raises(ValueError, match=r"line 2, column 'kind': 'valeu' is unknown; did you mean 'value'"):
        claims(folder)


def test_an_unknown_paper_brings_the_nearest() -> None:
    assert find_paper("PRO-SCALE") == PRO_SCALE
    with pytest.raises(ValueError, match="did you mean 'pro-scale'"):
        find_paper("proscale")
