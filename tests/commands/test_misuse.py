"""Misuse is answered before anything slow is loaded: one line, exit code 2, and no torch."""

import subprocess
import sys

import pytest
import timm

from segmeter.commands.early import check_early, timm_names
from tests.helpers.places import ROOT

# What a hurried user types, and what the answer must say.
MISUSE = {
    "flop m2f": "Did you mean 'flops'",
    "flops": "no encoder given; choose from m2f",
    "flops mf2": "did you mean 'm2f'?",
    "flops m2f@r5O": "unknown backbone 'r5O'; did you mean 'r50'?",
    "flops m2f --backbone swin-x": "did you mean 'swin-t'",
    "flops pro-scale:stage=1,1,1": "did you mean 'stages'?",
    "flops m2f --padded-size 64": "padded size must be HEIGHTxWIDTH",
    "flops m2f --dataset coc": "unknown data set 'coc'",
    "flops m2f --padded-size 64x64 --image-size 64x64": "got --padded-size and --image-size",
    "flops m2f --convention macss": "did you mean 'macs'?",
    "flops nothere.py:Net": "no such file: nothere.py",
    "compare m2f nothere.toml@r50": "no such file: nothere.toml",
    "crosscheck mf2": "did you mean 'm2f'?",
    "profile m2f --device cdua": "unknown device 'cdua'; did you mean 'cuda'?",
    "profile m2f --threads 0": "threads must be at least 1",
    "profile m2f --seconds -1": "seconds must not be negative",
    "plot pareto --backbone r5": "did you mean 'r50'?",
    "plot paretto": "did you mean 'pareto'?",
    "tokens --encoder mf2": "did you mean 'm2f'?",
    "tokens --images nowhere": "no such photo or folder: nowhere",
    "predict nowhere.jpg": "no such photo or folder: nowhere.jpg",
    "evaluate --weights nowhere --dataset coco --data .": "no such checkpoint: nowhere",
    "convert nowhere.pkl x.safetensors": "no such checkpoint: nowhere.pkl",
    "baseline update nowhere.toml": "no such budget file: nowhere.toml",
    "audit nowhere.csv": "nowhere.csv is missing",
    "table 99": "nearest: 16",
}


def test_misuse_is_told_without_torch() -> None:
    # One process for all: each would start Python anew.
    script = (
        "import contextlib, io, shlex, sys\nfrom segmeter.commands.main import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    said, out = io.StringIO(), io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):\n"
        "            main(shlex.split(line))\n"
        "    except SystemExit as stopped:\n"
        "        print(stopped.code, 'torch' in sys.modules, repr(out.getvalue() + said.getvalue()))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(MISUSE),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    answers = made.stdout.splitlines()
    assert len(answers) == len(MISUSE), made.stderr
    for (line, expected), answer in zip(MISUSE.items(), answers, strict=True):
        code, loaded, said = answer.split(" ", 2)
        assert (code, loaded) == ("2", "False"), f"{line}: {answer}"
        # One line, and it says what is wrong.
        assert expected in said.replace("\\'", "'") and said.count("\\n") == 1, f"{line}: {said}"


def test_timms_names_are_read_without_timm() -> None:
    # timm.list_models leaves deprecated names out; they are refused when timm itself is asked.
    assert set(timm.list_models()) <= set(timm_names())


@pytest.mark.parametrize(
    "given",
    [
        {"model": "m2f@resnet18"},
        {"model": "segmenter@vit-s"},
        {"model": ["table2.4", "hf:org/net", "timm:resnet18"]},
        {"backbone": ["r50", "all"]},
        {"model": "some.record", "from_": "results"},
        {"device": "cuda:1", "threads": 2, "seconds": 0.0},
        {"dataset": "coco", "weights": None},
        {"model": None, "image_size": "640x480", "padded_size": None, "dataset": None},
    ],
)
def test_what_may_be_right_passes(given: dict[str, object]) -> None:
    check_early(given)
