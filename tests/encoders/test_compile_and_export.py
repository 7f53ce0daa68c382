"""A whole encoder through torch.compile without a graph break, and through torch.export, op and all."""

import torch

from segmeter.encoders.table import build_encoder

CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}


def test_pro_scale_compiles_in_one_graph_and_exports() -> None:
    # PRO-SCALE's three stages call the op with one, two and three levels.
    encoder = build_encoder("pro-scale", CHANNELS, stages=(1, 1, 1)).eval()
    generator = torch.Generator().manual_seed(0)
    features = {
        name: torch.randn(1, channels, 32 >> i, 64 >> i, generator=generator)
        for i, (name, channels) in enumerate(CHANNELS.items())
    }

    class PixelEmbeddings(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.encoder(features).mask_features

    module = PixelEmbeddings()
    expected = module(features)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    # float32, with sums in another order.
    torch.testing.assert_close(compiled(features), expected, rtol=1e-4, atol=1e-5)
    program = torch.export.export(module, (features,))
    calls = [node for node in program.graph.nodes if "ms_deform_attn_fused" in str(node.target)]
    assert len(calls) == 3
    torch.testing.assert_close(program.module()(features), expected, rtol=1e-4, atol=1e-5)
