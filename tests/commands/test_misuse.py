"""Misuse is answered before anything slow is loaded: one line, exit code 2, and no torch."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import timm
import torchvision

from segmeter.commands.early import check_early
from segmeter.commands.foreign import check_own, timm_names, torchvision_names
from tests.commands.test_vocabulary import ALL, options
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
    # Values of options, inside a model and as flags.
    "flops m2f:layers=x": "layers must be a whole number from 1 to 1000, got 'x'",
    "flops m2f --layers zzz": "layers must be a whole number from 1 to 1000, got 'zzz'",
    "flops m2f:stages=1,1,1": "m2f has no option 'stages'",
    "compare m2f pro-scale:stages=1,1": "stages must be three whole numbers p1,p2,p3 from 0 to 1000",
    "profile pro-scale:stages=a,b,c": "stages must be whole numbers such as 3,3,3; got 'a,b,c'",
    "flops lite-m2f:high_level_layers=0:full_layers=0": "must not both be 0",
    "flops m2f:num_queries=-1": "num_queries must be from 1 to 100000, got -1",
    "flops m2f --num-classes 0": "num_classes must be from 1 to 100000, got 0",
    "plot breakdown eco-m2f:exit=9": "exit must be a number of layers from 2 to 6, or gate, got 9",
    "card make kmax:blocks=1,1": "blocks must be four whole numbers",
    "tokens --encoder m2f:layers=x": "layers must be a whole number",
    "flops dino:layers=2": "dino has no option 'layers' with encoder=own; it comes with encoder=m2f",
    "flops segmenter:reduction=zzz": "unknown reduction 'zzz'",
    "flops segmenter:reduction=algm:layers=5,1": "layers must rise, got 5,1",
    "flops segmenter:reduction=tome:layers=13": "ViT-S/16 has layers 1 to 12, got layer 13 for tome",
    "flops segmenter:reduction=step:exits=12": "exits must be before the last of 12 layers, got 12",
    "flops segformer:merging=custom:query_rate=2": "query_rate must be a number from 0 to below 1, got 2",
    "flops segmenter@vit-zz": "segmenter has no backbone 'vit-zz'",
    "flops m2f@vit-s": "unknown backbone 'vit-s'",
    "flops m2f@r50 --backbone swin-t": "two values for the backbone: 'r50' and 'swin-t'",
    "flops m2f@resnet50.zzz": "did you mean 'resnet50'",
    # Names of libraries, read from their files.
    "flops timm:resnet5O": "timm has no model 'resnet5O'; did you mean 'resnet50'?",
    "flops timm:resnet50.zzz": "timm has no weights 'resnet50.zzz'",
    "compare m2f torchvision:fcn_resnet5O": "did you mean 'fcn_resnet50'?",
    "flops hf:Mask2FormerForUniversalSegmentatio": "did you mean 'Mask2FormerForUniversalSegmentation'?",
    "flops hf:./docs": "docs has no config.json",
    "models --find qqqq": "no model has 'qqqq' in its name",
    "flops nopackage.sub:attribute": "No module named 'nopackage'",
    "flops docs/nothere.toml": "no such file: docs/nothere.toml",
    # Values of other options.
    "flops m2f --padded-size 1x1": "multiples of 32, got 1x1; did you mean 32x32?",
    "flops m2f --resize-rule x": "unknown resize rule 'x'; choose from coco, cityscapes",
    "flops m2f --annotations README.md": "annotations README.md are not valid JSON",
    "flops m2f --input x": "--input must be NAME=SHAPE[:DTYPE]",
    "flops m2f --input a=1x3": "--input is for a library's model",
    "flops m2f --optimiser x": "unknown optimiser 'x'; choose from adamw, sgd",
    "flops m2f --images README.md": "not an image: README.md",
    "flops m2f --weights README.md": "unknown kind of checkpoint 'README.md'",
    "reconcile m2f --published abc": "must be a positive number such as 117.0, got 'abc'",
    "reconcile m2f --published 117 --with mf2=3": "did you mean 'm2f'?",
    "reconcile m2f --published 117 --what x": "unknown --what 'x'; choose from encoder, total",
    "op bench --shapes x": "unknown shape 'x'",
    "op bench --dtypes x": "unknown dtype 'x'",
    "evaluate --dataset x --data docs --predictions docs": "unknown data set 'x'",
    "evaluate --dataset coco --data docs --predictions docs --dtype x": "unknown dtype 'x'",
    "predict docs/breakdown.png": "give at least one --weights FILE",
    "profile m2f --runtime x": "unknown runtime 'x'",
    "profile m2f --batch 0": "batch must be at least 1, got 0",
    "card make m2f --seconds nan": "seconds must not be negative",
    "tokens --at x": "--at must be backbone, layer:N or all; got 'x'",
    "check --out docs results/budgets.toml": "cannot write to docs: it is a folder, expected a file",
    "report --out README.md": "cannot write to README.md: it is a file, expected a folder",
    "report --from nowhere": "no records: nowhere is not a folder",
    # What one command alone asks of its options.
    "flops m2f --freeze zzz": "M2F has no part 'zzz' to freeze; choose from backbone, encoder, decoder",
    "flops m2f@r50:layers=3 --training --freeze decodr": "did you mean 'decoder'?",
    "flops m2f --training --dataset coco-val2017:100": "--training goes with one size",
    "flops timm:resnet50 --input x=ax3": "input x must be SHAPE[:DTYPE]",
    "flops timm:resnet50 --input x=1x3:int99": "did you mean 'int64'?",
    "crosscheck": "no encoder given; choose from m2f",
    "reconcile --published 3": "no encoder given; choose from m2f",
    "export m2f --part zzz": "M2F has no stage 'zzz'; choose from backbone, encoder, decoder",
    "export m2f --part backbone..zzz": "M2F has no stage 'zzz'",
    "export m2f --tolerance nan": "tolerance must lie between 0 and 1, got nan",
    "profile m2f --roofline x.zzz": "--roofline must end in .pdf, .svg or .png, got 'x.zzz'",
    "profile m2f --width -3": "width must not be negative, got -3",
    "profile m2f --cuda-graph": "--cuda-graph needs --device cuda",
    "profile m2f --device mps": "unknown device 'mps'; choose from cpu, cuda",
    "profile m2f --runtime onnxruntime --compile": "--compile is --runtime compile",
    "tokens --weights R-50.pkl": "no such weights: R-50.pkl; expected a file",
    "tokens --short-side 3": "--short-side must be from 32 to 32768 pixels, got 3",
    "tokens --at layer:9": "--at layer:9 needs an encoder",
    "tokens --sample -1": "the sample must be at least 2 tokens",
    "op build --arch 1": "unknown architecture 1: expected one of 70, 75",
    "op hub --owner 'a b'": "--owner is a user's or an organisation's name on the Hub, got 'a b'",
    "plot pareto --dataset zzz": "unknown --dataset 'zzz'; choose from ade20k, cityscapes, coco",
    "plot pareto --paper pr-scale": "did you mean 'pro-scale'?",
    "plot pareto --add nowhere": "no such file of points: nowhere",
    "plot pareto --add README.md": "README.md, line 1: unknown column",
    "report --add nowhere": "no such file of points: nowhere",
    "sweep nothere.toml": "nothere.toml is missing",
}


# One process for all: each would start Python anew.
SCRIPT = (
    "import contextlib, io, shlex, sys\nfrom segmeter.commands.main import main\n"
    "for line in sys.stdin.read().splitlines():\n"
    "    said, out = io.StringIO(), io.StringIO()\n"
    "    try:\n"
    "        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):\n"
    "            main(shlex.split(line))\n"
    "    except SystemExit as stopped:\n"
    "        print(stopped.code, 'torch' in sys.modules, repr(out.getvalue() + said.getvalue()))\n"
)


def answers(lines: Iterable[str]) -> dict[str, str]:
    """Command line -> exit code, whether torch was loaded, and what was said, all in one line."""
    asked = list(lines)
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    told = made.stdout.splitlines()
    assert len(told) == len(asked), made.stderr
    return dict(zip(asked, told, strict=True))


def test_misuse_is_told_without_torch() -> None:
    for line, answer in answers(MISUSE).items():
        code, loaded, said = answer.split(" ", 2)
        assert (code, loaded) == ("2", "False"), f"{line}: {answer}"
        # One line, and it says what is wrong.
        assert MISUSE[line] in said.replace("\\'", "'") and said.count("\\n") == 1, f"{line}: {said}"


def wrong_words() -> Iterator[str]:
    """For every command: an option that is none, and for every option a value that it cannot have."""
    for words, command in ALL.items():
        needed = " ".join("1" for each in command.params if each.required and each.nargs == 1)
        yield f"{words} {needed} --nosuch"
        for name, option in options(command).items():
            kind = option.type_descriptor.annotation
            choices = option.metavar and "|" in option.metavar
            if not option.is_flag and (kind in (int, float) or choices):
                yield f"{words} {needed} {name} zzz"


def test_every_option_of_every_command_refuses_a_wrong_word_without_torch() -> None:
    lines = list(wrong_words())
    assert len(lines) > 100
    for line, answer in answers(lines).items():
        code, loaded, said = answer.split(" ", 2)
        assert (code, loaded, said.count("\\n")) == ("2", "False", 1), f"{line}: {answer}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def net():\n    pass\n", "mine.py has no 'Net'; did you mean 'net'?"),
        ("def net(:\n", "cannot import mine.py: SyntaxError"),
        ("from elsewhere import Net\n", ""),
        ("from elsewhere import *\n", ""),
        ("globals()['Net'] = 3\n", ""),
        ("if True:\n    class Net: ...\n", ""),
    ],
)
def test_a_file_is_read_for_its_names_and_not_run(source: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit\n" + source)
    if not said:
        return check_own(f"{path}:Net")
    with pytest.raises(ValueError, match=re.escape(said.replace("mine.py", str(path)))):
        check_own(f"{path}:Net")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "mine.py:Net"', "unknown key 'modle'; did you mean 'model'?"),
        ('model = "gone.py:Net"', "no such file: "),
        ('model = "mine.py:net"', "has no 'net'; did you mean 'Net'?"),
        ('model = "mine.py:Net"\noptions = 3', "options must be a table, got 3"),
        ('model = "mine.py:Net"\ncomponents.a = 3', "components must be names"),
    ],
)
def test_a_models_toml_file_is_judged_before_its_code_is_run(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit\ndef Net(): ...\n")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        check_own(str(path))


def test_timms_names_are_read_without_timm() -> None:
    # timm.list_models leaves deprecated names out; they are refused when timm itself is asked.
    assert set(timm.list_models()) <= timm_names()


def test_torchvisions_names_are_read_without_torchvision() -> None:
    every = set(torchvision.models.list_models())
    assert torchvision_names() <= every
    # What is left out sees videos, or the flow between two images.
    places = {torchvision.models.get_model_builder(name).__module__ for name in every - torchvision_names()}
    assert {place.split(".")[2] for place in places} == {"video", "optical_flow"}


@pytest.mark.parametrize(
    "given",
    [
        {"model": "m2f@resnet18"},
        {"model": "segmenter@vit-s"},
        {"model": ["table2.4", "hf:Mask2FormerForUniversalSegmentation", "timm:resnet18"]},
        {"backbone": ["r50", "all"]},
        {"model": "some.record", "from_": "results"},
        {"device": "cuda:1", "threads": 2, "seconds": 0.0},
        {"dataset": "coco", "weights": None},
        {"model": None, "image_size": "640x480", "padded_size": None, "dataset": None},
    ],
)
def test_what_may_be_right_passes(given: dict[str, object]) -> None:
    check_early(given)
