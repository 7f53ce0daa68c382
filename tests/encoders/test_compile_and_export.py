"""A whole encoder through torch.compile without a graph break, and through torch.export, op and all."""

from typing import Any

import pytest
import torch

from segmeter.encoders.table import build_encoder

CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}


class PixelEmbeddings(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.encoder(features).mask_features


def features_of(height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    return {
        name: torch.randn(1, channels, height >> i, width >> i, generator=generator)
        for i, (name, channels) in enumerate(CHANNELS.items())
    }


# 5x7 at stride 32: an even or square size would let a graph hold too much of it.
FIRST, OTHERS = (40, 56), ((24, 88), (32, 32))


OPTIONS: dict[str, dict[str, Any]] = {
    "m2f": {"layers": 1},
    "lite-m2f": {"high_level_layers": 1, "full_layers": 1},
    "rt-m2f": {},
    "pro-scale": {"stages": (1, 1, 1)},
}


# Of the op, which is in the graph as it is.
CALLS = {"m2f": 1, "lite-m2f": 2, "rt-m2f": 0, "pro-scale": 3}


# RT-M2F, many convolutions and no op of ours, takes longest to compile: exported alone.
@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in OPTIONS
        for how in ("compiled", "exported")
        if (name, how) != ("rt-m2f", "compiled")
    ],
)
def test_one_graph_serves_all_sizes(name: str, how: str) -> None:
    module = PixelEmbeddings(build_encoder(name, CHANNELS, **OPTIONS[name])).eval()
    with torch.no_grad():
        if how == "compiled":
            torch._dynamo.reset()
            graph = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
        else:
            dynamic = torch.export.Dim.DYNAMIC
            any_side = {level: {2: dynamic, 3: dynamic} for level in CHANNELS}
            program = torch.export.export(module, (features_of(*FIRST),), dynamic_shapes=(any_side,))
            graph = program.module()
            calls = [node for node in program.graph.nodes if "ms_deform_attn_fused" in str(node.target)]
            assert len(calls) == CALLS[name]
        for size in (FIRST, *OTHERS):
            features = features_of(*size)
            # float32, with sums in another order.
            torch.testing.assert_close(graph(features), module(features), rtol=1e-4, atol=1e-5)


def test_pro_scale_compiles_in_one_graph_with_its_gradients() -> None:
    # PRO-SCALE's three stages call the op with one, two and three levels.
    encoder = build_encoder("pro-scale", CHANNELS, stages=(1, 1, 1)).eval()
    features = features_of(32, 64)
    module = PixelEmbeddings(encoder)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    # float32, with sums in another order.
    torch.testing.assert_close(compiled(features), module(features), rtol=1e-4, atol=1e-5)
