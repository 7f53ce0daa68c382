"""Tokens of each block of Segmenter and SegFormer: likeness near and far, and purity in class."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from segmeter.commands.main import app
from segmeter.harness.tokens.blocks import class_counts, mean_cosine, purity, windowed
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
    totals = {row["title"]: row["total_gmacs"] for row in record["what_if"]}
    assert totals["Segmenter ALGM"] <= totals["Segmenter"]


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    Image.fromarray(photo("coffee", 64, 64)).save(tmp_path / "coffee.jpg")
    words = ["tokens", "--encoder", "segformer", "--random-weights", "--images", str(tmp_path / "coffee.jpg")]
    outcome = CliRunner().invoke(app, [*words, "--labels", str(tmp_path), "--out", str(tmp_path)])
    assert outcome.exit_code != 0
    assert "coffee.png" in str(outcome.exception)
