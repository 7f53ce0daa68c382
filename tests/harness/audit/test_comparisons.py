"""Anybody's tables: every planted fault is found, clean cells are left alone, bad input is answered."""

import random
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.audit import audit_comparisons, read_comparisons
from segmeter.harness.audit.comparisons import arithmetic, comparability, physics
from segmeter.harness.audit.comparisons.table import CONTRADICTION, SUSPICIOUS
from tests.helpers.seeded_tables import CONTEXT, FAULTS, MORE_FAULTS, SEEDS, STYLES, clean_table, written


def audited(tmp_path: Path, text: str, name: str = "table.csv") -> dict[str, Any]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return audit_comparisons(read_comparisons([path]))


def rules(record: Mapping[str, Any]) -> set[str]:
    return {one["rule"] for one in record["findings"]}


@pytest.mark.parametrize("rule", FAULTS)
def test_every_planted_fault_is_found(rule: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        rows = clean_table(seed)
        FAULTS[rule](rows)
        assert rule in rules(audited(tmp_path, written(rows))), f"seed {seed}"


@pytest.mark.parametrize("style", STYLES)
def test_every_planted_fault_is_found_however_the_table_is_written(style: str, tmp_path: Path) -> None:
    name, write = STYLES[style]
    # Another cell in a row is planted as a comma; decimal points are no fault where marks are turned.
    unwritten = {"ragged", "marks"} if style == "decimal commas" else {"ragged"}
    missed = []
    for rule, plant in FAULTS.items():
        rows = clean_table(0)
        plant(rows)
        if rule not in unwritten and rule not in rules(audited(tmp_path, CONTEXT + write(rows), name)):
            missed.append(rule)
    assert missed == []
    clean = [audited(tmp_path, CONTEXT + write(clean_table(seed)), name)["counts"] for seed in range(10)]
    assert all(one["figures"] > 30 for one in clean)
    assert sum(one["accused"] for one in clean) / sum(one["figures"] for one in clean) < 0.05


@pytest.mark.parametrize("fault", MORE_FAULTS)
def test_other_plants_of_a_rule_are_found(fault: str, tmp_path: Path) -> None:
    rule, plant = MORE_FAULTS[fault]
    for seed in range(5):
        rows = clean_table(seed)
        plant(rows)
        assert rule in rules(audited(tmp_path, written(rows))), f"seed {seed}"


def test_every_rule_has_a_planted_fault() -> None:
    """But for what needs a model to be counted, planted below, and two that name what is missing."""
    named = {*arithmetic.RULES, *comparability.RULES, *physics.RULES}
    assert named - FAULTS.keys() == {"missing", "indicators"}


def test_clean_cells_are_left_alone(tmp_path: Path) -> None:
    records = [audited(tmp_path, written(clean_table(seed))) for seed in range(100)]
    figures = sum(record["counts"]["figures"] for record in records)
    accused = sum(record["counts"]["accused"] for record in records)
    assert figures > 5000
    assert accused / figures < 0.05
    assert sum(record["counts"]["findings"]["contradiction"] for record in records) == 0


@pytest.mark.parametrize(
    ("cells", "follows"),
    [
        # Half of a cost is 0.5x of it, and 2x less.
        ("10.0 (0.5x),100", True),
        ("10.0 (2.0x),100", True),
        ("10.0 (0.7x),100", False),
        # Twice the speed is 2x alone.
        ("10.0,100 (2.0x)", True),
        ("10.0,100 (0.5x)", False),
    ],
)
def test_a_factor_of_a_cost_may_be_its_share(cells: str, follows: bool, tmp_path: Path) -> None:
    found = rules(audited(tmp_path, f"model,GFLOPs,FPS\nA,20.0,50\nB,{cells}\n"))
    assert ("change" in found) is not follows


@pytest.mark.parametrize(("printed", "follows"), [("-50", True), ("-10", False), ("0.5", False)])
def test_a_column_of_percentages_holds_no_differences_or_factors(
    printed: str, follows: bool, tmp_path: Path
) -> None:
    table = f"model,total GMACs,change of total GMACs (%)\nA,20.0,\nB,10.0,{printed}\n"
    assert ("change" in rules(audited(tmp_path, table))) is not follows


@pytest.mark.parametrize("kind", ["FPS", "memory (MB)", "latency (ms)", "params (M)", "GFLOPs", "mIoU"])
def test_the_best_of_a_column_is_the_most_or_the_least(kind: str, tmp_path: Path) -> None:
    more_is_better = kind in ("FPS", "mIoU")
    for high in (True, False):
        cells = ["41.0", "52.0", "63.0"]
        at = 2 if high else 0
        cells[at] = f"**{cells[at]}**"
        lines = "".join(f"{name},{cell}\n" for name, cell in zip("ABC", cells, strict=True))
        found = rules(audited(tmp_path, f"model,{kind}\n{lines}"))
        assert ("best" in found) is (high is not more_is_better), high


def test_the_row_of_another_batch_is_told_and_no_other(tmp_path: Path) -> None:
    lines = "".join(f"{name},{50 * k},{1000 / (50 * k):.3f}\n" for k, name in enumerate("ABC", start=1))
    found = audited(tmp_path, f"model,FPS,latency (ms)\n{lines}D,400,10.0\n")["findings"]
    (told,) = [one["text"] for one in found if one["rule"] == "speed"]
    assert told.startswith("D: speed and latency belong to 4 images at once, those of most rows to 1")


@pytest.mark.parametrize("parts", [("encoder", "total"), ("total", "encoder")])
def test_one_parts_speed_says_nothing_of_anothers_latency(parts: tuple[str, str], tmp_path: Path) -> None:
    rows = "A,50,3.0\nB,60,4.0\n"
    fast, slow = parts
    assert "speed" not in rules(audited(tmp_path, f"model,{fast} FPS,{slow} latency (ms)\n{rows}"))
    assert "speed" in rules(audited(tmp_path, f"model,{fast} FPS,{fast} latency (ms)\n{rows}"))


@pytest.mark.parametrize(("total", "sure"), [(12.0, CONTRADICTION), (30.0, SUSPICIOUS)])
def test_parts_beyond_the_total_contradict_it(total: float, sure: str, tmp_path: Path) -> None:
    header = "model,backbone GMACs,encoder GMACs,total GMACs"
    text = f"{header}\nA,10.0,5.0,{total}\nB,10.0,6.0,16.0\nC,10.0,7.0,17.0\n"
    found = audited(tmp_path, text)["findings"]
    assert [one["sure"] for one in found if one["rule"] == "sum"] == [sure]


def test_rows_that_are_left_out_are_named_up_to_five(tmp_path: Path) -> None:
    def told(number: int) -> str:
        text = "model,GFLOPs,FPS\nA,20.0,50\nB,10.0,60\n" + "C,1\n" * number
        (one,) = [f["text"] for f in audited(tmp_path, text)["findings"] if f["rule"] == "ragged"]
        return one

    assert "more" not in told(2) and told(2).count("line") == 2
    assert told(7).endswith(" and 2 more") and told(7).count("line") == 5


def test_no_time_at_all_says_nothing_of_the_speed(tmp_path: Path) -> None:
    found = rules(audited(tmp_path, "model,FPS,latency (ms)\nA,50,0\nB,60,16.7\n"))
    assert "speed" not in found


def test_what_is_not_said_is_a_finding(tmp_path: Path) -> None:
    found = audited(tmp_path, "model,GFLOPs,FPS\nA,10.0,50\nB,20.0,30\n")["findings"]
    texts = [one["text"] for one in found if one["rule"] == "missing"]
    assert "not said of 'GFLOPs': size, whether one multiply-accumulate is 1 or 2" in texts
    assert "not said of 'FPS': size, device, dtype, batch" in texts
    assert {one["sure"] for one in found} == {"cannot be known"}


def test_cost_without_time_cannot_rank_times_and_disagreement_is_told(tmp_path: Path) -> None:
    alone = audited(tmp_path, "model,params (M)\nA,10.0\nB,20.0\n")
    assert "indicators" in rules(alone)
    both = audited(tmp_path, "model,GMACs,FPS\nA,10.0,20\nB,20.0,30\n")
    text = next(one["text"] for one in both["findings"] if one["rule"] == "indicators")
    assert "rank 1 of 1 pairs" in text


@pytest.mark.parametrize("printed", ["20.0 (+100.0%)", "20.0 (+10.0)", "20.0 (+99.9%)"])
def test_a_change_in_brackets_that_follows(printed: str, tmp_path: Path) -> None:
    assert "change" not in rules(audited(tmp_path, f"model,GMACs\nA,10.0\nB,{printed}\n"))


def test_a_change_in_brackets_that_does_not_follow(tmp_path: Path) -> None:
    found = audited(tmp_path, "model,GMACs\nA,100.0\nB,63.6 (-40.0%)\n")["findings"]
    one = next(one for one in found if one["rule"] == "change")
    assert one["sure"] == "contradiction"
    assert one["arithmetic"] == "63.6 against 100 is -36.4 %, printed -40 %"


def test_latex_and_markdown_give_what_csv_gives(tmp_path: Path) -> None:
    csv = "model,params (M),GMACs,mIoU\nA,10.0,20.0,**40.0**\nB,30.0,50.0,45.0\n"
    markdown = (
        "FPS on a V100.\n\n| model | params (M) | GMACs | mIoU |\n|:--|--:|--:|--:|\n"
        "| [A](a.html) | 10.0 | 20.0<br> | **40.0** |\n| <b>B</b> | 30.0 | 50.0 | 45.0 |\n"
    )
    latex = (
        "\\begin{table}\\caption{At $512\\times512$}\n\\begin{tabular}{l|ccc}\n\\toprule\n"
        "model & params (M) & GMACs & mIoU \\\\ \\midrule % a comment\n"
        "A~\\cite{a} & 10.0 & 20.0 & \\textbf{40.0} \\\\\nB & 30.0 & \\underline{50.0} & 45.0 \\\\\n"
        "\\bottomrule\n\\end{tabular}\\end{table}\n"
    )
    records = [
        audited(tmp_path, text, name) for text, name in ((csv, "t.csv"), (markdown, "t.md"), (latex, "t.tex"))
    ]
    for record in records:
        one = next(one for one in record["findings"] if one["rule"] == "best")
        assert one["arithmetic"] == "45 against 40" and one["cells"][0]["model"] == "A"
        assert record["counts"]["figures"] == 6
    assert records[1]["tables"][0]["context"] == {"device": "V100"}
    assert records[2]["tables"][0]["context"] == {"size": [512, 512]}
    assert [one["cells"][0]["line"] for r in records for one in r["findings"] if one["rule"] == "best"] == [
        *(2, 5, 5)
    ]


def test_two_tables_that_print_one_cell_differently(tmp_path: Path) -> None:
    paths = []
    for name, params in (("a.csv", 27.5), ("b.csv", 28.9)):
        paths.append(tmp_path / name)
        paths[-1].write_text(f"model,params (M)\nA,{params}\nB,40.0\n")
    found = audit_comparisons(read_comparisons(paths))["findings"]
    one = next(one for one in found if one["rule"] == "repeat")
    assert [cell["file"] for cell in one["cells"]] == ["a.csv", "b.csv"] and one["sure"] == "contradiction"


def test_decimal_commas_and_thousands(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model;GMACs;params\nA;12,5;1.234.567,0\nB;1,234;27.500.000\n")
    table = read_comparisons([path])[0]
    assert [row.figures[1].value for row in table.rows] == [12.5, 1.234]


def test_rows_without_names_are_numbered(tmp_path: Path) -> None:
    record = audited(tmp_path, "GMACs,FPS\n10,20\n20,30\n")
    assert any("no column names the models" in one["text"] for one in record["findings"])


@pytest.mark.parametrize("cell", ["1" * 400, "1e400", "nan", "inf", "=1+1", "1..2", "512x512"])
def test_what_is_no_figure_is_left_out(cell: str, tmp_path: Path) -> None:
    record = audited(tmp_path, f"model,GMACs,FPS,latency (ms)\nA,{cell},{cell},{cell}\nB,10.0,50,20.0\n")
    assert record["counts"]["figures"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no table"),
        ("model,GMACs\n", "holds no table"),
        ("a,b\nc,d\n", "no column of figures that is known"),
        ('+++\ndevise = "A100"\n+++\nmodel,GMACs\nA,1\n', "did you mean 'device'"),
        ('+++\nunit = "FLOP"\n+++\nmodel,GMACs\nA,1\n', "unit must be MACs or FLOPs"),
        ("+++\nunit = \nmodel,GMACs\nA,1\n", "does not end it"),
        ('+++\n[columns]\nx = "macs"\n+++\nmodel,x\nA,1\n', "cannot be 'macs'"),
    ],
)
def test_bad_files_are_answered_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        audited(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_named_models_are_counted_at_the_stated_size(tmp_path: Path) -> None:
    """ResNet-18 at 224x224: 1.814 G in the metadata of torchvision's weights, 11,689,512 parameters."""
    text = (
        '+++\nsize = "224x224"\nunit = "FLOPs"\n+++\nmodel,params (M),FLOPs (G)\n'
        "torchvision:resnet18,11.69,1.814\ntorchvision:resnet34,25.6,5.21\nmine.py:Net,1.0,1.0\n"
    )
    record = audited(tmp_path, text)
    verdicts = {(one["row"], one["column"]): one["verdict"] for one in record["measured"]}
    assert verdicts == {
        (1, "params (M)"): "reproduced",
        (1, "FLOPs (G)"): "reproduced",
        (2, "params (M)"): "not reproduced",
        (2, "FLOPs (G)"): "not reproduced",
    }
    faults = {one["rule"]: one for one in record["findings"] if one["level"] == "measurement"}
    assert set(faults) == {"unit", "params", "count"}
    assert "it is MACs, its column says FLOPs" in faults["unit"]["text"]
    assert all(one["by_chance"] < 0.02 for one in record["measured"] if one["verdict"] == "reproduced")


def test_four_times_the_rows_take_about_four_times_the_work(tmp_path: Path) -> None:
    # Each row against each other would take sixteen times.
    assert _processor_seconds(tmp_path, 40_000) < 8 * _processor_seconds(tmp_path, 10_000)


def _processor_seconds(folder: Path, rows: int) -> float:
    """Of the audit of a table of so many models."""
    chance = random.Random(0)
    path = folder / f"{rows}.csv"
    with path.open("w") as file:
        file.write("model,backbone,size,params (M),GFLOPs,FPS,latency (ms),mIoU\n")
        for n in range(rows):
            ms = round(chance.uniform(5, 100), 1)
            file.write(f"m{n},r50,512x512,{chance.uniform(5, 90):.1f},{chance.uniform(5, 900):.1f},")
            file.write(f"{1000 / ms:.1f},{ms},{chance.uniform(30, 60):.1f}\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "segmeter", "audit", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 1), done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
