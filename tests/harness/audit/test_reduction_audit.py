"""Claims of the papers that cut tokens, held to counts and to closed forms."""

import pytest

from segmeter.harness.audit import audit_reduction
from segmeter.harness.audit.reduction import gmacs, segmenter_macs, tokens_for
from tests.helpers.reduction_recipe import flops


def test_the_unmerged_segmenters_follow_and_the_merged_need_weights() -> None:
    claims = audit_reduction("algm")["claims"]
    assert len(claims) == 12
    for claim in claims:
        assert claim["verdict"] == ("needs weights" if "algm" in claim["model"] else "follows")


@pytest.mark.parametrize("record", [r for r in flops()["segmenter"] if not r["merging"]][:3])
def test_the_closed_form_is_the_official_count(record: dict) -> None:
    backbone = f"vit-{'ti' if record['model'] == 't' else record['model']}"
    side, number = record["side"], (record["side"] // 16) ** 2
    total = segmenter_macs(backbone, side, record["classes"], number)
    assert total == record["macs"]["total"]
    assert tokens_for(total, backbone, side, record["classes"]) == number


def test_segformers_cityscapes_column_has_a_head_of_ade20k() -> None:
    verdicts = [claim["verdict"] for claim in audit_reduction("segformer")["claims"]]
    assert verdicts == ["follows"] * 6 + ["in part"] * 6


def test_segformer_pp_saves_what_its_shapes_say() -> None:
    base, *merged = (
        gmacs(f"segformer@mit-b5:head=mmseg:merging={name}", "1024x1024", 19)
        for name in ("none", "hq", "fast", "2x2")
    )
    assert [round(base / each, 2) for each in merged] == [1.47, 1.65, 1.56]


def test_step_claims_no_more_than_arithmetic_allows() -> None:
    claims = audit_reduction("step")["claims"]
    assert {claim["verdict"] for claim in claims} == {"possible", "needs weights", "needs a clock"}
    alone = next(claim for claim in claims if claim["what"] == "gflops_reduction_x")
    assert round(alone["measured"], 2) == 2.73
    whole = [c for c in claims if c["what"] == "gflops_reduction_x" and c is not alone]
    # Fewer tokens and early exit together: 3x follows at 512, 4x not even at 1024, and the note says so.
    assert [round(c["measured"], 2) for c in whole] == [3.17, 3.17]
    assert ["lose more than the mean" in c["note"] for c in whole] == [True, False]
    # A share of tokens is not set against a share of work.
    assert all(c["measured"] is None for c in claims if c["what"] == "tokens_halted_pct")
