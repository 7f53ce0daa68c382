"""Tokens of every layer, seen from outside."""

import pytest
import torch
from torch import Tensor

from segmeter.encoders.table import build_encoder
from segmeter.harness.models.token_layers import find_token_layers
from segmeter.harness.tokens.layers import LayerTokens, output_scales, watch_layers

CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}
# A 64x96 image: s4 is 2x3 = 6 tokens, s3 4x6 = 24, s2 8x12 = 96.
SIZES = {"res2": (16, 24), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3)}


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(1, CHANNELS[name], *SIZES[name], generator=generator) for name in SIZES}


def seen(name: str, **options: object) -> tuple[list[LayerTokens], dict[str, Tensor]]:
    torch.manual_seed(0)
    encoder = build_encoder(name, CHANNELS, **options).eval()
    layers: list[LayerTokens] = []
    with torch.inference_mode(), watch_layers(encoder, features(), layers.append):
        output = encoder(features())
    assert len(layers) == len(find_token_layers(encoder))
    return layers, output_scales(output, features())[0]


@pytest.mark.parametrize(
    ("name", "options", "updated", "attended"),
    [
        ("m2f", {"layers": 3}, [126] * 3, [126] * 3),
        # p1 layers on s4, p2 on s4 and s3, p3 on all three.
        ("pro-scale", {"stages": (1, 2, 1)}, [6, 30, 30, 126], [6, 30, 30, 126]),
        # High-level layers update s4 and s3 and look at everything.
        ("lite-m2f", {"high_level_layers": 2, "full_layers": 1}, [30, 30, 126], [126] * 3),
        ("rt-m2f", {}, [6], [6]),
    ],
)
def test_each_layer_updates_the_tokens_of_its_design(
    name: str, options: dict[str, object], updated: list[int], attended: list[int]
) -> None:
    layers, _ = seen(name, **options)
    assert [layer.number for layer in layers] == list(range(1, len(layers) + 1))
    assert [layer.updated for layer in layers] == updated
    assert [layer.seen for layer in layers] == attended
    for layer in layers:
        assert sum(m.shape[1] * m.shape[2] for m in layer.after.values()) == layer.updated
        assert layer.before.keys() == layer.after.keys()


def test_the_last_layers_tokens_are_the_encoders_maps() -> None:
    layers, output = seen("m2f", layers=2)
    for scale in ("s4", "s3", "s2"):
        # What one layer gives is what the next takes.
        torch.testing.assert_close(layers[0].after[scale], layers[1].before[scale])
        torch.testing.assert_close(layers[1].after[scale], output[scale])


def test_nothing_stays_on_the_encoder() -> None:
    encoder = build_encoder("m2f", CHANNELS, layers=1)
    with pytest.raises(RuntimeError, match="stop"), watch_layers(encoder, features(), lambda layer: None):
        raise RuntimeError("stop")
    assert not any(layer._forward_hooks for layer in find_token_layers(encoder).values())
