"""Three counters, and nothing unexplained."""

import pytest
import torch
from torch import nn

from harness.counter_quirks import bias_additions, einsum_rounding
from harness.crosscheck import COUNTERS, KNOWN, REASONS, cross_check, cross_check_record
from harness.meta_tracing import traceable_on_meta
from harness.model_count import PARTS, work_of
from harness.sizes import ImageSize
from harness.spec import parse_model

SIZE = ImageSize((128, 160), (100, 130))


@pytest.mark.parametrize("text", ["m2f@r50", "lite-m2f", "rt-m2f@mvit-t", "pro-scale:recalibration=conv"])
def test_every_difference_is_explained_to_the_last_mac(text: str) -> None:
    checks = cross_check(parse_model(text), SIZE)
    assert [(c.part, c.counter) for c in checks] == [(p, c) for p in PARTS for c in COUNTERS]
    for check in checks:
        assert check.unexplained == 0, check
        assert check.counted == check.reference - sum(check.explained.values())
        assert set(check.explained) <= set(REASONS)
    whole = work_of(parse_model(text), SIZE).macs
    assert sum(c.reference for c in checks if c.counter == "torch") == whole


def test_the_counters_really_disagree() -> None:
    checks = {(c.part, c.counter): c for c in cross_check(parse_model("m2f@r50"), SIZE)}
    # fvcore knows no fused attention; torch knows no norm.
    assert set(checks["decoder", "fvcore"].explained) >= {"attention_scores", "attention_values"}
    assert checks["backbone", "torch"].explained.keys() == {"batch_norm"}
    assert checks["decoder", "ptflops"].explained["bias_additions"] < 0
    unsupported = checks["encoder", "fvcore"].unsupported
    assert unsupported and "segmeter::ms_deform_attn" not in unsupported
    assert checks["encoder", "torch"].unsupported is None


def test_an_unknown_difference_would_show() -> None:
    # Take one formula away from what a counter is said to know, and the sums no longer meet.
    known = KNOWN["torch"]
    KNOWN["torch"] = known - {"conv"}
    try:
        checks = cross_check(parse_model("m2f@r50"), SIZE)
    finally:
        KNOWN["torch"] = known
    assert any(c.unexplained for c in checks if c.counter == "torch")


def test_the_record_is_in_gmacs() -> None:
    spec = parse_model("pro-scale@r50:stages=1,0,0")
    checks = cross_check(spec, SIZE)
    record = cross_check_record(spec, SIZE, checks)
    assert record["unexplained_gmacs"] == 0
    assert record["rows"][0]["gmacs"] == checks[0].counted / 1e9


def test_bias_additions_are_the_outputs_of_biased_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1, bias=False), nn.Flatten(), nn.Linear(20, 6))
    assert bias_additions(net, (torch.randn(2, 3, 2, 2),)) == 2 * 4 * 4 + 2 * 6


def test_einsum_rounding_is_numpys_print() -> None:
    class Product(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bqc,bchw->bqhw", a, b)

    a, b = torch.empty(1, 100, 256, device="meta"), torch.empty(1, 256, 256, 512, device="meta")
    # 100*256*256*512 = 3_355_443_200, twice that prints as 6.711e+09, half of which is 3_355_500_000.
    assert einsum_rounding(Product(), (a, b)) == 3_355_500_000 - 3_355_443_200


def test_tracing_on_meta_records_convolutions() -> None:
    from fvcore.nn import FlopCountAnalysis

    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.GroupNorm(2, 8)).to("meta")
    with torch.no_grad(), traceable_on_meta():
        counts = FlopCountAnalysis(net, (torch.empty(1, 3, 16, 16, device="meta"),)).by_operator()
    assert counts == {"conv": 8 * 64 * 27, "group_norm": 5 * 8 * 64}
