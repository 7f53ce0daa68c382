"""A layer's work on each token by itself, done on a CPU a few tokens at a time."""

import pytest
import torch
from torch import Tensor

from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.encoders.parts.slices import ROWS, in_slices

# Three slices of one item, the last one cut; two levels.
SIZES = ((16, 20), (40, 50))


def layer_and_tokens() -> tuple[DeformableEncoderLayer, Tensor, Tensor, Levels]:
    torch.manual_seed(0)
    layer = DeformableEncoderLayer(dim=32, ffn_dim=64, levels=2, heads=4, points=2).eval()
    levels = Levels.of_sizes(SIZES, torch.device("cpu"), torch.float32)
    length = sum(levels.tokens_per_level)
    assert length % ROWS and length > 2 * ROWS
    return layer, torch.randn(2, length, 32), torch.randn(1, length, 32), levels


@pytest.mark.parametrize("queries", [None, 320, 2000])
def test_inference_gives_what_training_gives(queries: int | None) -> None:
    layer, tokens, position, levels = layer_and_tokens()
    whole = layer(tokens, position, levels, queries)
    assert whole.requires_grad
    with torch.inference_mode():
        sliced = layer(tokens, position, levels, queries)
    # float32: a matrix product of other rows may add up in another order.
    torch.testing.assert_close(sliced, whole.detach(), rtol=1e-5, atol=1e-5)


def test_slices_are_many_in_inference_alone_and_keep_the_results_type() -> None:
    seen: list[tuple[int, ...]] = []

    def update(tokens: Tensor, others: Tensor) -> Tensor:
        seen.append(tuple(tokens.shape))
        return (tokens + others).bfloat16()

    tokens, others = torch.randn(2, ROWS + 8, 4), torch.randn(2, ROWS + 8, 4)
    whole = in_slices(update, tokens, others)
    assert seen == [(2, ROWS + 8, 4)]
    with torch.no_grad():
        assert in_slices(update, tokens, others).equal(whole)
    assert seen[1:] == 2 * [(1, ROWS, 4), (1, 8, 4)]


def test_whoever_watches_sees_the_layer_whole() -> None:
    layer, tokens, position, levels = layer_and_tokens()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(tokens, position, levels)
    counted = counter.get_flop_counts()["DeformableEncoderLayer.linear1"]
    assert sum(counted.values()) == 2 * 2 * tokens.shape[1] * 32 * 64
