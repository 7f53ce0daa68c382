"""Public tables of others, typed in as facts: each finding was checked by hand (docs/audit_tables.md)."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.audit import audit_comparisons, named_rows, read_comparisons
from segmeter.harness.audit.comparisons.devices import DEVICES
from segmeter.reports.text.comparisons import count_lines

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results" / "published"
# File -> rule -> findings, each read beside its table; what is counted needs the models and is tested apart.
FINDINGS: dict[str, dict[str, int]] = {
    "algm_readme.md": {"mixed": 2, "missing": 2, "indicators": 1},
    "d_fine_readme.md": {"missing": 2},
    "detectron2_zoo.md": {"missing": 1},
    "eomt_zoo.md": {"mixed": 2, "missing": 1},
    "mask2former_zoo.md": {},
    "maskdino_readme.md": {"missing": 1, "indicators": 1},
    "mmseg_mask2former.md": {"mixed": 2, "memory": 1, "missing": 2},
    "mmseg_segformer_ade20k.md": {"mixed": 2, "missing": 2},
    "pem_ade20k.md": {"missing": 2, "indicators": 1},
    "pem_cityscapes.md": {"missing": 5, "indicators": 1},
    "rf_detr_readme.md": {"mixed": 2, "missing": 2},
    "rt_detr_readme.md": {"missing": 1},
    "timm_rtx4090.csv": {"mixed": 3, "indicators": 1},
}


@cache
def audited(*names: str, counted: bool = False) -> dict[str, Any]:
    tables = read_comparisons([PUBLISHED / name for name in names])
    return audit_comparisons(tables) if counted else audit_comparisons(tables, named=[])


@pytest.mark.parametrize("name", FINDINGS)
def test_findings_are_those_checked_by_hand(name: str) -> None:
    record = audited(name)
    assert dict(Counter(one["rule"] for one in record["findings"])) == FINDINGS[name]
    assert record["counts"]["findings"]["contradiction"] == 0
    assert record["tables"][0]["citation"], "whose figures they are"


def test_all_public_tables_are_audited_and_documented() -> None:
    files = {path.name for path in (*PUBLISHED.glob("*.md"), *PUBLISHED.glob("timm*.csv"))}
    assert files == FINDINGS.keys() and len(files) >= 10
    documented = re.findall(r"^\| `([\w.]+)` \| .* \| (\d+) \|", _docs(), re.MULTILINE)
    assert {name: int(n) for name, n in documented} == {
        name: sum(rules.values()) for name, rules in FINDINGS.items()
    }


def _docs() -> str:
    return (ROOT / "docs" / "audit_tables.md").read_text(encoding="utf-8")


def texts(name: str, rule: str) -> list[str]:
    return [one["text"] for one in audited(name)["findings"] if one["rule"] == rule]


def test_a_footnote_of_another_device_is_a_mixed_column() -> None:
    """EoMT's 7B rows are of a B200, by their asterisk; the others of an H100."""
    assert any("H100: 10 rows" in text and "B200: 2 rows" in text for text in texts("eomt_zoo.md", "mixed"))


def test_megabytes_under_a_header_of_gigabytes() -> None:
    """mmsegmentation heads 5806 with GB in Mask2Former's table and 2.1 in SegFormer's."""
    assert texts("mmseg_mask2former.md", "memory") == [
        "13 figures of 'Mem (GB)' are more than any server's devices have, Mask2Former R-50-D32 first"
    ]


def test_marks_without_a_note() -> None:
    marked = [text for text in texts("pem_cityscapes.md", "missing") if "marked" in text]
    assert [text.split(",")[0] for text in marked] == [
        "1 figure marked †",
        "3 figures marked †",
        "1 figure marked ‡",
    ]


def test_parameters_of_one_model_on_two_data_sets() -> None:
    """PEM's tables: BiSeNetV1 on R18 has 49.0 M on Cityscapes and 13.3 M on ADE20K."""
    found = audited("pem_cityscapes.md", "pem_ade20k.md")["findings"]
    assert [(one["arithmetic"], one["sure"]) for one in found if one["rule"] == "repeat"] == [
        ("49 and 13.3", "suspicious")
    ]


