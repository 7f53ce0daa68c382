"""Tokens before and after a layer come apart by scale, also where fine tokens stand first."""

import pytest
import torch

from segmeter.harness.models import encoder_on, parse_model
from segmeter.harness.tokens.layers import LayerTokens, output_scales, watch_layers
from tests.helpers.parity_recipe import feature

CHANNELS = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
FEATURES = {
    name: feature(index, (1, width, 192 // stride, 256 // stride))
    for index, stride, (name, width) in zip((2, 3, 4, 5), (4, 8, 16, 32), CHANNELS.items(), strict=True)
}


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("lite-dino@r50:expansions=1:high_level_layers=1:high_level_scales=2", "s4 s5", "s2 s3 s4 s5"),
        ("maskdino@r50:encoder=pro-scale:stages=1,0,0,1", "s5", "s2 s3 s4 s5"),
    ],
)
def test_a_layers_tokens_by_scale(text: str, first: str, last: str) -> None:
    encoder = encoder_on(parse_model(text), CHANNELS).eval()
    seen: list[LayerTokens] = []
    with torch.inference_mode(), watch_layers(encoder, FEATURES, seen.append):
        output = encoder(FEATURES)
    assert [" ".join(sorted(layer.after)) for layer in seen] == [first, last]
    sides = {"s2": (24, 32), "s3": (12, 16), "s4": (6, 8), "s5": (3, 4)}
    for layer in seen:
        assert {s: level.shape[-2:] for s, level in layer.after.items()} == {s: sides[s] for s in layer.after}
        assert layer.before.keys() == layer.after.keys()
    multi_scale, embedding = output_scales(output, FEATURES)
    # The last layer updates everything: what it hands on is the encoder's output, map by map.
    for scale, level in multi_scale.items():
        torch.testing.assert_close(level, seen[-1].after[scale])
    assert list(embedding) == (["s1"] if text.startswith("maskdino") else [])
