"""Records of several machines beside each other."""

import json
from pathlib import Path
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness.profiling.subjects import Settings
from segmeter.harness.records.compare import beside_published, compare_runs
from segmeter.harness.records.reading import collect
from segmeter.harness.records.runs import Run, environment_differences, how_measured, in_one_runtime, save
from segmeter.reports.text.compare import comparison_markdown, component_sums
from segmeter.reports.text.profile import conditions
from tests.helpers.places import ROOT
from tests.helpers.profile_docs import BLOCKS

SETTINGS = {
    **{"padded_size": "512x1024", "batch": 1, "dtype": "fp32", "device": "cpu", "compile": False},
    **{"cuda_graph": False, "inputs": "random", "num_classes": 133, "threads": 2},
}


def a_run(name: str, model: str, ms: float, machine: str = "first", **changes: Any) -> Run:
    run = Run(name, f"2026-01-02T03:04:{name[-1]}0+00:00", "profile", "ok", model, title=model)
    run.settings = dict(SETTINGS)
    run.figures = {"fps": 1000 / ms}
    run.statistics = {"latency_ms": {"median": ms, "low": 0.9 * ms, "high": 1.1 * ms}}
    run.environment = {"device_name": machine, "load": [ms], "versions": {"torch": "2.9"}}
    for key, value in changes.items():
        setattr(run, key, value)
    return run


def rows(compared: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["model"], r["environment"]): r for group in compared["groups"] for r in group["rows"]}


def in_turn(baseline: str, times: float) -> list[dict[str, Any]]:
    return [
        {
            **{"baseline": "x", "baseline_model": baseline, "times_faster": times, "low": times - 0.1},
            **{"high": times + 0.1, "rounds": 9, "verdict": "faster"},
        }
    ]


def test_ratios_taken_in_turn_are_kept_and_separate_ones_are_widened() -> None:
    compared = compare_runs(
        [
            a_run("r1", "m2f@r50", 200),
            a_run("r2", "rt-m2f@r50", 100, ratios=in_turn("m2f@r50", 1.9)),
            a_run("r3", "lite-m2f@r50", 160),
        ]
    )
    found = rows(compared)
    assert compared["same_environment"]
    assert found["m2f@r50", "A"]["how"] == "baseline"
    paired = found["rt-m2f@r50", "A"]
    assert (paired["times_faster"], paired["how"]) == (1.9, "in turn, 9 rounds")
    alone = found["lite-m2f@r50", "A"]
    assert alone["times_faster"] == 200 / 160
    # 180 to 220 ms over 144 to 176 ms: 180/176 = 1.02, 220/144 = 1.53.
    assert (alone["low"], alone["high"]) == pytest.approx((180 / 176, 220 / 144))
    assert alone["how"] == "medians of separate runs"


def test_an_interval_that_begins_at_0_bounds_no_ratio_from_above() -> None:
    """As few rounds on a busy machine give it."""
    wide = {"latency_ms": {"median": 100.0, "low": 0.0, "high": 800.0}}
    compared = compare_runs([a_run("r1", "m2f@r50", 200), a_run("r2", "rt-m2f@r50", 100, statistics=wide)])
    found = rows(compared)["rt-m2f@r50", "A"]
    assert (found["times_faster"], found["low"], found["high"]) == (2.0, pytest.approx(180 / 800), None)
    assert found["verdict"] == "no difference"


def test_the_sums_of_components_are_told_over_the_records() -> None:
    compared = compare_runs(
        [
            a_run("r1", "m2f@r50", 200, figures={"fps": 5.0, "component_sum_share": 0.98}),
            a_run("r2", "rt-m2f@r50", 100, figures={"fps": 10.0, "component_sum_share": 1.01}),
            a_run("r3", "lite-m2f@r50", 160),
        ]
    )
    group = compared["groups"][0]
    assert group["component_sums"] == pytest.approx(
        {"mean": 0.995, "lowest": 0.98, "highest": 1.01, "records": 2}
    )
    said = "components add up to 99.5 % of the whole on average over 2 records, 98.0 to 101.0 %"
    assert component_sums(group) == said
    assert said in comparison_markdown(compared)
    assert component_sums(compare_runs([a_run("r1", "m2f@r50", 200)])["groups"][0]) == ""


