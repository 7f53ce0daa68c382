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
from segmeter.harness.quality.sliding import Windows, best_classes, class_logits, places
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


def test_a_mirrored_window_makes_a_model_blind_to_left_and_right() -> None:
    """The mean of both sees the same in a photo and in its mirror image, for any model."""
    image = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        once, _ = class_logits(model, image, Windows(8, 8, 8, flip=True))
        mirrored, _ = class_logits(model, image.flip(-1), Windows(8, 8, 8, flip=True))
        plain, _ = class_logits(model, image.flip(-1), Windows(8, 8, 8))
    assert torch.allclose(once.flip(-1), mirrored, atol=1e-6)
    assert not torch.allclose(plain, mirrored, atol=1e-3)


def test_a_whole_photo_is_resized_to_sides_that_the_model_takes() -> None:
    # 512x683 of a 480x640 photo: the next multiples of 32.
    assert Windows(512, 512, 512, whole=True).resized((480, 640), 32) == (512, 704)
    assert Windows(512, 512, 512).resized((480, 640), 32) == (512, 683)


@pytest.mark.parametrize(
    ("dataset", "ending"), [("ade20k", ""), ("cityscapes", "labelTrainIds"), ("cityscapes", "labelIds")]
)
def test_published_layouts_are_read(dataset: str, ending: str, tmp_path: Path) -> None:
    """Labels of the model's own making, in the data set's folders and numbering, are all right."""
    text = "segformer@mit-b0"
    model = real_model(parse_model(f"{text}:num_classes=5"))
    fill(model)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    pixels = photo("coffee", 64, 96)
    if dataset == "ade20k":
        place = tmp_path / "images/validation/ADE_val_00000001.jpg"
        label = tmp_path / "annotations/validation/ADE_val_00000001.png"
    else:
        place = tmp_path / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"
        label = tmp_path / f"gtFine/val/ulm/ulm_000001_000019_gtFine_{ending}.png"
    for path in (place, label):
        path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(place, quality=95)
    seen = np.asarray(Image.open(place).convert("RGB"))
    scale = parse_model(text).system.pixels
    mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))
    image = (torch.from_numpy(seen.astype(np.float32)).permute(2, 0, 1) - mean) / std
    with torch.no_grad():
        ids = model.eval()(image[None])[0].argmax(0).numpy().astype(np.uint8)
    if ending == "labelIds":
        # Road, sidewalk, building, wall and fence as the files have them.
        ids = np.array([7, 8, 11, 12, 13], dtype=np.uint8)[ids]
    Image.fromarray(ids + (dataset == "ade20k")).save(label)
    words = ["miou", text, "--weights", str(tmp_path / "weights.pth"), "--dataset", dataset]
    words += ["--data", str(tmp_path), "--whole", "--short-side", "64", "--json"]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads(outcome.stdout)
    assert (record["miou"], record["whole"], record["windows"]) == (100, True, 1)
    refused = CliRunner().invoke(app, [*words[:4], "--dataset", "ade20K", "--data", str(tmp_path)])
    assert "did you mean 'ade20k'" in str(refused.exception)


@pytest.mark.parametrize("classes", [1, 16, 37])
def test_classes_are_compared_a_few_at_a_time(classes: int) -> None:
    logits = torch.randn(classes, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(logits[None], size=(11, 13), mode="bilinear")[0].argmax(0)
    assert (best_classes(logits, (11, 13)) == whole.numpy()).all()
