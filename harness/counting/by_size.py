"""A model's cost as an exact function of image size, and the sizes at which it costs a given amount.

All sizes are multiples of 32, so an encoder's work is a polynomial of the padded pixels: linear, and
quadratic for an encoder with dense attention; a level at stride 64, which rounds its sides up, adds a term
for the tokens that it has beyond a 4096th of the pixels. The same holds for all that comes after the encoder,
which also grows with the original image. Backbones pad their windows and are counted at every size.

The polynomial is found from exact counts, in fractions, and held to one more count at a real size. An encoder
that is no such polynomial is counted at every size instead.
"""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.count import count_model
from segmeter.harness.counting.work import backbone_work
from segmeter.harness.inputs import ImageSize, Size, dataset_sizes, from_image
from segmeter.harness.models import ModelSpec, find_components
from segmeter.harness.records import GIGA

CONVENTION = "published"
# Small sizes whose pixels stand as 1 : 2 : 4.
PROBES: tuple[Size, ...] = ((256, 256), (256, 512), (512, 512))
# Sides that are no multiples of 64.
ODD_PROBE: Size = (288, 288)
PROOF = from_image((480, 640))


@dataclass(frozen=True)
class Polynomial:
    """c0 + c1 x + c2 x^2 in exact fractions, and a cost for each further token."""

    coefficients: tuple[Fraction, Fraction, Fraction]
    per_further_token: Fraction = Fraction(0)

    def at(self, x: int, further_tokens: Fraction = Fraction(0)) -> float:
        """Value at a whole number."""
        c0, c1, c2 = self.coefficients
        return float(c0 + (c1 + c2 * x) * x + self.per_further_token * further_tokens)


def through(points: list[tuple[int, int]]) -> Polynomial:
    """The parabola through three points with distinct x, by divided differences."""
    (x0, y0), (x1, y1), (x2, y2) = points
    slope = Fraction(y1 - y0, x1 - x0)
    c2 = (Fraction(y2 - y1, x2 - x1) - slope) / (x2 - x0)
    c1 = slope - c2 * (x0 + x1)
    return Polynomial((y0 - c1 * x0 - c2 * x0 * x0, c1, c2))


@dataclass(frozen=True)
class CostModel:
    """GMACs of one model at any size, in the published convention.

    Attributes:
        spec: the model.
        encoder_cost, other_cost: units of work of the encoder, and of all behind it at an original size of no
            pixels, over the padded pixels; None where the work is no such polynomial.
        per_original_pixel: units of work for each pixel of the original image.
    """

    spec: ModelSpec
    encoder_cost: Polynomial | None
    other_cost: Polynomial | None
    per_original_pixel: Fraction
    # Means over the same images are asked for again and again, and fractions take their time.
    _totals: dict[ImageSize, float] = field(default_factory=dict, compare=False, repr=False)

    def encoder(self, padded: Size) -> float:
        """GMACs of the encoder."""
        if self.encoder_cost is None:
            return count_model(self.spec, ImageSize(padded, padded), CONVENTION).figures.of("encoder") / GIGA
        return _at(self.encoder_cost, padded) / GIGA

    def total(self, size: ImageSize) -> float:
        """GMACs of the whole model."""
        found = self._totals.get(size)
        if found is None:
            found = self._totals[size] = self._total(size)
        return found

    def _total(self, size: ImageSize) -> float:
        if self.encoder_cost is None or self.other_cost is None:
            return count_model(self.spec, size, CONVENTION).figures.total / GIGA
        rest = _at(self.other_cost, size.padded) + float(self.per_original_pixel * _pixels(size.original))
        return (_backbone(self.spec, size.padded) + _at(self.encoder_cost, size.padded) + rest) / GIGA

    def pixels_for(self, low: float, high: float) -> tuple[int, int]:
        """Smallest and largest number of padded pixels, multiples of 1024, that cost from low to high GMACs.

        The first is above the second where no such number exists.
        """
        return self._first(low), self._first(high, beyond=True) - 1024

    def _first(self, gmacs: float, beyond: bool = False) -> int:
        """First number of pixels that costs at least ``gmacs``, or more than it."""
        below, above = 0, 1
        while not self._reaches(above, gmacs, beyond):
            above *= 2
        while above - below > 1:
            middle = (below + above) // 2
            if self._reaches(middle, gmacs, beyond):
                above = middle
            else:
                below = middle
        return above * 1024

    def _reaches(self, blocks: int, gmacs: float, beyond: bool) -> bool:
        # One row of 32x32 blocks has any number of them.
        cost = self.encoder((32, 32 * blocks))
        return cost > gmacs if beyond else cost >= gmacs


