"""Under autocast a count by shape says the bytes that a real pass writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.harness.api import count
from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.models import meta_model, parse_model, real_model


class Mixed(nn.Module):
    """Products, norms, resizing and a region in single precision, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm, self.tokens = nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.batch = nn.BatchNorm2d(8)
        self.linear, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.norm(self.batch(self.conv(x))).relu()
        tokens = self.tokens(self.linear(maps.flatten(2).mT))
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        scores = torch.einsum("bnc,bmc->bnm", tokens, tokens).softmax(-1) @ tokens
        both = torch.cat([scores, tokens.float()], -1)
        single = F.scaled_dot_product_attention(tokens.float(), tokens.float(), tokens.float())
        with torch.autocast("cpu", enabled=False):
            apart = self.linear(single.float())
        summed = torch.baddbmm(x.new_zeros(1, 1, 1), tokens, tokens.mT)
        resized = F.interpolate(self.up(maps), scale_factor=2.0, mode="bilinear")
        sampled = F.grid_sample(maps, x.new_zeros(1, 3, 3, 2), align_corners=False)
        return [
            self.tokens(both[..., :8]),
            resized,
            sampled,
            summed,
            apart,
            self.recurrent(tokens.float())[0],
        ]


@contextmanager
def cast(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype):
        yield


class Inside(Mixed):
    def forward(self, x: Tensor) -> list[Tensor]:
        with cast(torch.bfloat16):
            return super().forward(x)


def bytes_of(found: Any) -> dict[str, int]:
    return {f"{w.module} {w.operator}": w.output_bytes for w in found.work if w.output_bytes}


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_each_operator_writes_as_many_bytes_on_meta_as_on_the_cpu(
    dtype: torch.dtype | None, inference: bool
) -> None:
    model = Mixed().eval()
    if dtype is torch.float16 or inference:
        # oneDNN's recurrent layers take bfloat16 alone, and are not cast where inference mode takes them
        # apart.
        model.recurrent = nn.Identity()  # type: ignore[assignment]
    found = {}
    for device in ("cpu", "meta"):
        x = torch.zeros(1, 3, 8, 8, device=device)
        with torch.inference_mode(inference), torch.autocast("cpu", dtype, enabled=dtype is not None):
            found[device] = run_and_count(model.to(device), x)[1]
    assert bytes_of(found["meta"]) == bytes_of(found["cpu"])
    assert found["meta"].macs == found["cpu"].macs
    size = 2 if dtype else 4
    assert bytes_of(found["meta"])["conv conv"] == 8 * 64 * size
    # The region without autocast writes single precision, beside the layer's first call.
    assert bytes_of(found["meta"])["linear linear"] == 8 * 64 * (size + 4)


@pytest.mark.filterwarnings("ignore:Default grid_sample")
def test_a_model_that_casts_inside_is_counted_alike_by_shape() -> None:
    by_shape, real = count(Inside(), (1, 3, 8, 8)), count(Inside(), torch.zeros(1, 3, 8, 8))
    plain = count(Mixed(), (1, 3, 8, 8))
    assert by_shape.activation_bytes == real.activation_bytes < plain.activation_bytes
    assert (by_shape.macs, by_shape.flops) == (real.macs, real.flops)
    assert by_shape.macs == plain.macs


def test_recurrent_layers_write_the_same_bytes_on_every_device() -> None:
    for layer in (nn.LSTM(16, 8), nn.GRU(16, 8, bidirectional=True)):
        by_shape, real = count(layer, (5, 3, 16)), count(layer, torch.zeros(5, 3, 16))
        assert by_shape.activation_bytes == real.activation_bytes


@pytest.mark.parametrize("text", ["m2f@r50", "pro-scale@r50:stages=1,1,1"])
def test_segmeter_s_own_models_write_the_same_bytes_under_autocast(text: str) -> None:
    spec = parse_model(text)
    found = {}
    for device, model in (("cpu", real_model(spec)), ("meta", meta_model(spec))):
        with torch.autocast("cpu", torch.bfloat16):
            found[device] = run_and_count(model, torch.zeros(1, 3, 64, 64, device=device))[1]
    assert bytes_of(found["meta"]) == bytes_of(found["cpu"])
