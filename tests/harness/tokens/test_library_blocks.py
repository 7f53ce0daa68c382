"""Tokens of a library's model, block by block."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from segmeter.commands.main import main
from segmeter.harness.models import LayerCall, find_token_layers, watch_token_layers
from segmeter.harness.tokens import blocks
from segmeter.harness.tokens.library_blocks import tell_tokens
from tests.helpers.hugging_face import folder


class Blocks(nn.Module):
    """A class token before the patches of a map; the second block sees a query more."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(self.stem(images)).flatten(2).transpose(1, 2)
        tokens = self.blocks[0](torch.cat([patches.new_zeros(1, 1, 8), patches], 1))
        return self.blocks[1](torch.cat([patches.new_zeros(1, 1, 8), tokens], 1))


def test_blocks_tell_the_tokens_of_the_map() -> None:
    model = Blocks()
    # Neither the convolutions nor the layers inside a block.
    assert tell_tokens(model, (64, 96)) == 2
    assert list(find_token_layers(model)) == ["blocks.0", "blocks.1"]
    x = torch.rand(1, 2 + 24, 8)
    told = model.blocks[1].layer_tokens(x)
    assert told.sizes == ((4, 6),) and torch.equal(told.tokens, x[:, 2:])


class ByKeyword(Blocks):
    """The same, its blocks called with keywords alone."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Keyword() for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(self.stem(images)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(hidden_states=tokens, mask=None)
        return tokens


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, *, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return self.mix(hidden_states)


def test_blocks_called_by_keyword_alone_tell_them_too() -> None:
    model = ByKeyword()
    assert tell_tokens(model, (64, 96)) == 2
    seen: list[LayerCall] = []
    with watch_token_layers(model, seen.append):
        model(torch.rand(1, 3, 64, 96))
    assert [each.path for each in seen] == ["blocks.0", "blocks.1"]
    assert all(each.tokens.tokens.shape == (1, 24, 8) for each in seen)
    measured = {path: blocks.Block() for path in find_token_layers(model)}
    blocks._one(model, torch.rand(1, 3, 64, 96), measured, 0.9, None)
    assert [block.tokens for block in measured.values()] == [[24], [24]]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_a_librarys_model_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    name = folder(tmp_path / "eomt", "eomt")
    drawn = ("--random-weights", "--num-images", 1, "--out", tmp_path / "out", "--json")
    code, out, _ = call(capsys, "tokens", "--encoder", name, *drawn)
    blocks = {block["layer"]: block for block in json.loads(out)["blocks"]}
    assert code == 0 and list(blocks) == ["layers.0", "layers.1"]
    # 64x64 pixels in patches of 16, whatever stands beside them.
    assert all(block["tokens"] == 16 and -1 <= block["window2_cosine"] <= 1 for block in blocks.values())
    code, out, error = call(capsys, "tokens", "--encoder", "timm:resnet18", *drawn)
    assert (code, out) == (2, "") and "no blocks that take tokens" in error and error.count("\n") == 1
    code, _, error = call(capsys, "tokens", "--backbone", name, *drawn)
    assert code == 2 and f"{name} is a whole model" in error
