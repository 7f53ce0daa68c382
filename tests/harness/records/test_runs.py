"""Records on disk: whole or absent, old and damaged ones, tables."""

import json
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from segmeter.harness.records.files import write_text
from segmeter.harness.records.reading import read_runs
from segmeter.harness.records.runs import (
    SCHEMA_PATH,
    Run,
    differences,
    environment_differences,
    export,
    find_run,
    new_id,
    read_run,
    run_from,
    save,
)
from tests.helpers.places import DATA


def a_run(name: str = "one", **changes: object) -> Run:
    run = Run(name, "2026-01-02T03:04:05+00:00", "profile", "ok", "m2f@r50", title="M2F, R50")
    run.settings = {"device": "cpu", "batch": 1, "padded_size": "64x64"}
    run.statistics = {"latency_ms": {"median": 2.0, "low": 1.5, "high": 2.5}}
    run.environment = {"device_name": "a processor", "load": [1.0], "versions": {"torch": "2.9"}}
    for key, value in changes.items():
        setattr(run, key, value)
    return run


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "whole")
        assert os.read(reader, 100) == b"whole"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = a_run()
    assert read_run(save(run, tmp_path / "deep" / "runs")) == run


def test_unknown_fields_are_kept_and_missing_ones_take_defaults(tmp_path: Path) -> None:
    path = save(a_run(), tmp_path)
    content = json.loads(path.read_text())
    del content["notes"]
    path.write_text(json.dumps({**content, "colour": "blue"}))
    run = read_run(path)
    assert run.notes == {}
    assert run.content()["colour"] == "blue"


def test_a_record_of_version_1_is_read_and_brought_up() -> None:
    old = DATA / "run_version_1.json"
    before = json.loads(old.read_text())
    run = read_run(old)
    assert run.content()["schema"] == "segmeter.run/2"
    assert run.statistics == before["statistics"]
    assert run.figures["component_sum_share"] == before["figures"]["component_sum_share"]
    assert "hook_overhead" not in run.figures
    assert run.environment["during"] == {}
    assert run.environment["git"] == before["environment"]["git"]


def test_what_a_gpu_record_of_version_1_saw_before_and_after_is_kept() -> None:
    clocks = {"cpu_mhz": 2000.0, "before": {"sm_mhz": 1980}, "after": {"sm_mhz": 1755}}
    content = {
        **a_run(environment={"clocks": clocks, "other_processes": 2}).content(),
        "schema": "segmeter.run/1",
    }
    found = run_from(content).environment
    assert found["clocks"] == {"cpu_mhz": 2000.0}
    assert found["during"] == {
        "before": {"sm_mhz": 1980},
        "after": {"sm_mhz": 1755},
        "other_gpu_processes": 2,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "a record is a JSON object"),
        ("{}", "schema is None"),
        ('{"schema": "segmeter.flops/1"}', "expected segmeter.run/"),
        ('{"schema": "segmeter.run/99"}', "newer than this segmeter"),
        ('{"schema": "segmeter.run/1"}', "id is missing"),
        ('{"schema": "segmeter.run/1", "id": 3}', "id must be a str"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path: Path, text: str, reason: str) -> None:
    save(a_run(), tmp_path)
    (tmp_path / "bad.json").write_text(text, errors="surrogateescape")
    runs, damaged = read_runs(tmp_path)
    assert [run.id for run in runs] == ["one"]
    assert damaged[0].path.name == "bad.json"
    assert reason in damaged[0].reason


def test_an_infinite_figure_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        save(a_run(figures={"fps": float("inf")}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_said_before_anything_is_measured() -> None:
    # Not pytest's folder: as somebody else, to whom root's test turns, one may not even look into it.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o555)
        receive, send = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=save_as_nobody, args=(Path(place), send))
        child.start()
        child.join()
        assert receive.recv().endswith("it is read-only; choose another with --out")
        assert list(Path(place).iterdir()) == []


def save_as_nobody(folder: Path, send: Connection) -> None:
    """Say what saving a record fails with; root, who may write anywhere, becomes another user first."""
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        save(a_run(), folder)
        send.send("saved")
    except OSError as error:
        send.send(str(error))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /proc and a file in the folder's place")
def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="exists"):
        save(a_run(), tmp_path / "runs")


def test_a_record_is_found_by_the_start_of_its_id(tmp_path: Path) -> None:
    for name in ("abc1", "abc2", "xyz"):
        save(a_run(name), tmp_path)
    assert find_run(tmp_path, "x").id == "xyz"
    assert find_run(tmp_path, str(tmp_path / "abc1.json")).id == "abc1"
    with pytest.raises(ValueError, match="fits 2 records"):
        find_run(tmp_path, "abc")
    with pytest.raises(ValueError, match="did you mean 'abc1'"):
        find_run(tmp_path, "bac1")


def test_environments_differ_by_machine_not_by_the_minute() -> None:
    busy = a_run(environment={"device_name": "a processor", "load": [9.0], "versions": {"torch": "2.9"}})
    assert environment_differences(a_run(), busy) == {}
    other = a_run(environment={"device_name": "a processor", "versions": {"torch": "2.12"}})
    assert environment_differences(a_run(), other) == {"versions.torch": ["2.9", "2.12"]}
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == {}


def test_export_has_a_row_a_record(tmp_path: Path) -> None:
    import pandas as pd

    runs = [a_run("one"), a_run("two", status="crashed", statistics={}, error="boom")]
    export(runs, "csv", tmp_path / "t.csv")
    frame = pd.read_csv(tmp_path / "t.csv")
    assert list(frame["id"]) == ["one", "two"]
    assert frame["latency_ms_median"][0] == 2.0
    assert frame["error"][1] == "boom"
    export(runs, "json", tmp_path / "t.json")
    assert len(json.loads((tmp_path / "t.json").read_text())) == 2
    with pytest.raises(ValueError, match="did you mean 'csv'"):
        export(runs, "cvs", tmp_path / "t.cvs")


def test_parquet_is_written_or_says_what_is_missing(tmp_path: Path) -> None:
    try:
        export([a_run()], "parquet", tmp_path / "t.parquet")
    except ValueError as error:
        assert "needs pyarrow" in str(error)
        assert not (tmp_path / "t.parquet").exists()
    else:
        assert (tmp_path / "t.parquet").read_bytes()[:4] == b"PAR1"


def test_the_schema_file_names_every_field() -> None:
    schema = json.loads(SCHEMA_PATH.read_text())
    assert set(schema["properties"]) == set(a_run().content())


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(100)}) == 100
