"""In half precision the encoders look where float32 looks, on maps whose sides are no powers of two."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmeter.encoders.parts.layers import Levels
from segmeter.encoders.segmenter.decoder import MaskedDecoder
from segmeter.encoders.table import ENCODERS, build_encoder

CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}
# Of stride 8; powers of two would hide the fault, since bfloat16 holds their cells' centres nearly exactly.
STRIDE_8 = (9, 333)
DTYPES = (torch.bfloat16, torch.float16)
# Relative to the float32 output. Rounding alone makes 3e-3 to 1e-2 in bfloat16 and 4e-4 to 1.2e-3 in float16;
# reference points of the features' dtype made 6e-2 to 1.1e-1 and 7e-3 to 1.5e-2.
TOLERANCE = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def features(stride_8: tuple[int, int] = STRIDE_8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, width = stride_8
    sizes = [(2 * height, 2 * width), (height, width)]
    while len(sizes) < 4:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return {
        name: torch.randn(1, channels, *size, generator=generator)
        for (name, channels), size in zip(CHANNELS.items(), sizes, strict=True)
    }


def rounded(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype).float() for name, tensor in tensors.items()}


def error(given: Tensor, expected: Tensor) -> float:
    return ((given.float() - expected).norm() / expected.norm()).item()


def build(name: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = build_encoder(name, CHANNELS).eval()
    # The weights' own rounding is not the question.
    encoder.load_state_dict({n: t.to(dtype).to(t) for n, t in encoder.state_dict().items()})
    return encoder


@pytest.mark.parametrize("how", ["converted", "autocast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_half_precision_samples_where_float32_does(name: str, dtype: torch.dtype, how: str) -> None:
    encoder, inputs = build(name, dtype), rounded(features(), dtype)
    with torch.inference_mode():
        expected = encoder(inputs)
        if how == "converted":
            encoder, inputs = encoder.to(dtype), {n: t.to(dtype) for n, t in inputs.items()}
        with torch.autocast("cpu", dtype) if how == "autocast" else nullcontext():
            given = encoder(inputs)
    for found, wanted in zip(given.multi_scale, expected.multi_scale, strict=True):
        assert error(found, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_decoder_reads_odd_maps_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(num_classes=5, num_queries=7, layers=3).eval()
    height, width = STRIDE_8
    generator = torch.Generator().manual_seed(2)
    maps = [torch.randn(1, 256, -(-height // d), -(-width // d), generator=generator) for d in (4, 2, 1)]
    embeddings = torch.randn(1, 256, 2 * height, 2 * width, generator=generator)
    with torch.inference_mode():
        expected = decoder(maps, embeddings)
        with torch.autocast("cpu", dtype):
            given = decoder(maps, embeddings)
    # A token whose mask logit is about 0 may be seen in one and not in the other: ten times the rounding.
    assert error(given.class_logits, expected.class_logits) < 10 * TOLERANCE[dtype]
    assert error(given.mask_logits, expected.mask_logits) < 10 * TOLERANCE[dtype]


class References(TorchDispatchMode):
    """The reference points that the op is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "ms_deform_attn_fused":
            self.seen.append(args[3])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["m2f", "lite-m2f", "pro-scale"])
def test_reference_points_are_float32_whatever_the_features_are(name: str) -> None:
    encoder = build(name, torch.bfloat16).bfloat16()
    with torch.inference_mode(), References() as references:
        encoder({n: t.bfloat16() for n, t in features((5, 7)).items()})
    assert references.seen and {points.dtype for points in references.seen} == {torch.float32}


@pytest.mark.parametrize("width", [3, 7, 100, 257, 333])
def test_centres_of_bfloat16_maps_lie_within_a_thousandth_of_a_pixel(width: int) -> None:
    levels = Levels.of([torch.zeros(1, 4, 3, width, dtype=torch.bfloat16)])
    x = levels.centres[:width, 0].double() * width
    assert (x - (torch.arange(width) + 0.5)).abs().max() < 1e-3
