"""`segmeter models --find`: what is installed under a name."""

import json

import pytest

from segmeter.commands.main import main

pytest.importorskip("transformers")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("mask2former", {"hf:Mask2FormerForUniversalSegmentation"}),
        ("RF-DETR", {"hf:RfDetrForObjectDetection", "hf:RfDetrForInstanceSegmentation"}),
        ("mobilenetv4", {"timm:mobilenetv4_conv_small"}),
        ("mask_rcnn", {"torchvision:maskrcnn_resnet50_fpn"}),
        ("pro-scale", {"pro-scale"}),
    ],
)
def test_a_model_is_found_under_its_name(
    word: str, names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "models", "--find", word, "--json")
    assert code == 0 and names <= set(json.loads(out))
    assert all("".join(filter(str.isalnum, word.lower())) in _plain(name) for name in json.loads(out))
    shown = run(capsys, "models", "--find", word)[1]
    assert next(iter(names)) in shown and shown == run(capsys, "models", word)[1]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def test_nothing_found_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "models", "--find", "mask3former")
    assert (code, out) == (2, "") and "did you mean" in error and error.count("\n") == 1


def test_one_model_is_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 model for lraspp_mobilenet" in run(capsys, "models", "--find", "lraspp_mobilenet")[1]
