"""Three counters, and nothing unexplained."""

from functools import cache

import pytest
import torch
from torch import nn

from segmeter.harness.counting.work import work_of
from segmeter.harness.crosscheck.quirks import bias_additions, einsum_rounding
from segmeter.harness.crosscheck.run import (
    COUNTERS,
    KNOWN,
    REASONS,
    CrossCheck,
    cross_check,
    cross_check_record,
    crosscheck_subject,
    module_subject,
)
from segmeter.harness.crosscheck.tracing import traceable_on_meta
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models import small_values
from segmeter.harness.models.spec import parse_model

STAGES = ("backbone", "encoder", "decoder", "postprocess")
SIZE = ImageSize((128, 160), (100, 130))


@cache
def checked(text: str) -> list[CrossCheck]:
    return cross_check(crosscheck_subject(parse_model(text), SIZE))


@pytest.mark.parametrize("text", ["m2f@r50", "lite-m2f", "rt-m2f@mvit-t", "pro-scale:recalibration=conv"])
def test_every_difference_is_explained_to_the_last_mac(text: str) -> None:
    checks = checked(text)
    assert [(c.part, c.counter) for c in checks] == [(p, c) for p in STAGES for c in COUNTERS]
    for check in checks:
        assert check.unexplained == 0, check
        assert check.counted == check.reference - sum(check.explained.values())
        assert set(check.explained) <= set(REASONS)
    whole = work_of(parse_model(text), SIZE).macs
    assert sum(c.reference for c in checks if c.counter == "torch") == whole


def test_the_counters_really_disagree() -> None:
    checks = {(c.part, c.counter): c for c in checked("m2f@r50")}
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
        checks = cross_check(module_subject(nn.Conv2d(3, 4, 3), (torch.ones(1, 3, 8, 8),)))
    finally:
        KNOWN["torch"] = known
    assert any(c.unexplained for c in checks if c.counter == "torch")


def test_the_record_is_in_gmacs() -> None:
    spec = parse_model("m2f@r50")
    checks = checked(spec.text)
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
    with torch.no_grad(), small_values() as values, traceable_on_meta(values):
        counts = FlopCountAnalysis(net, (torch.empty(1, 3, 16, 16, device="meta"),)).by_operator()
    assert counts == {"conv": 8 * 64 * 27, "group_norm": 5 * 8 * 64}


class Quirks(nn.Module):
    """One of each kind of work that counters see differently."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2, bias=False)
        self.unused = nn.Conv2d(4, 5, 1, bias=False)
        self.attention = nn.MultiheadAttention(4, 1, bias=False, batch_first=True)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.up(self.stem(image))
        self.unused(x)
        tokens = x.flatten(2).mT
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        scores = torch.baddbmm(torch.zeros((), device=x.device), attended, tokens.mT)
        return {"scores": scores, "pooled": nn.functional.adaptive_avg_pool2d(x, 1)}


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_whole_model_is_one_part_and_what_counters_miss_has_its_name(device: str) -> None:
    subject = module_subject(Quirks().to(device), (torch.ones(1, 3, 2, 2, device=device),))
    checks = {check.counter: check for check in cross_check(subject)}
    assert [(c.part, c.failed, c.unexplained) for c in checks.values()] == [("model", "", 0)] * 3
    # 4x4 places, so 16 tokens of 4 channels: each product has 16 * 16 * 4 MACs.
    product = 16 * 16 * 4
    assert checks["fvcore"].explained == {
        "attention_scores": product,
        "attention_values": product,
        "added_products": product,
        "unused_results": 16 * 4 * 5,
        "global_pooling": -16 * 4,
    }
    assert checks["ptflops"].explained == {"added_products": product}
    assert checks["torch"].explained == {}


def test_a_model_that_cannot_be_traced_is_still_counted_by_the_others() -> None:
    class Untraceable(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if torch.jit.is_tracing():
                raise RuntimeError("no tracing here")
            return image @ image.mT

    checks = {c.counter: c for c in cross_check(module_subject(Untraceable(), (torch.ones(1, 3, 4, 4),)))}
    assert "no tracing here" in checks["fvcore"].failed
    assert checks["torch"].counted == checks["torch"].reference == 3 * 4 * 4 * 4
    record = cross_check_record(parse_model("m2f"), SIZE, list(checks.values()))
    assert record["rows"][0]["gmacs"] is None
    assert record["unexplained_gmacs"] == 0
