"""One vocabulary: an option's name means one thing in every command, and older names still work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from segmeter.commands import known as known_module
from segmeter.commands import written
from segmeter.commands.known import known
from segmeter.commands.main import app, main
from segmeter.commands.options import OLD_NAMES, PRECISIONS, precision
from segmeter.commands.written import check_model


def commands(group: Any = None, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command with its words."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


ALL = dict(commands())


def options(command: Any) -> dict[str, Any]:
    """Option -> how it is declared, of those that are shown."""
    shown = [each for each in command.params if not each.hidden]
    return {name: each for each in shown for name in each.opts if name.startswith("--")}


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_the_walk_finds_the_commands_of_groups_too() -> None:
    assert {"flops", "baseline update", "results export", "op bench", "datasets check"} <= set(ALL)


def test_an_option_means_one_thing_in_every_command() -> None:
    meanings: dict[str, dict[str, list[str]]] = {}
    for words, command in ALL.items():
        for name, option in options(command).items():
            assert option.help, f"{words} {name} has no help"
            # The first sentence says what it is; what a command makes of it and its default follow.
            meaning = option.help.partition(". ")[0].rstrip(".")
            meanings.setdefault(name, {}).setdefault(meaning, []).append(words)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


def test_an_option_takes_a_value_everywhere_or_nowhere() -> None:
    kinds: dict[str, set[bool]] = {}
    for command in ALL.values():
        for name, option in options(command).items():
            kinds.setdefault(name, set()).add(option.is_flag)
    assert {name for name, found in kinds.items() if len(found) > 1} == set()


@pytest.mark.parametrize("words", sorted(ALL))
def test_every_command_can_print_json(words: str) -> None:
    assert "--json" in options(ALL[words])


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("--convention", known()["conventions"]),
        ("--dtype", known()["dtypes"]),
        ("--resize-rule", ["coco", "cityscapes"]),
        ("--optimiser", ["adamw", "sgd"]),
    ],
)
def test_help_shows_the_choices(name: str, choices: list[str]) -> None:
    found = [options(command)[name] for command in ALL.values() if name in options(command)]
    assert found
    for option in found:
        assert set(option.metavar.split("|")) == set(choices)


@pytest.mark.parametrize("words", ["audit", "baseline update", "check", "compare", "evaluate"])
def test_older_names_are_not_shown(words: str) -> None:
    shown = options(ALL[words])
    for old, today in OLD_NAMES[words.split()[-1]].items():
        assert old not in shown and today in shown


def test_an_older_name_does_what_todays_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budgets = tmp_path / "budgets.toml"
    (tmp_path / "mine.py").write_text("import torch\n\ndef tiny():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    budgets.write_text('size = "32x32"\n[models.a]\nmodel = "mine.py:tiny"\nlimits = { total = "1 MMACs" }\n')
    for name in ("--out", "--output"):
        assert run("baseline", "update", budgets, name, tmp_path / f"{name}.json", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        # 32 x 32 pixels of 3 x 4 products.
        assert said["models"]["a"]["total"] == 32 * 32 * 12 and said["left_out"] == []
        assert run("check", budgets, f"{name}={tmp_path / 'told.txt'}") == 0
        assert "12.29 kMACs" in (tmp_path / "told.txt").read_text()
        (tmp_path / "told.txt").unlink()
    assert (tmp_path / "--out.json").read_text() == (tmp_path / "--output.json").read_text()
    assert run("check", budgets, "--json") == 0
    by_json = capsys.readouterr().out
    assert run("check", budgets, "--format", "json") == 0
    assert json.loads(by_json)["passed"] and by_json == capsys.readouterr().out
    assert run("check", budgets, "--json", "--format", "sarif") == 2
    assert "--format sarif or --json" in capsys.readouterr().err


@pytest.mark.parametrize("words", PRECISIONS.values())
def test_a_precision_has_many_names(words: tuple[str, ...]) -> None:
    for word in words:
        for table in (list(PRECISIONS), ["float32", "float16", "bfloat16", "float64"]):
            assert precision(word, table) in words
    with pytest.raises(ValueError, match="did you mean 'fp16'"):
        precision("fp17", PRECISIONS)


def test_what_a_place_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown dtype 'float64'"):
        precision("float64", ["fp32", "fp16", "bf16"])


def test_exported_records_are_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    assert run("results", "export", tmp_path / "all.csv", "--from", folder, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"records": 0, "format": "csv", "written": str(tmp_path / "all.csv")}


def test_an_encoder_is_taken_before_the_list_of_names_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and a line in the table are enough; what no source names is refused without loading any."""
    systems = {name: dict(system) for name, system in known()["systems"].items() if name != "pem"}
    systems["yoso"]["options"] = [each for each in systems["yoso"]["options"] if each["name"] != "fcs"]
    for module in (known_module, written):
        monkeypatch.setattr(module, "known", lambda: {**known(), "systems": systems})
    check_model("pem@r50:width=64")
    check_model("yoso:fcs=2")
    with pytest.raises(ValueError, match="unknown encoder 'pemm'"):
        check_model("pemm")
    with pytest.raises(ValueError, match="yoso has no option 'fcss'"):
        check_model("yoso:fcss=2")


@pytest.mark.parametrize("group", ["baseline", "card", "datasets", "op", "results"])
def test_a_groups_help_says_its_sentences_to_their_end(
    group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, "--help") == 0
    commands = capsys.readouterr().out.partition("Commands:")[2]
    assert commands.rstrip().endswith(".") and "..." not in commands