def test_a_part_that_older_records_lack_is_no_difference_where_it_is_empty() -> None:
    older, newer, other = (a_run(f"r{n}", "m2f@r50", 200) for n in (1, 2, 3))
    newer.environment["allocator"] = {}
    other.environment["allocator"] = {"LD_PRELOAD": "libjemalloc.so"}
    assert environment_differences(older, newer) == {}
    assert environment_differences(newer, other) != {} != environment_differences(older, other)


def test_another_machine_is_said_and_what_differs() -> None:
    compared = compare_runs(
        [
            a_run("r1", "m2f@r50", 200),
            a_run("r2", "m2f@r50", 50, machine="second"),
            a_run("r3", "rt-m2f@r50", 40, machine="second"),
            a_run("r4", "lite-m2f@r50", 20, machine="third"),
        ]
    )
    assert not compared["same_environment"]
    names = [(e["name"], e["device_name"]) for e in compared["environments"]]
    assert names == [("A", "first"), ("B", "second"), ("C", "third")]
    assert compared["environments"][1]["differs_from_first"] == {"device_name": ["first", "second"]}
    found = rows(compared)
    # Each machine's own M2F is what its models are compared with, if it has one.
    assert found["rt-m2f@r50", "B"]["times_faster"] == 50 / 40
    assert found["m2f@r50", "B"]["how"] == "medians of different environments"
    assert found["lite-m2f@r50", "C"]["how"] == "medians of different environments"


def test_only_equal_conditions_stand_in_one_table() -> None:
    other = {**SETTINGS, "dtype": "bf16"}
    runs = [a_run("r1", "m2f@r50", 200), a_run("r2", "rt-m2f@r50", 90, settings=other)]
    runs += [a_run("r3", "rt-m2f@swin-t", 80), a_run("r4", "m2f@r50", 1, status="crashed")]
    compared = compare_runs(runs)
    assert [[r["model"] for r in g["rows"]] for g in compared["groups"]] == [
        ["m2f@r50"],
        ["rt-m2f@r50"],
        ["rt-m2f@swin-t"],
    ]
    assert compared["left_out"] == {"r4": "crashed"}
    systems = [
        a_run("r1", "pem@r50", 200),
        a_run("r2", "pem@swin-t", 90),
        a_run("r3", "pem@r50:width=64", 80),
    ]
    assert [len(g["rows"]) for g in compare_runs(systems)["groups"]] == [2, 1]
    named = compare_runs(runs, ["rt-m2f@swin-t", "m2f@r50"])
    assert [r["how"] for r in named["groups"][0]["rows"]] == ["baseline", "medians of separate runs"]
    with pytest.raises(ValueError, match="did you mean 'rt-m2f@r50'"):
        compare_runs(runs, ["rt-m2f@r51"])


def test_memory_kept_and_given_back_are_two_conditions_and_old_records_gave_it_back() -> None:
    kept = {**SETTINGS, "keep_memory": True}
    back = {**SETTINGS, "keep_memory": False}
    runs = [
        a_run("r1", "m2f@r50", 200),
        a_run("r2", "rt-m2f@r50", 90, settings=back),
        a_run("r3", "rt-m2f@r50", 80, settings=kept),
    ]
    groups = compare_runs(runs)["groups"]
    assert [[row["id"] for row in group["rows"]] for group in groups] == [["r1", "r2"], ["r3"]]


def test_float32_with_tf32_is_another_condition_and_says_so() -> None:
    settings = {**SETTINGS, "device": "cuda", "tf32": "convolutions"}
    runs = [a_run("r1", "m2f@r50", 20, settings=settings), a_run("r2", "rt-m2f@r50", 9)]
    assert len(compare_runs(runs)["groups"]) == 2
    assert "fp32 with convolutions in TF32, batch 1" in how_measured(runs[0])
    assert "fp32 with convolutions in TF32, cuda" in conditions(settings)
    # A processor's float32 is float32.
    assert Settings((64, 64)).tf32 is None


