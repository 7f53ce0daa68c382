"""The published cells, measured: what the audit says of them, and the rows as models that can be named."""

import json
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness.audit.cells import AuditedCell, audit_cells
from segmeter.harness.audit.paper_tables import table_data
from segmeter.harness.audit.reproduce import reproduced_cells, reproduction_row
from segmeter.harness.models.presets import all_presets, resolve_preset, spec_of
from segmeter.harness.models.spec import parse_model
from segmeter.harness.published.cells import FAMILY, family_cells


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found = reproduced_cells(range(1, 8))
    return [reproduction_row(one) for one in found if one.cell.model in FAMILY]


def test_every_cityscapes_cell_is_reproduced_but_two(rows: list[dict[str, Any]]) -> None:
    left = {
        (r["table"], r["row"]) for r in rows if r["dataset"] == "cityscapes" and r["verdict"] != "stated size"
    }
    assert left == {(3, 2), (3, 3)}


def test_every_coco_encoder_cell_is_consistent_with_one_of_two_real_sizes(rows: list[dict[str, Any]]) -> None:
    coco = [r for r in rows if r["dataset"] == "coco" and r["what"] == "encoder"]
    assert {r["size"] for r in coco} == {"800x1088", "800x1216"}
    assert {r["verdict"] for r in coco} == {"solved size"}


def test_coco_totals_are_means_and_say_when_other_images_are_needed(rows: list[dict[str, Any]]) -> None:
    totals = [r for r in rows if r["dataset"] == "coco" and r["what"] == "total"]
    assert {r["verdict"] for r in totals} <= {"stated size", "solved mean"}
    for row in totals:
        assert ("the first 100 images give" in row["note"]) == (row["verdict"] == "solved mean")


@pytest.mark.parametrize("table", [1, 2, 3, 8, 10, 11])
def test_a_cell_has_one_verdict_wherever_it_is_asked_for(
    table: int, audited: list[AuditedCell], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {_place(a): (a.verdict, a.measured) for a in audited if a.cell.table == table}
    with pytest.raises(SystemExit):
        main(["reproduce", "--table", str(table), "--json"])
    told = json.loads(capsys.readouterr().out)["cells"]
    assert {
        (c["row"], c["backbone"], c["what"]): (c["verdict"], c["measured_gmacs"]) for c in told
    } == expected
    printed = {
        (row["row"], row["backbone"], what): (row[what]["verdict"], row[what]["measured"])
        for block in table_data(table)["blocks"]
        for row in block["rows"]
        for what in ("total", "encoder")
        if row[what] and row[what]["verdict"] != "not printed"
    }
    assert printed == expected


@pytest.fixture(scope="module")
def audited() -> list[AuditedCell]:
    return audit_cells(range(1, 12))


def _place(found: AuditedCell) -> tuple[int, str, str]:
    return found.cell.row, found.cell.backbone, found.cell.what


def test_the_detectors_of_table_8_have_the_costs_that_it_does_not_print() -> None:
    data = table_data(8)
    rows = [row for block in data["blocks"] for row in block["rows"]]
    # Detectors stand with R50, the segmenters whose cost is printed with Swin-T: no line mixes them.
    assert [(r["model"], r["backbone"]) for r in rows] == [
        ("DINO", "r50"),
        ("Lite-DETR", "r50"),
        ("Lite-DETR", "swin-t"),
        ("RT-DETR", "r50"),
        ("RT-DETR", "swin-t"),
        ("PRO-SCALE (3,3,3,3)", "r50"),
        ("PRO-SCALE (3,3,3)", "swin-t"),
    ]
    for row in rows:
        assert (row["box_ap"] is None) == (row["backbone"] == "swin-t") == (row["pq"] is not None)
    # FACTS, section 2: DINO's encoder at 800x1216, and with PRO-SCALE's four stages inside.
    assert rows[0]["encoder"]["measured"] == pytest.approx(159.85, abs=0.005)
    assert rows[5]["encoder"]["measured"] == pytest.approx(106.41, abs=0.015)
    assert rows[0]["encoder"]["printed"] is None and rows[0]["encoder"]["verdict"] == "not printed"
    assert "dino@r50" in rows[0]["encoder"]["note"]


def test_a_table_can_be_chosen() -> None:
    assert {cell.table for cell in family_cells(7)} == {7}
    assert {cell.table for cell in family_cells()} == set(range(1, 8))
    with pytest.raises(ValueError, match="from 1 to 7"):
        family_cells(12)


def test_the_last_digit_that_says_something() -> None:
    by_printed = {cell.printed: cell for cell in family_cells()}
    whole, two, total = by_printed["281.00"], by_printed["055.14"], by_printed["311.90"]
    assert (whole.step, two.step, total.step) == (1.0, 0.01, 0.1)


def test_presets_are_models_that_parse() -> None:
    for name, preset in all_presets().items():
        assert resolve_preset(name) == preset.model
        assert parse_model(preset.model).text == preset.model
    assert resolve_preset("m2f@r50") == "m2f@r50"
    with pytest.raises(ValueError, match="did you mean"):
        resolve_preset("table2.44")


def test_labels_become_the_right_structures() -> None:
    by_label = {(c.table, c.row): spec_of(c) for c in family_cells()}
    assert by_label[4, 2] == parse_model("lite-m2f@swin-t:pixel_embedding=lpe")
    assert by_label[7, 5] == parse_model("m2f@swin-l", num_classes=19, num_queries=200)
    assert by_label[3, 2] is None
