"""Commands that print tables, at the widths of real terminals: no figure is cut."""

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from segmeter.commands.main import main
from segmeter.harness import crosscheck
from tests.helpers.places import ROOT

COMMANDS = (
    "flops m2f@r50 --padded-size 64x64",
    "compare m2f@r50 lite-m2f@r50 rt-m2f@r50 pro-scale@r50 --padded-size 64x64",
    "reproduce --table 2",
    "table 2",
    "reconcile m2f@r50 --published 117.0",
    "crosscheck rt-m2f@r50 --padded-size 64x64",
    "models",
    "card m2f@r50 --padded-size 64x64",
    "doctor",
    "compare --from results/records",
    "compare --from results/records --beside-published",
    "models --find rf-detr",
    "results list --from results/records",
)
WIDTHS = (60, 80, 100, 120, 200)
FIGURE = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?: %)?")


def printed(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    return said.out


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is called for its first arguments alone."""
    found: list[Any] = []

    def called(*arguments: Any) -> Any:
        if not found:
            found.append(function(*arguments))
        return found[0]

    return called


@pytest.mark.parametrize("command", COMMANDS)
def test_no_figure_is_cut_at_any_width(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is counted does not hang on the width, and three counters take their time.
    monkeypatch.setattr(crosscheck, "cross_check", once(crosscheck.cross_check))
    wide = printed(command, 250, monkeypatch, capsys)
    figures = set(FIGURE.findall(wide))
    for width in WIDTHS:
        text = printed(command, width, monkeypatch, capsys)
        assert "…" not in text, f"{command} at {width}"
        assert all(len(line) <= width for line in text.splitlines()), f"{command} at {width}"
        # A percentage may end a line before its sign only in prose; figures themselves stay whole.
        lost = {figure for figure in figures if figure.removesuffix(" %") not in text}
        assert not lost, f"{command} at {width} lost {sorted(lost)[:5]}"