def test_the_papers_ratios_stand_beside_the_measured_ones() -> None:
    models = {"m2f@r50": 200.0, "pro-scale@r50": 160.0, "pro-scale@r50:stages=1,1,3": 100.0}
    compared = compare_runs([a_run(f"r{n}", m, ms) for n, (m, ms) in enumerate(models.items())])
    found = {(r["table"], r["stages"], r["backbone"]): r for r in beside_published(compared)}
    # Table 9: 6.25 FPS of PRO-SCALE (3,3,3) over 4.91 of M2F; Table 16: 5.71 over 2.10.
    assert found[9, "3,3,3", "r50"]["times_faster"] == 6.25 / 4.91
    assert found[9, "3,3,3", "r50"]["measured"]["times_faster"] == 200 / 160
    assert found[16, "1,1,3", "r50"]["times_faster"] == 5.71 / 2.10
    assert found[16, "1,1,3", "r50"]["measured"]["times_faster"] == 200 / 100
    # Table 15 has no M2F; Table 3 prints 5.10 for the same data set and backbone.
    assert (found[15, "", "swin-t"]["m2f_fps"], found[15, "", "swin-t"]["m2f_table"]) == (5.10, 3)
    assert found[3, "1,1,1", "swin-t"]["measured"] is None


def test_records_are_found_below_a_folder_and_other_files_are_passed_over(tmp_path: Path) -> None:
    save(a_run("r1", "m2f@r50", 200), tmp_path / "here")
    save(a_run("r1", "m2f@r50", 200), tmp_path / "gathered")
    save(a_run("r2", "m2f@r50", 190), tmp_path / "gathered")
    (tmp_path / "other.json").write_text('{"schema": "something/1"}')
    (tmp_path / "bad.json").write_text("{")
    runs, damaged = collect(tmp_path)
    assert [run.id for run in runs] == ["r1", "r2"]
    assert [file.path.name for file in damaged] == ["bad.json"]


def test_the_command_says_that_environments_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *arguments])
        assert stopped.value.code == code
        found = capsys.readouterr()
        return found.err if code else found.out

    save(a_run("r1", "m2f@r50", 200), tmp_path)
    save(a_run("r2", "rt-m2f@r50", 100, machine="second"), tmp_path)
    text = said("--from", str(tmp_path))
    assert "ENVIRONMENTS DIFFER" in text
    assert "device_name: second (A: first)" in text
    content = json.loads(said("--from", str(tmp_path), "--published", "--json"))
    assert not content["same_environment"]
    assert len(content["published"]) == 12
    assert said("--from", str(tmp_path), "--markdown").count("| m2f@r50 | A |") == 1
    assert "need --from FOLDER" in said("--published", code=2)
    assert "is not a folder" in said("--from", str(tmp_path / "none"), code=2)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_documents_tables_are_what_the_command_prints(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # After new records: python -m tests.helpers.profile_docs
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(list(BLOCKS[name]))
    text = (ROOT / "docs" / "profile.md").read_text()
    shown = text.partition(f"<!-- {name}: begin -->\n")[2].partition(f"<!-- {name}: end -->")[0]
    assert shown == capsys.readouterr().out
    assert "512x1024" in shown and "fp32" in shown
    # The reader sees the command that printed it.
    assert f"    segmeter {' '.join(BLOCKS[name])}\n" in text


def test_a_ratio_between_two_runtimes_is_none_of_a_group_of_one() -> None:
    ratio = {"baseline_model": "m2f", "times_faster": 2.0}
    onnx = Run("a", "t", "profile", "ok", "pro-scale", settings={"runtime": "onnxruntime"})
    assert not in_one_runtime(onnx, {**ratio, "baseline_runtime": "eager"})
    assert in_one_runtime(onnx, {**ratio, "baseline_runtime": "onnxruntime"})
    # Records from before the runtime was kept.
    old = Run("b", "t", "profile", "ok", "pro-scale", settings={"compile": True})
    assert in_one_runtime(old, ratio) and not in_one_runtime(old, {**ratio, "baseline_runtime": "eager"})
