"""A folder named as ``hf:FOLDER`` is anybody's: each is one line, soon, in little memory; nothing runs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import parse_model
from tests.helpers.bounds import bounded
from tests.helpers.hugging_face import SIDE, config, swin

pytest.importorskip("transformers")
PROCESSOR = "preprocessor_config.json"
HUGE = 10**9


def macs(folder: Path) -> float:
    size = ImageSize((SIDE, SIDE), (SIDE, SIDE))
    return count_model(parse_model(f"hf:{folder}", own=True), size, "macs").figures.total


def written(text: str, name: str = "config.json") -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def having(kind: str = "eomt", **settings: Any) -> Callable[[Path], Any]:
    return written(json.dumps(config(kind, **settings)))


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The libraries, so that they are loaded once and not in each bounded copy of this process."""
    folder = tmp_path_factory.mktemp("loaded")
    for kind in ("eomt", "mask2former"):
        having(kind)(folder)
        macs(folder)


def link(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def beyond(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 40)


LISTS = "[" * 900 + "]" * 900
REFUSED = {
    "a terabyte": (beyond, "a model's has a few thousand"),
    "endless": (link, "has no config.json"),
    "a pipe": (pipe, "has no config.json"),
    "not closed": (written("[" * 20_000), "nested beyond reason"),
    "objects in objects": (written('{"a":' * 20_000 + "1" + "}" * 20_000), "nested beyond reason"),
    "lists in lists": (written(f'{{"model_type": "eomt", "a": {LISTS}}}'), "nested beyond reason"),
    "the processor's lists": (written(f'{{"a": {LISTS}}}', PROCESSOR), "nested beyond reason"),
    "5000 digits": (written(f'{{"num_queries": {"9" * 5000}}}'), "is not JSON (line ?)"),
    "no number": (having(hidden_size=float("nan")), "refuses its configuration"),
    "wide": (having(hidden_size=HUGE, num_attention_heads=1), "Storage size calculation overflowed"),
    "deep": (having(num_hidden_layers=HUGE), "is more than 1000"),
    "deep in all": (having("mask2former", backbone_config={**swin(), "depths": [1000] * 4}), "1000 in all"),
    "classes": (having(num_labels=HUGE), "num_labels = 1,000,000,000 is more than 100,000"),
    "large": (having(image_size=HUGE), "image_size asks for images of"),
    "one side": (having(image_size=[1]), "images of [1], expected a height and a width"),
    "a window": (having("mask2former", backbone_config={**swin(), "window_size": HUGE}), "overflow"),
    "large images": (
        written('{"size": {"height": 1e999, "width": 3}}', PROCESSOR),
        "asks for images of (inf",
    ),
    "larger images": (
        written(f'{{"size": {{"height": {HUGE}, "width": 3}}}}', PROCESSOR),
        "asks for images of",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    having()(tmp_path)
    make(tmp_path)
    said = bounded(macs, tmp_path, mebibytes=768, seconds=20)
    assert said.startswith(("ValueError", "OwnModelError")) and reason in said and "\n" not in said
    assert "sys.set_int_max" not in said


def test_code_that_a_processor_names_is_not_looked_for(tmp_path: Path) -> None:
    having()(tmp_path)
    plain = macs(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    acting = {
        "image_processor_type": "os.system",
        "feature_extractor_type": "evil.Thing",
        "processor_class": "subprocess.Popen",
        "auto_map": {"AutoImageProcessor": "evil.Thing"},
        "size_divisor": "\x1b[31m",
    }
    (tmp_path / PROCESSOR).write_text(json.dumps(acting))
    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    assert macs(tmp_path) == plain and not (tmp_path / "it_ran").exists()


def test_a_model_of_more_modules_than_any_has_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from segmeter.harness.models.libraries import model

    # One that no other test builds: what is built is kept.
    monkeypatch.setattr(model, "MOST_MODULES", 20)
    with pytest.raises(ValueError, match="timm:resnet26d is a model of more than 20 modules"):
        count_model(parse_model("timm:resnet26d", own=True), ImageSize((SIDE, SIDE), (SIDE, SIDE)), "macs")
