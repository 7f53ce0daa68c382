"""Every command that prints tables, at the widths of real terminals: no figure is cut, no header is nonsense.

A command runs once; what it shows is then shown again at each width.
"""

import importlib
import pkgutil
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segmeter import commands
from segmeter.commands.console import show
from segmeter.commands.main import main
from segmeter.files import read_json
from segmeter.reports.text.op import bench_notes, bench_table
from tests.commands.test_vocabulary import ALL
from tests.helpers.places import ROOT

R50 = "m2f@r50 --padded-size 64x64"
RECORD = "results/records/cpu-512x1024/bf16-batch-1"
COMMANDS = (
    f"flops {R50}",
    f"flops {R50} --depth 4 --convention flops",
    f"flops {R50} --training",
    "flops m2f --dataset coco-val2017:100 --depth 1",
    "flops segmenter:reduction=algm --padded-size 128x128 --images {photo}",
    "compare m2f@r50 lite-m2f@r50 rt-m2f@r50 pro-scale@r50 --padded-size 64x64",
    "compare m2f@r50 {mine}:Tiny --padded-size 64x64",
    "compare --from results/records",
    "compare --from results/records --beside-published",
    "reproduce --table 2",
    "table 2",
    "table 9",
    "reconcile m2f@r50 --published 117.0",
    "crosscheck rt-m2f@r50 --padded-size 64x64",
    "models",
    "models --find rf-detr",
    "card make m2f@r50 --padded-size 64x64 --out {folder}/card.json",
    "card show {folder}/card.json",
    "card verify {folder}/card.json",
    "doctor",
    f"profile {R50} --threads 1 --seconds 0 --min-rounds 1 --out {{folder}}/runs",
    f"results list --from {RECORD}",
    f"results show {{record}} --from {RECORD}",
    f"results diff {{record}} {{other}} --from {RECORD}",
    "results export {folder}/all.csv --from results/records",
    "sweep {sweep} --plan",
    "check {budgets}",
    "baseline update {budgets} --out {folder}/baseline.json",
    "audit {table}",
    "audit --paper algm",
    "tokens --backbone r50 --encoder m2f --random-weights --num-images 1 --short-side 64 --out {folder}/t",
    "paper docs/paper/numbers.toml --out {folder}/paper",
    "plot circles --out {folder}",
    "export {mine}:Tiny --padded-size 32x32 --out {folder}/tiny.onnx",
    "op build",
    "op hub --owner me --out {folder}/hub",
    "datasets check docs",
)
# What they print is prose, or needs weights, a data set or a compiler: their tables are shown elsewhere.
ELSEWHERE = {"evaluate", "miou", "predict", "convert", "report", "op bench"}
WIDTHS = (60, 80, 100, 120, 200)
FIGURE = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?: %)?")
MINE = """import torch


class Tiny(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 1)
"""
BUDGETS = """size = "32x32"
[models.a]
model = "mine.py:Tiny"
limits = { total = "13 kMACs", params = "16" }
"""
TABLE = "model,GFLOPs,PQ\nM2F,235.57,52.03\nours,117.0,51.1\n"
SWEEP = '[grid]\nmodels = ["m2f@r50", "pro-scale@r50"]\npadded_sizes = ["64x64"]\n'


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("widths")
    for name, text in (("mine.py", MINE), ("b.toml", BUDGETS), ("t.csv", TABLE), ("s.toml", SWEEP)):
        (folder / name).write_text(text)
    names = sorted(path.stem for path in (ROOT / RECORD).rglob("*.json"))
    files = {"mine": "mine.py", "budgets": "b.toml", "table": "t.csv", "sweep": "s.toml"}
    photo = next((ROOT / "docs").rglob("*.jpg"), ROOT / "docs" / "breakdown.png")
    return {
        "folder": str(folder),
        "photo": str(photo),
        "record": names[0],
        "other": names[1],
        **{name: str(folder / file) for name, file in files.items()},
    }


def at_width(width: int, shown: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed at a width of the terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        for things in shown:
            show(*things)
    return capsys.readouterr().out


def check_widths(what: str, shown: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    """Hold every width to what the widest says."""
    figures = set(FIGURE.findall(at_width(250, shown, capsys)))
    for width in WIDTHS:
        text = at_width(width, shown, capsys)
        assert "…" not in text, f"{what} at {width}"
        # A path or a checksum has no place to break.
        long = [line for line in text.splitlines() if len(line) > width and " " in line.strip("│ ")]
        assert not long, f"{what} at {width}: {long[0]}"
        # A percentage may end a line before its sign only in prose; figures themselves stay whole.
        lost = {figure for figure in figures if figure.removesuffix(" %") not in text}
        assert not lost, f"{what} at {width} lost {sorted(lost)[:5]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_figure_is_cut_at_any_width(
    command: str,
    places: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[tuple[Any, ...]] = []
    # What a command loads as it runs would keep the stand-in for good.
    for found in pkgutil.iter_modules(commands.__path__, "segmeter.commands."):
        importlib.import_module(found.name)
    keep: Callable[..., None] = lambda *things: shown.append(things)  # noqa: E731
    for name, module in list(sys.modules.items()):
        if name.startswith("segmeter.commands.") and getattr(module, "show", None) is show:
            monkeypatch.setattr(module, "show", keep)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command.format(**places)))
    assert stopped.value.code == 0, capsys.readouterr().err
    check_widths(command, shown, capsys)


def test_the_ops_bench_is_not_cut_at_any_width(capsys: pytest.CaptureFixture[str]) -> None:
    record = read_json(Path(ROOT / "results/records/op-bench-cpu-small-shapes.json"))
    check_widths("op bench", [(bench_table(record), *bench_notes(record))], capsys)


def test_every_command_is_here_or_shown_elsewhere() -> None:
    here = {words for words in ALL if any(f"{line} ".startswith(f"{words} ") for line in COMMANDS)}
    assert set(ALL) - here == ELSEWHERE
