"""What a model is fed with, and what may come out of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segmeter.commands.main import main
from segmeter.encoders.chain import Model, Pixels, Stage
from segmeter.encoders.parts.boxes import DetectionOutput
from segmeter.harness.inputs import ResizeRule
from segmeter.harness.models import parse_model, real_model
from segmeter.harness.quality.inference import Settings, segment


def test_images_are_normalised_as_the_systems_weights_want_them() -> None:
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, images: torch.Tensor, sizes: Any) -> DetectionOutput:
        seen.append(images)
        nothing = torch.zeros(1, 0)
        return DetectionOutput(scores=nothing, labels=nothing.long(), boxes=torch.zeros(1, 0, 4))

    stage = Stage(name="look", key=("look",), build=lambda built: nn.Identity(), call=look)
    model = Model([stage], [nn.Identity()], 1, Pixels((100.0,) * 3, (50.0,) * 3))
    grey = np.full((32, 32, 3), 200, np.uint8)
    segment(model, [grey], ResizeRule(short=32, long=64), Settings("cpu", "float32", 1))
    # (200 - 100) / 50
    assert torch.equal(seen[0], torch.full((1, 3, 32, 32), 2.0))


def test_a_model_of_class_maps_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = parse_model("segmenter@vit-ti:train_size=128", num_classes=150)
    torch.save(real_model(spec).state_dict(), tmp_path / "segmenter.pth")
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(tmp_path / "photo.png")
    words = ["predict", tmp_path / "photo.png", "--weights", tmp_path / "segmenter.pth", "--out", tmp_path]
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "neither masks nor boxes" in error and error.count("\n") == 1
