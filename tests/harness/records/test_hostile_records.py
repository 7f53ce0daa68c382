"""Records from anywhere, each part replaced by nonsense or missing: one line or a table, no traceback."""

import copy
import json
import os
from collections.abc import Iterator

import pytest

from segmeter.commands.main import main
from segmeter.harness.records.files import to_json
from segmeter.harness.records.runs import read_run
from tests.helpers.places import DATA

NONSENSE = [None, "x", [], {}, -1, 1e999, [[]], {"a": {"b": []}}, True]


def places(content: object, above: tuple = ()) -> Iterator[tuple]:
    """Every part of a record, down to the third level."""
    if isinstance(content, dict) and len(above) < 3:
        for key, value in content.items():
            yield (*above, key)
            yield from places(value, (*above, key))


def whole() -> dict:
    return json.loads((DATA / "run_version_1.json").read_text())


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out = capsys.readouterr()
    return int(stopped.value.code or 0), out.out, out.err


def write(path, content) -> None:
    path.write_text(json.dumps(content).replace("Infinity", "1e999"))


def commands(folder) -> list[tuple[str, ...]]:
    return [
        ("results", "list", "--from", str(folder)),
        ("results", "show", "bad", "--from", str(folder)),
        ("results", "diff", "good", "bad", "--from", str(folder)),
        ("results", "export", str(folder / "out.csv"), "--from", str(folder)),
        ("compare", "--from", str(folder)),
        ("compare", "--from", str(folder), "--markdown"),
    ]


@pytest.mark.parametrize("part", sorted({place[0] for place in places(whole())}))
def test_a_part_that_is_nonsense_or_missing_is_no_traceback(tmp_path, capsys, part):
    write(tmp_path / "good.json", whole() | {"id": "good"})
    for place in places(whole()):
        if place[0] != part:
            continue
        outer = len(place) == 1
        # Each inner place takes some of the nonsense: all of it, over the places of a part.
        some = NONSENSE if outer else (NONSENSE[len(str(place)) % len(NONSENSE)], 1e999)
        for value in ("missing", *some):
            content = copy.deepcopy(whole()) | ({} if part == "id" else {"id": "bad"})
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            if value == "missing":
                del inner[place[-1]]
            write(tmp_path / "bad.json", content)
            for command in commands(tmp_path) if outer else commands(tmp_path)[1:2]:
                code, _, err = said(capsys, *command)
                assert code in (0, 1, 2), (place, value, command)
                lines = err.splitlines()
                assert all(line.startswith("segmeter: ") for line in lines), (place, value, command, err)


@pytest.mark.parametrize("name", ["fifo", "deep", "text", "list", "number", "schema", "digits"])
def test_a_file_that_is_no_record_is_passed_over_by_name(tmp_path, capsys, name):
    write(tmp_path / "good.json", whole() | {"id": "good"})
    path = tmp_path / "bad.json"
    if name == "fifo":
        os.mkfifo(path)
    else:
        path.write_text(
            {
                "deep": "[" * 20_000 + "]" * 20_000,
                "text": "\x1b[31m::error::x",
                "list": "[]",
                "number": "1",
                "schema": '{"schema": {"a": [1]}}',
                "digits": '{"schema": "segmeter.run/' + "9" * 5000 + '"}',
            }[name]
        )
    code, out, err = said(capsys, "results", "list", "--from", str(tmp_path))
    assert code == 0 and "good" in out
    assert err.count("\n") == 1 and err.startswith(f"segmeter: skipped {path}: ")


def test_a_good_record_reads_as_it_was_written(tmp_path):
    run = read_run(DATA / "run_version_1.json")
    (tmp_path / "r.json").write_text(to_json(run.content()))
    assert read_run(tmp_path / "r.json") == run
