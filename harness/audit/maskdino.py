"""MaskDINO's encoder and its PRO-SCALE variant, put together from the encoders' own parts.

Source: MaskDINO (arXiv 2206.02777), whose pixel decoder is Mask2Former's with options: a further level at
stride 64, from a 3x3 convolution on ``res5``, and a wider FFN. Which options the PRO-SCALE paper's Table 11
was counted with is not printed; every combination is tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.table import build_backbone
from segmeter.encoders.m2f import DIM
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels, input_projection
from segmeter.harness.counting import CONVENTION, Count, count_model, real_padded_sizes, run_and_count
from segmeter.harness.inputs import ImageSize, Size
from segmeter.harness.models import model_spec
from segmeter.harness.records import GIGA

FFN_DIMS = (1024, 2048)
STRIDES = (32, 16, 8)
EXTRA_STRIDE = 64
SMALL: Size = (512, 512)
LAYERS, STAGE_LAYERS = 6, 3
DEFORMABLE = {"deform_sampling", "deform_weighting"}


@dataclass(frozen=True)
class Structure:
    """One way to build the encoder.

    Attributes:
        progressive: PRO-SCALE (3,3,3) with LPE; otherwise M2F's six layers and its 3x3 convolution.
        extra_level: whether there is a level at stride 64; PRO-SCALE's first stage then has it as well.
        ffn_dim: width of the layers' FFN.
    """

    progressive: bool
    extra_level: bool
    ffn_dim: int

    @property
    def text(self) -> str:
        """In words."""
        levels = "four levels" if self.extra_level else "three levels"
        return (
            f"{'PRO-SCALE (3,3,3)' if self.progressive else 'M2F'} with {levels} and an FFN of {self.ffn_dim}"
        )


def structures(progressive: bool) -> list[Structure]:
    """Every combination of options."""
    return [Structure(progressive, *options) for options in product((False, True), FFN_DIMS)]


def solve_structure(
    progressive: bool, backbone: str, low: float, high: float
) -> list[tuple[Structure, Size]]:
    """Structures and real padded sizes that cost from low to high GMACs, those of the most images first."""
    real = real_padded_sizes()
    found = [
        (structure, size)
        for structure in structures(progressive)
        for size in real
        if low <= encoder_cost(structure, backbone, size) <= high
    ]
    return sorted(found, key=lambda pair: (-real[pair[1]], pair[1]))


def encoder_cost(structure: Structure, backbone: str, padded: Size) -> float:
    """GMACs of the encoder at a padded size, in the published convention.

    Every part's work is proportional to the tokens or pixels it runs on; each is counted once on small maps.
    """
    around = _around(structure.progressive, backbone) * padded[0] * padded[1]
    maps = [_map(padded, stride) for stride in STRIDES]
    if structure.extra_level:
        maps.insert(0, _map(padded, EXTRA_STRIDE))
        around += _extra_projection(backbone) * _tokens(maps[:1])
    if structure.progressive:
        first = len(maps) - len(STRIDES) + 1
        stages = [maps[:count] for count in range(first, len(maps) + 1) for _ in range(STAGE_LAYERS)]
    else:
        stages = [maps] * LAYERS
    layers = sum(_layer(len(stage), structure.ffn_dim) * _tokens(stage) for stage in stages)
    return float(around + layers) / GIGA


def _map(padded: Size, stride: int) -> Size:
    """Size of a level; a convolution of stride 2 rounds up."""
    return -(-padded[0] // stride), -(-padded[1] // stride)


def _tokens(maps: Sequence[Size]) -> int:
    return sum(height * width for height, width in maps)


@lru_cache(maxsize=16)
def _around(progressive: bool, backbone: str) -> Fraction:
    """Units of work for each padded pixel of all that is no encoder layer."""
    spec = model_spec("pro-scale" if progressive else "m2f", backbone)
    figures = count_model(spec, ImageSize(SMALL, SMALL), CONVENTION).figures
    parts = ("input_projection", "recalibration", "pixel_embedding")
    return Fraction(int(sum(figures.of(f"encoder.{part}") for part in parts)), SMALL[0] * SMALL[1])


@lru_cache(maxsize=16)
def _layer(levels: int, ffn_dim: int) -> Fraction:
    """Units of work of one layer for each token, with this many levels to sample from."""
    maps = [_empty(1, DIM, 2**level, 2**level) for level in range(levels)]
    with torch.device("meta"):
        layer = DeformableEncoderLayer(DIM, ffn_dim, levels=levels).eval()
    number = sum(m.shape[-2] * m.shape[-1] for m in maps)
    tokens = _empty(1, number, DIM)
    return Fraction(_seen(run_and_count(layer, tokens, tokens, Levels.of(maps))[1]), number)


@lru_cache(maxsize=16)
def _extra_projection(backbone: str) -> Fraction:
    """Units of work for each token of the further level: 3x3 convolution of stride 2, and norm."""
    with torch.device("meta"):
        channels = build_backbone(backbone).channels["res5"]
        norm = input_projection(channels, DIM)[1]
        project = nn.Sequential(nn.Conv2d(channels, DIM, kernel_size=3, stride=2, padding=1), norm).eval()
    return Fraction(_seen(run_and_count(project, _empty(1, channels, 8, 8))[1]), 4 * 4)


def _seen(count: Count) -> int:
    """What the published convention counts: all but the sampling."""
    return sum(work.macs for work in count.work if work.operator not in DEFORMABLE)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
