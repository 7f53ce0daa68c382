"""Mean IoU over sliding windows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from segmeter.commands.main import app
from segmeter.harness.models import parse_model, real_model
from segmeter.harness.quality.sliding import Windows, class_logits, places
from tests.helpers.reduction_recipe import fill, photo


def test_windows_cover_the_side_and_end_at_its_end() -> None:
    # Cityscapes in Segmenter's windows of 768 and SegFormer's of 1024.
    assert places(2048, 768, 512) == [0, 512, 1024, 1280]
    assert places(2048, 1024, 768) == [0, 768, 1024]


@pytest.mark.parametrize("stride", [8, 5, 3])
def test_a_model_that_looks_at_single_pixels_does_not_see_the_windows(stride: int) -> None:
    image = torch.randn(3, 13, 21, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        whole = model(image[None])[0]
        logits, number = class_logits(model, image, Windows(8, stride, 8))
    assert torch.allclose(logits, whole, atol=1e-5)
    assert number == len(places(13, 8, stride)) * len(places(21, 8, stride))


def test_a_models_own_predictions_score_full_marks(tmp_path: Path) -> None:
    """Labels that the model itself gives, window by window, are all right; shifted by one they are not."""
    text = "segmenter@vit-ti:train_size=64:num_classes=5"
    model = real_model(parse_model(text))
    fill(model)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    pixels = photo("coffee", 64, 96)
    Image.fromarray(pixels).save(tmp_path / "coffee.bmp")
    image = (torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) - 127.5) / 127.5
    logits, _ = class_logits(model, image, Windows(64, 32, 64))
    Image.fromarray(logits.argmax(0).numpy().astype(np.uint8)).save(tmp_path / "coffee.png")
    words = ["miou", text.removesuffix(":num_classes=5"), "--weights", str(tmp_path / "weights.pth")]
    words += ["--images", str(tmp_path / "coffee.bmp"), "--labels", str(tmp_path), "--stride", "32", "--json"]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads(outcome.stdout)
    assert (record["miou"], record["windows"]) == (100, 2)
    assert record["window_gmacs"] > 0
    shifted = CliRunner().invoke(app, [*words, "--zero-is-void"])
    assert json.loads(shifted.stdout)["miou"] < 100
