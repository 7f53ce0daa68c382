"""`segmeter flops --images`: real runs on real photographs."""

import json
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from PIL import Image
from typer.testing import CliRunner

from segmeter.commands.main import app
from segmeter.harness.counting import count_images, readable_photos
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import parse_model, real_model
from tests.helpers.reduction_recipe import photo

# The reducer that the documentation shows.
PAGE = (Path(__file__).parents[2] / "docs" / "token_reduction.md").read_text()
MINE = PAGE.partition("```python\n")[2].partition("```")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "astronaut", "rocket"):
        Image.fromarray(photo(name, 96, 128)).save(made / f"{name}.png")
    (made / "broken.jpg").write_bytes(b"no photo")
    return made


def run(*words: str) -> dict:
    outcome = CliRunner().invoke(app, ["flops", *words, "--padded-size", "128x128", "--json"])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_each_photo_has_a_row_and_the_mean_is_theirs(folder: Path) -> None:
    text = "segmenter@vit-ti:reduction=algm:threshold=0.8"
    record = run(text, "--images", str(folder), "--batch", "3")
    assert [row["name"] for row in record["images"]] == ["astronaut.png", "coffee.png", "rocket.png"]
    assert len(record["skipped"]) == 1
    assert "broken.jpg" in record["skipped"][0]
    totals = [row["total_gmacs"] for row in record["images"]]
    assert record["total_gmacs"] == pytest.approx(fmean(totals))
    assert record["spread"]["total"]["std"] == pytest.approx(pstdev(totals))
    assert record["total_gmacs"] == pytest.approx(sum(p["gmacs"] for p in record["components"].values()))
    assert sum(record["histogram"]["images"]) == 3
    # The reducer works in blocks 1 and 5 and nowhere else.
    for row in record["images"]:
        before = [65, *row["tokens"][:-1]]
        assert row["tokens_entering"] == before
        assert {i for i in range(12) if row["tokens"][i] != before[i]} <= {0, 4}
    # A batch merges what its most varied image allows in the first stage: no image costs less than alone.
    assert record["batches"]["token_layers"][0]["leaving"]["max"] == max(
        r["tokens"][0] for r in record["images"]
    )


@pytest.mark.parametrize(
    "reduction",
    ["algm:threshold=0.8", "algm:layers=1,12:threshold=0.5", "step:exits=3:share=0.4:confidence=0.2"],
)
def test_alone_and_as_a_whole_model_the_count_is_one(folder: Path, reduction: str) -> None:
    """Counted up to the last decision and by shapes behind it, a photo costs what the whole run costs."""
    text = f"segmenter@vit-ti:reduction={reduction}"
    quick = run(text, "--images", str(folder / "coffee.png"))
    whole = run(text, "--photo", str(folder / "coffee.png"))
    assert quick["components"] == whole["components"]


@pytest.mark.parametrize(
    ("reduction", "real"), [("algm:layers=1,4", 4), ("step:exits=6:keep=0", 7), ("step:exits=0", 1)]
)
def test_behind_the_last_decision_nothing_is_computed(folder: Path, reduction: str, real: int) -> None:
    spec = parse_model(f"segmenter@vit-ti:num_classes=4:train_size=128:reduction={reduction}")
    model = real_model(spec)
    has_values: list[bool] = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda block, inputs, output: has_values.append(not inputs[0].is_meta))
    photos, _ = readable_photos([folder / "coffee.png"])
    count_images(spec, ImageSize((128, 128), (128, 128)), photos, "published", model=model)
    assert has_values == [True] * real + [False] * (12 - real)
    assert not any(weight.is_meta for weight in model.parameters())


def test_a_reducer_of_ones_own(folder: Path, tmp_path: Path) -> None:
    assert len(MINE.splitlines()) <= 20
    (tmp_path / "mine.py").write_text(MINE)
    own = f"{tmp_path}/mine.py:Halves"
    record = run(f"segmenter@vit-ti:reduction={own}", "--images", str(folder))
    assert record["title"].startswith("Segmenter Halves")
    assert record["images"][0]["tokens"][:3] == [65, 33, 33]
    assert record["total_gmacs"] < run("segmenter@vit-ti")["total_gmacs"]
    merged = run(f"segformer@mit-b0:merging={own}", "--images", str(folder))
    assert merged["total_gmacs"] < run("segformer@mit-b0")["total_gmacs"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tokens.x", "got (1, 17, 192) alone"),
        ("(tokens.x[:, :3], None)", "got (1, 3, 192) and a NoneType"),
        ("(tokens.x[:, :3], torch.zeros(1, 17))", "(1, 17) int64; got (1, 17) torch.float32"),
        ("(tokens.x[:, :3, :5], tokens.rows)", "the tokens that are left (1, T, 192)"),
        ("(tokens.x.repeat(1, 2, 1), torch.arange(17)[None])", "as came or fewer, 17; got 34"),
        ("(tokens.x[:, :3], torch.arange(17)[None])", "rows must be 1 to 2, and 0 for the class token"),
        ("(tokens.x, torch.arange(17)[None] - 1)", "rows must be 1 to 16, and 0 for the class token; got -1"),
        ("(tokens.x[:, 1:], (torch.arange(17)[None] - 1).clamp(min=0))", "rows must be 1 to 15, and 0"),
    ],
)
def test_a_reducer_that_gives_something_else_is_told_what_is_asked(
    tmp_path: Path, given: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Mine(torch.nn.Module):\n    layers = (1,)\n\n"
        f"    def forward(self, tokens):\n        return {given}\n"
    )
    model = f"segmenter@vit-ti:train_size=64:reduction={tmp_path}/mine.py:Mine"
    outcome = CliRunner().invoke(app, ["flops", model])
    assert said in str(outcome.exception)
    assert "\n" not in str(outcome.exception)


@pytest.mark.parametrize(
    ("layers", "system", "said"),
    [
        ("3", "segmenter@vit-ti:reduction", "must be whole numbers such as (2, 5), got 3"),
        ("()", "segmenter@vit-ti:reduction", "says no layers, so that it would never run"),
        ("(True,)", "segmenter@vit-ti:reduction", "layers 1 to 12, got layer True"),
        ("3", "segformer:merging", "must be whole numbers such as (2, 5), got 3"),
        ("(5,)", "segformer:merging", "SegFormer has stages 1 to 4, got layer 5"),
    ],
)
def test_layers_that_mean_nothing_are_told(tmp_path: Path, layers: str, system: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(
        f"import torch\n\n\nclass Mine(torch.nn.Module):\n    layers = {layers}\n"
    )
    outcome = CliRunner().invoke(app, ["flops", f"{system}={tmp_path}/mine.py:Mine"])
    assert said in str(outcome.exception)
    assert outcome.exit_code != 0 and "\n" not in str(outcome.exception)


def test_no_readable_photo_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    outcome = CliRunner().invoke(app, ["flops", "segmenter", "--images", str(tmp_path)])
    assert outcome.exit_code != 0


def test_sorting_and_gathering_are_named_beside_the_flops(folder: Path) -> None:
    text = "segmenter@vit-ti:reduction=algm:threshold=0.8"
    record = run(text, "--images", str(folder / "coffee.png"), "--convention", "flops")
    assert set(record["moved"]) == {"sorting_comparisons", "gathering_bytes"}
    assert record["coverage"] == 1
    assert "moved" not in run(text, "--images", str(folder / "coffee.png"))
