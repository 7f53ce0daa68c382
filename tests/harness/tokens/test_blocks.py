"""Tokens of each block of Segmenter and SegFormer: likeness near and far, and purity in class."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from segmeter.commands.main import app
from segmeter.harness.audit.reduction import segmenter_macs
from segmeter.harness.counting import readable_photos
from segmeter.harness.models import parse_model, real_model
from segmeter.harness.tokens.blocks import class_counts, mean_cosine, purity, run_blocks, windowed
from tests.helpers.reduction_recipe import photo


def test_the_mean_over_pairs_needs_no_pairs() -> None:
    x = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    table = torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1)
    pairs = (table.sum((1, 2)) - 9) / 72
    assert torch.allclose(mean_cosine(x).float(), pairs, atol=1e-6)


def test_windows_hold_neighbours() -> None:
    x = torch.arange(16.0).view(1, 16, 1)
    assert windowed(x, (4, 4), 2)[0, 1].flatten().tolist() == [2, 3, 6, 7]


def test_purity_is_the_share_of_the_commonest_class() -> None:
    classes = torch.tensor([[1, 1, 2, 2], [1, 3, 2, 255]])
    assert purity(class_counts(classes, (1, 2))) == pytest.approx(6 / 7)
    assert purity(class_counts(classes, (1, 1))) == pytest.approx(3 / 7)
    assert purity(class_counts(torch.full((2, 2), 255), (1, 1))) == 1


def test_tokens_of_segmenter_with_labels(tmp_path: Path) -> None:
    Image.fromarray(photo("coffee", 96, 128)).save(tmp_path / "coffee.jpg")
    labels = tmp_path / "labels"
    labels.mkdir()
    ids = np.zeros((96, 128), np.uint8)
    ids[:, 64:] = 1
    Image.fromarray(ids).save(labels / "coffee.png")
    model = "segmenter@vit-ti:train_size=128:reduction=algm:threshold=0.8"
    words = ["tokens", "--encoder", model, "--random-weights", "--images", str(tmp_path / "coffee.jpg")]
    outcome = CliRunner().invoke(app, [*words, "--labels", str(labels), "--out", str(tmp_path), "--json"])
    assert outcome.exit_code == 0, outcome.output
    record = json.loads(outcome.stdout)
    assert json.loads((tmp_path / "tokens.json").read_text()) == record
    blocks = record["blocks"]
    assert len(blocks) == 12
    assert blocks[0]["tokens"] == 64
    # The halves' border is a border of patches and of windows: they are pure, and merging only mixes.
    assert blocks[0]["window2_purity"] == 1
    assert all(before["purity"] >= after["purity"] for before, after in pairwise(blocks))
    assert record["what_if"][0]["model"] == "segmenter@vit-ti:train_size=128"
    totals = {row["title"]: row["total_gmacs"] for row in record["what_if"]}
    assert totals["Segmenter ALGM train size 128"] <= totals["Segmenter train size 128"]
    # What CTS has beside the model's weights is named.
    random = [row["random_parts"] for row in record["what_if"]]
    assert random == [[], [], ["encoder.reduction.policy"], [], []]
    # The model itself, whose threshold is not the published one, comes last.
    assert record["what_if"][-1]["model"] == parse_model(model).text
    assert totals[parse_model(model).encoder_title] <= totals["Segmenter ALGM train size 128"]
    lines = list(csv.DictReader((tmp_path / "tokens.csv").open()))
    last = next(row for row in lines if (row["place"], row["measure"]) == ("encoder.blocks.11", "purity"))
    assert float(last["mean"]) == blocks[11]["purity"]
    assert f"| encoder.blocks.11 | {blocks[11]['tokens']:.1f} |" in (tmp_path / "tokens.md").read_text()
    assert {path.name for path in tmp_path.glob("tokens-*.svg")} == {
        "tokens-blocks.svg",
        "tokens-what-if.svg",
    }


def test_the_what_if_has_the_models_own_weights(tmp_path: Path) -> None:
    """With tokens that are all alike, ALGM merges all windows; random weights would not."""
    spec = parse_model("segmenter@vit-ti:train_size=64", num_classes=3)
    model = real_model(spec)
    with torch.no_grad():
        model.encoder.patch_embed.proj.weight.zero_()
        model.encoder.pos_embed.zero_()
    Image.fromarray(photo("coffee", 64, 64)).save(tmp_path / "coffee.png")
    photos, _ = readable_photos([tmp_path / "coffee.png"])
    record = run_blocks(spec, model, photos, (64, 64), 0.9, weights="")
    none, algm = record["what_if"][:2]
    kept = segmenter_macs("vit-ti", 64, 3, 4)
    assert none["total_gmacs"] == segmenter_macs("vit-ti", 64, 3, 16) / 1e9
    assert algm["total_gmacs"] <= kept / 1e9


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    Image.fromarray(photo("coffee", 64, 64)).save(tmp_path / "coffee.jpg")
    words = ["tokens", "--encoder", "segformer", "--random-weights", "--images", str(tmp_path / "coffee.jpg")]
    outcome = CliRunner().invoke(app, [*words, "--labels", str(tmp_path), "--out", str(tmp_path)])
    assert outcome.exit_code != 0
    assert "coffee.png" in str(outcome.exception)