@lru_cache(maxsize=256)
def cost_model(spec: ModelSpec) -> CostModel:
    """Find a model's cost as a function of size, and prove it at one more size."""
    original = PROBES[0]
    encoder_points, other_points = [], []
    for padded in PROBES:
        encoder, other = _parts(spec, ImageSize(padded, original))
        encoder_points.append((_pixels(padded), encoder))
        other_points.append((_pixels(padded), other))
    _, larger = _parts(spec, ImageSize(PROBES[0], PROBES[2]))
    per_original = Fraction(larger - other_points[0][1], _pixels(PROBES[2]) - _pixels(original))
    encoder_cost = through(encoder_points)
    other_cost = through([(x, int(y - per_original * _pixels(original))) for x, y in other_points])
    encoder, other = _parts(spec, ImageSize(ODD_PROBE, original))
    model = CostModel(
        spec,
        _with_further_tokens(encoder_cost, encoder),
        _with_further_tokens(other_cost, other - per_original * _pixels(original)),
        per_original,
    )
    figures = count_model(spec, PROOF, CONVENTION).figures
    same_encoder = abs(model.encoder(PROOF.padded) * GIGA - figures.of("encoder")) < 1
    same_total = abs(model.total(PROOF) * GIGA - figures.total) < 1
    return model if same_encoder and same_total else CostModel(spec, None, None, Fraction(0))


def _with_further_tokens(cost: Polynomial, odd: int | Fraction) -> Polynomial:
    """The polynomial with the term that makes it cost ``odd`` at :data:`ODD_PROBE`."""
    c0, c1, c2 = cost.coefficients
    x = _pixels(ODD_PROBE)
    return Polynomial(cost.coefficients, (odd - (c0 + (c1 + c2 * x) * x)) / _further_tokens(ODD_PROBE))


def _at(cost: Polynomial, padded: Size) -> float:
    return cost.at(_pixels(padded), _further_tokens(padded))


def _further_tokens(padded: Size) -> Fraction:
    """Tokens that a level at stride 64 has beyond its share of the pixels, because it rounds up."""
    height, width = (-(-side // 64) for side in padded)
    return height * width - Fraction(_pixels(padded), 4096)


def _parts(spec: ModelSpec, size: ImageSize) -> tuple[int, int]:
    """Units of work of the encoder, and of all behind it."""
    figures = count_model(spec, size, CONVENTION).figures
    encoder = int(figures.of("encoder"))
    return encoder, int(figures.total) - encoder - int(_backbone(spec, size.padded))


@lru_cache(maxsize=4096)
def _backbone(spec: ModelSpec, padded: Size) -> float:
    """Units of work of the first stage."""
    return apply_convention(backbone_work(spec, padded), find_components(spec), CONVENTION).total


def _pixels(size: Size) -> int:
    return size[0] * size[1]


@lru_cache(maxsize=1)
def real_padded_sizes() -> dict[Size, int]:
    """Every padded size that an image of val2017 gives under the resize rule -> its number of images."""
    counts: Counter[Size] = Counter()
    for size, images in dataset_sizes("coco-val2017").images.items():
        counts[size.padded] += images
    return dict(counts)


def real_sizes_costing(model: CostModel, low: float, high: float) -> list[Size]:
    """Real padded sizes at which the encoder costs from low to high GMACs, the most frequent first.

    The cost is worked out at every size that a real image gives.
    """
    found = [size for size in real_padded_sizes() if low <= model.encoder(size) <= high]
    return sorted(found, key=lambda size: (-real_padded_sizes()[size], size))