def test_sizes_in_names_and_rows_of_two_sizes() -> None:
    """RF-DETR's second table states sizes in three names ("@312"), its first in a column."""
    assert any("312x312: 1 row" in text for text in texts("rf_detr_readme.md", "mixed"))
    context = audited("rf_detr_readme.md")["tables"][1]["context"]
    assert context == {}, "the row above the table is no note of it"


def test_timms_figures_are_counted() -> None:
    """timm prints multiply-accumulates: ResNets at their sizes, by the same library's models."""
    record = audited("timm_rtx4090.csv", counted=True)
    assert record["counts"]["verdicts"] == {"reproduced": 13, "consistent": 3}
    told = count_lines(record)[-1]
    share = float(re.findall(r"([\d.]+) % would be called reproduced", told)[0])
    assert 0 <= share < 2, told


def test_rt_detrs_parameters() -> None:
    """42.87 M parameters are printed as 42: their whole millions."""
    record = audited("rt_detr_readme.md", counted=True)
    assert {one["verdict"] for one in record["measured"]} == {"consistent"}
    assert {round(one["counted"], 2) for one in record["measured"]} == {42.87}


def test_names_of_systems_that_are_not_modelled_are_left_alone() -> None:
    """A name put together from two columns may mean another configuration: nothing is held against it."""
    record = audited("pem_cityscapes.md", counted=True)
    assert {one["model"] for one in record["measured"]} == {"maskformer@r101", "yoso@r50", "pem@r50"}
    faults = [one for one in record["findings"] if one["level"] == "measurement"]
    assert {one["sure"] for one in faults} == {"cannot be known"}


def test_peaks_name_their_sources() -> None:
    for device in DEVICES:
        if device.peaks:
            assert device.source.startswith("NVIDIA, ") and device.url.startswith("https://")
            assert set(device.peaks) <= {"float32", "tf32", "float16", "bfloat16", "int8"}
    # Cores x 2 x clock, as the data sheets give them: GHz at boost.
    for name, cores, ghz in (
        ("RTX 2080 Ti", 4352, 1.635),
        ("GTX 1080 Ti", 3584, 1.582),
        ("V100", 5120, 1.53),
    ):
        stated = next(device for device in DEVICES if device.name == name).peaks["float32"]
        assert stated == pytest.approx(2 * cores * ghz / 1000, rel=0.01)


def test_the_pro_scale_paper_is_one_input_of_the_same_machine() -> None:
    """Its tidy data makes 26 tables; the general rules find what its own audit finds of them."""
    record = audited("proscale.csv")
    assert len(record["tables"]) == 26
    sure = [one for one in record["findings"] if one["sure"] == "contradiction"]
    assert [one["arithmetic"] for one in sure] == [
        "48.85 against 135 is -63.81 %, printed -63.48 %",
        "236.6 against 524.1 is -54.86 %, printed -51.59 %",
    ]
    assert {one["rule"] for one in record["findings"] if one["sure"] == "suspicious"} == {"repeat", "part"}
    assert any("'537.8 0'" in one["text"] for one in record["findings"])


def test_the_papers_rows_are_counted_at_their_stated_size() -> None:
    """Table 2's R50 block, which is stated at 1024x2048: totals as the paper's own audit has them."""
    tables = [t for t in read_comparisons([PUBLISHED / "proscale.csv"]) if t.number == 4]
    named = [one for one in named_rows(tables) if one.model.startswith(("m2f@", "pro-scale@"))]
    measured = audit_comparisons(tables, named)["measured"]
    totals = {one["model"]: one["verdict"] for one in measured if one["column"] == "Total GFLOPs"}
    assert totals == {
        "m2f@r50": "reproduced",
        "pro-scale@r50:stages=1,1,1": "reproduced",
        "pro-scale@r50:stages=2,2,2": "reproduced",
        "pro-scale@r50:stages=3,3,3": "reproduced",
    }
    encoders = {one["verdict"] for one in measured if one["column"] == "Encoder GFLOPs"}
    # 291.00 is a whole number with zeros appended; 65.21 is cut off.
    assert encoders == {"consistent", "not reproduced"}
