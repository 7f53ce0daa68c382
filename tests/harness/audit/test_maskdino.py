"""MaskDINO's encoder, put together from parts."""

import pytest
import torch

from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels
from segmeter.harness.audit.maskdino import Structure, encoder_cost, solve_structure, structures
from segmeter.harness.counting.by_size import cost_model
from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.models.spec import parse_model
from segmeter.harness.records.flops import GIGA

SIZE = (800, 1216)


@pytest.mark.parametrize("progressive", [False, True])
def test_without_options_it_is_m2fs_or_pro_scales_own_encoder(progressive: bool) -> None:
    spec = parse_model("pro-scale@r50" if progressive else "m2f@r50")
    plain = Structure(progressive, extra_level=False, ffn_dim=1024)
    # Exact fractions of whole counts: equal but for the last bit of a float.
    assert encoder_cost(plain, "r50", SIZE) == pytest.approx(cost_model(spec).encoder(SIZE), rel=1e-12)


def test_a_further_level_and_a_wider_ffn_cost_what_their_layers_count() -> None:
    base = encoder_cost(Structure(False, False, 1024), "r50", SIZE)
    found = encoder_cost(Structure(False, True, 2048), "r50", SIZE)
    costs = {}
    for ffn_dim, sizes in (
        (1024, ((25, 38), (50, 76), (100, 152))),
        # 25 x 38 tokens at stride 32 become 13 x 19 at stride 64.
        (2048, ((13, 19), (25, 38), (50, 76), (100, 152))),
    ):
        maps = [torch.empty(1, 256, *size, device="meta") for size in sizes]
        with torch.device("meta"):
            layer = DeformableEncoderLayer(256, ffn_dim, levels=len(sizes))
        tokens = torch.empty(1, sum(h * w for h, w in sizes), 256, device="meta")
        _, count = run_and_count(layer, tokens, tokens, Levels.of(maps))
        costs[ffn_dim] = sum(w.macs for w in count.work if not w.operator.startswith("deform"))
    # 3x3 convolution of 2048 to 256 channels and a norm at 5 per element, on 247 tokens.
    projection = 247 * (2048 * 256 * 9 + 5 * 256)
    expected = 6 * (costs[2048] - costs[1024]) + projection
    assert (found - base) * GIGA == pytest.approx(expected, rel=1e-9)


def test_table_11_fits_four_levels_and_three() -> None:
    (base, size), *_ = solve_structure(False, "r50", 203.5, 204.5)
    (variant, other), *_ = solve_structure(True, "r50", 107.5, 108.5)
    assert size == other == SIZE
    assert (base.extra_level, base.ffn_dim) == (True, 2048)
    assert (variant.extra_level, variant.ffn_dim) == (False, 2048)
    assert len(structures(True)) == len({s.text for s in structures(True)}) == 4
    assert solve_structure(False, "r50", 500.0, 501.0) == []
