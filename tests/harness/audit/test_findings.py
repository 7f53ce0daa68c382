"""Findings come from the figures: each is there with its numbers, and goes when its cause goes."""

from dataclasses import replace
from typing import Any

import pytest

from segmeter.harness.audit.findings.citations import citation_findings
from segmeter.harness.audit.findings.printed import claim_outcome, print_findings
from segmeter.harness.audit.findings.sentences import Finding
from segmeter.harness.audit.run import run_audit
from segmeter.harness.published.tables import PRO_SCALE, Claim, PublishedRow, claims, published_rows


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, Any]]:
    return {found["id"]: found for found in run_audit()["findings"]}


# Each known contradiction -> the finding it must come out in, and figures that must be in it.
KNOWN = {
    "two COCO inputs": (
        "two-inputs",
        ["800x1088", "800x1216", "M2F, R50 (135.00)", "RT-M2F, Swin-T (59.66)"],
    ),
    "percentages across inputs": ("across-inputs", ["-31.81 %, on one input -38.82 %", "-49.01", "-54.25"]),
    "percentages across inputs, Table 6": ("across-inputs", ["-53.19 %, on one input -58.00 %", "-58.01"]),
    "other images": ("other-images", ["first 100 images", "906,363 padded pixels", "188.00"]),
    "C_1": ("not-reproduced", ["Table 3, row 2", "132.00", "PRO-SCALE (1,1,1) + 3x3 conv", "132.45"]),
    "C_2": ("not-reproduced", ["Table 3, row 3", "73.49"]),
    "O1": ("percentages", ["-63.48 %, 48.85 against 135.00 is -63.81 %"]),
    "O2": ("percentages", ["-51.59", "-54.86", "Table 1, row 9 prints"]),
    "O3": ("two-values", ["63.08 (Table 1, row 2) and 63.52 (Table 4, row 1)", "Table 4, row 2 prints"]),
    "O4": ("two-values", ["FPS of M2F, R50 on COCO: 4.91 (Table 9, row 1) and 2.1 (Table 16, row 3)"]),
    "O4, speed-ups": ("speed-ups", ["1.04 times on Swin-T", "2.72 times on R50", "2.33 times on MViT-T"]),
    "O5": ("slower-though-lighter", ["5.71 FPS at 59.44", "6.25 at 67.45"]),
    "O6": ("fps-of-two-sizes", ["5.1 FPS on Cityscapes", "5.09 on COCO", "537.8 and 234.5"]),
    "O7": ("claims", ["PQ 51.35", "prints 51.45"]),
    "O8, savings": (
        "saving-above-total",
        ["encoder -104.75, total -97.70", "-96.00, total -89.70", "-35.86"],
    ),
    "O9": ("order-flips", ["59.66 > 56.18 on COCO, 130.00 < 135.00", "62.78"]),
    "O10": ("price-list", ["77.31", "= 203.69, printed 132.00", "= 132.45, printed 73.49"]),
    "O11": ("claims", ["-51.24%", "-53.02 %", "-5.23 %", "-3.55 %", "60.58 against 60.65"]),
    "O12": ("rest-of-the-model", ["RT-M2F", "231.1", "256.7 to 257.1"]),
    "O13": ("borrowed", ["287.00", "Table 7, row 5", "141.00", "145.80"]),
    "O14": ("claims", ["45.66 against 46"]),
    "O16": ("claims", ["50.04 % less than 135", "+9.40", "+1.91", "+0.00"]),
    "shares": ("shares", ["54.94 %", "0.9 points", "58.93 %", "51.67 %", "1.3 points", "49.89 %"]),
    "said to beat RT-M2F": ("claims", ["prints 171.7, RT-M2F has 158.3"]),
    "11 %": ("claims", ["41.36 against 52.03 is -20.51 %"]),
    "most efficient": ("claims", ["298.1, PEM has 236.6", "ReMaX has 294.7"]),
    "cheaper rows": ("cheaper-rows", ["RT-M2F (158.30) is below PRO-SCALE (3,3,3)'s 171.70"]),
    "LPE": ("lpe-saving", ["135.35 with it, 212.66", "-36.4 %", "-58.4 %"]),
    "mIoU": ("quality-lost", ["Table 2, row 6", "2.83 points"]),
    "two backbones": ("two-backbones", ["box AP 49.1 of R50", "encoder GFLOPs 79.78 of Swin-T"]),
    "sets of images": ("other-images", ["exchanged for 419x640", "possible, not shown"]),
    "O17": ("against-the-trend", ["78.29, 78.62 and 77.94"]),
    "O18": ("other-sources", ["52.03 in Table 1", "53.2 by its authors", "(52.82)"]),
    "O19": ("how-printed", ["whole numbers", "22.89 for 22.8846"]),
    "a level left out": ("dropped-level", ["four levels", "(203.84)", "three levels", "-45.51 %", "114.54"]),
    "detectors without a cost": ("missing-costs", ["DINO 4-scale, R50: 264.50 in all, 159.85", "106.42"]),
    "one encoder, two costs": ("one-encoder-two-figures", ["281.13", "117.00", "130.00"]),
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_known_contradiction_comes_out_with_its_figures(
    case: str, findings: dict[str, dict[str, Any]]
) -> None:
    name, figures = KNOWN[case]
    for figure in figures:
        assert figure in findings[name]["text"], findings[name]["text"]


def test_claims_that_hold_are_not_findings(findings: dict[str, dict[str, Any]]) -> None:
    text = findings["claims"]["text"]
    for quote in ("-73.85%", "at least 51.99% reduction (Swin-T)", "adds 32 GFLOPs", "better box AP"):
        assert quote not in text and any(quote in claim.quote for claim in claims())
    assert len(findings["claims"]["sentences"]) == 17 < len(claims())


def test_a_panoptic_cost_is_not_set_against_an_instance_tables(findings: dict[str, dict[str, Any]]) -> None:
    """MaskDINO's 302.1 is its panoptic configuration's; its authors' 286 is the instance table's."""
    assert "MaskDINO" not in findings.get("other-costs", {"text": ""})["text"]


def test_a_title_counts_what_its_text_tells(findings: dict[str, dict[str, Any]]) -> None:
    found = findings["other-images"]
    sets = 1 + found["text"].count("Other images are needed")
    assert f"over {sets} sets of images" in found["title"]


def test_a_fit_is_told_as_one(findings: dict[str, dict[str, Any]]) -> None:
    found = findings["dropped-level"]
    assert "can be read as" in found["title"] and found["text"].startswith("One reading of several")


def found_in(rows: list[PublishedRow]) -> dict[str, Finding]:
    return {f.id: f for f in print_findings(rows, [], [], [])}


def changed(rows: list[PublishedRow], table: int, row: int, metric: str, value: float) -> list[PublishedRow]:
    return [
        replace(r, value=value)
        if (r.paper, r.table, r.row, r.metric) == (PRO_SCALE, table, row, metric)
        else r
        for r in rows
    ]


def test_a_finding_goes_when_the_figures_agree() -> None:
    rows = published_rows()
    assert {"two-values", "fps-of-two-sizes", "slower-though-lighter", "against-the-trend"} <= found_in(
        rows
    ).keys()
    # M2F, R50 at 4.91 in both tables: only Lite-M2F's pair is left.
    assert "FPS" not in found_in(changed(rows, 16, 3, "fps", 4.91))["two-values"].text
    # The lighter configuration as fast as the heavier one.
    assert "slower-though-lighter" not in found_in(changed(rows, 16, 4, "fps", 6.25))
    # A COCO speed that is twice that on the larger input.
    assert "fps-of-two-sizes" not in found_in(changed(rows, 16, 1, "fps", 10.2))
    # The heaviest configuration's mIoU above the lightest one's.
    assert "against-the-trend" not in found_in(changed(rows, 2, 6, "miou", 78.9))


def test_a_new_contradiction_is_found() -> None:
    rows = changed(published_rows(), 6, 1, "pq", 65.0)
    assert "PQ of M2F, Swin-T on Cityscapes: 64 (Table 2, row 1)" in found_in(rows)["two-values"].text


@pytest.mark.parametrize(
    ("kind", "claimed", "values", "told"),
    [
        ("value", 51.35, (51.35,), ""),
        ("value", 51.35, (51.45,), "prints 51.45"),
        ("percent", -52.0, (48.0, 100.0), ""),
        ("percent", -53.0, (48.0, 100.0), "-52.00 %"),
        ("points", 32, (54.77, 22.89), ""),
        ("share", 54.04, (135.0, 229.1), "135 is 58.93 % of 229.1"),
        ("not_below", 0, (45.66, 46.0), "-0.34 points"),
        ("not_below", 0, (46.0, 46.0), ""),
        ("reduction_at_least", 51.99, (56.18, 117.0), ""),
        ("reduction_at_least", 51.99, (67.45, 135.0), "50.04 % less than 135"),
    ],
)
def test_what_a_claim_says_is_held_to_the_cells(
    kind: str, claimed: float, values: tuple[float, ...], told: str
) -> None:
    row = published_rows()[0]
    outcome = claim_outcome(
        Claim("text", "quote", kind, claimed, ()), [replace(row, value=value) for value in values]
    )
    assert told in outcome and bool(outcome) == bool(told)


def test_citations_that_are_each_others_and_another_systems() -> None:
    (found,) = citation_findings(published_rows())
    assert found.tables == (8, 15)
    assert found.sentences[0] == (
        "Table 8, row 2 and Table 8, row 3: Lite-DETR cites Lv et al., 2023, RT-DETR cites Li et al., 2023a; "
        "each is the other's reference."
    )
    assert found.sentences[1:] == (
        "Table 15, row 1: Lite-M2F cites Cheng et al., 2022, which is M2F's reference.",
        "Table 15, row 2: RT-M2F cites Cavagnero et al., 2024, which is PEM's reference.",
    )
    mended = [
        replace(row, note=row.note.replace("Lv et al., 2023 (RT-DETR's", "Li et al., 2023a (Lite-DETR's"))
        for row in published_rows()
    ]
    (left,) = citation_findings(mended)
    # The other row of the pair still cites this one's reference.
    told = "RT-DETR cites Li et al., 2023a, which is Lite-DETR's reference."
    assert left.sentences[0] == f"Table 8, row 3: {told}"


def test_a_claim_in_other_words_is_told_without_quotes() -> None:
    told = [claim.told for claim in claims()]
    assert told[0] == '"PRO-SCALE reaches PQ 51.35"'
    assert sum(text.endswith("(in other words; the sentence itself was not read)") for text in told) == 3
