"""A layer's work on each token by itself, done on a CPU a few tokens at a time."""

import pytest
import torch
from torch import Tensor, nn

from segmeter.cuda_ops import rows
from segmeter.encoders.m2f import build_m2f
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.encoders.parts.slices import ROWS, in_slices
from segmeter.encoders.pro_scale import build_pro_scale

# Three slices of one item, the last one cut; two levels.
SIZES = ((16, 20), (40, 50))


def layer_and_tokens() -> tuple[DeformableEncoderLayer, Tensor, Tensor, Levels]:
    torch.manual_seed(0)
    layer = DeformableEncoderLayer(dim=32, ffn_dim=64, levels=2, heads=4, points=2).eval()
    levels = Levels.of_sizes(SIZES, torch.device("cpu"), torch.float32)
    length = sum(levels.tokens_per_level)
    assert length % ROWS and length > 2 * ROWS
    return layer, torch.randn(2, length, 32), torch.randn(1, length, 32), levels


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("queries", [None, 320, 2000])
def test_inference_gives_what_training_gives(
    queries: int | None, by_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_rows:
        monkeypatch.setattr(rows, "serve", lambda tensor, *modules: False)
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


def test_a_hook_sees_what_it_sees_without_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, tokens, position, levels = layer_and_tokens()
    seen: list[Tensor] = []
    layer.linear1.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.inference_mode():
        layer(tokens, position, levels)
        short = torch.cat(seen, dim=1)
        seen.clear()
        monkeypatch.setattr(rows, "serve", lambda tensor, *modules: False)
        layer(tokens, position, levels)
    # Before the ReLU, all of them kept though memory is used again.
    assert short.lt(0).any()
    torch.testing.assert_close(short, torch.cat(seen, dim=1), rtol=1e-5, atol=1e-5)


def test_an_encoder_by_rows_gives_what_torchs_operators_give(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    channels = {"res2": 16, "res3": 24, "res4": 40, "res5": 48}
    for encoder in (build_m2f(channels, layers=1), build_pro_scale(channels, stages=(1, 1, 1))):
        for tensor in encoder.parameters():
            nn.init.normal_(tensor, std=0.1)
        features = {f"res{i}": torch.randn(2, channels[f"res{i}"], 160 >> i, 224 >> i) for i in range(2, 6)}
        before = {name: feature.clone() for name, feature in features.items()}
        with torch.no_grad():
            found = encoder.eval()(features)
            with monkeypatch.context() as patch:
                patch.setattr(rows, "serve", lambda tensor, *modules: False)
                wanted = encoder(features)
        for given, kept in zip(features.values(), before.values(), strict=True):
            assert given.equal(kept)
        for one, other in zip(
            (found.mask_features, *found.multi_scale),
            (wanted.mask_features, *wanted.multi_scale),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
