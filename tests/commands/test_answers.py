"""A count that was made before is printed again without torch, and only where nothing else decides it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segmeter.commands.answers import answer_file, keep_answer, kept_answer
from tests.helpers.places import ROOT


def run(folder: Path, *arguments: object) -> str:
    """The command's output; its last line says whether torch was loaded."""
    script = (
        "import sys\nfrom segmeter.commands.main import main\n"
        "try:\n    main()\nfinally:\n    print('torch' if 'torch' in sys.modules else 'no torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "SEGMETER_CACHE": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_count_asked_again_is_the_same_and_needs_no_torch(tmp_path: Path) -> None:
    first = run(tmp_path, "compare", "m2f@r50", "pro-scale@r50", "--padded-size", "64x64", "--json")
    again = run(tmp_path, "compare", "m2f@r50", "pro-scale@r50", "--padded-size", "64x64", "--json")
    assert first.endswith("\ntorch\n") and again.endswith("\nno torch\n")
    assert json.loads(first.rpartition("\ntorch")[0]) == json.loads(again.rpartition("\nno torch")[0])


def test_another_size_is_another_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path))
    asked = [
        answer_file("flops", ("m2f", None), "r50", "64x64"),
        answer_file("flops", ("m2f", None), "r50", "64x128"),
        answer_file("flops", ("m2f", None), "r101", "64x64"),
        answer_file("flops", ("pro-scale", None), "r50", "64x64"),
        answer_file("compare", ("m2f", None), "r50", "64x64"),
    ]
    assert None not in asked and len(set(asked)) == len(asked)


def test_an_edited_source_is_counted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path))
    before = answer_file("flops", ("m2f", None))
    assert before == answer_file("flops", ("m2f", None))
    monkeypatch.setattr("segmeter.commands.answers.ROOMS", ("encoders",))
    assert before != answer_file("flops", ("m2f", None))


@pytest.mark.parametrize(
    "text",
    ["mine.py:Enc", "hf:facebook/x", "timm:resnet50", "m2f:encoder=mine.py:Enc", "m2f@mine.py:Net", "x.toml"],
)
def test_nothing_is_kept_of_a_model_that_a_file_decides(text: str) -> None:
    assert answer_file("flops", (text, None)) is None


def test_nothing_is_kept_of_what_pictures_decide(tmp_path: Path) -> None:
    place = tmp_path / "counts" / "x.json"
    keep_answer(place, {"input_dependent": "the work of encoder depends on what the image shows"})
    assert not place.exists()


def test_a_damaged_answer_is_counted_anew(tmp_path: Path) -> None:
    place = tmp_path / "counts" / "x.json"
    keep_answer(place, {"total_gmacs": 1.5})
    assert kept_answer(place) == {"total_gmacs": 1.5}
    whole = place.read_text()
    for damaged in (
        whole[:-5],
        whole.replace("1.5", "2.5"),
        '{"total_gmacs": 1.5}',
        "[]",
        "7",
        "null",
        "[" * 99999,
    ):
        assert damaged != whole
        place.write_text(damaged)
        assert kept_answer(place) is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_an_answer_that_another_user_could_have_written_is_counted_anew(tmp_path: Path) -> None:
    place = tmp_path / "counts" / "x.json"
    keep_answer(place, {"total_gmacs": 1.5})
    place.parent.chmod(0o777)
    assert kept_answer(place) is None
    place.parent.chmod(0o1777)
    assert kept_answer(place) == {"total_gmacs": 1.5}
    place.chmod(0o666)
    assert kept_answer(place) is None


def test_an_empty_cache_variable_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", "")
    assert answer_file("flops", ("m2f", None)) is None
