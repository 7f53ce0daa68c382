"""One map's redundancy as plain numbers, and sums of them over images.

The memory of one map's analysis is :func:`analysis_bytes` at most, whatever the number of images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segmeter.harness.inputs import Size
from segmeter.harness.tokens.similarity import (
    CHUNK,
    TokenMap,
    best_matches,
    cluster_count,
    effective_rank,
    ring_similarity,
    sample_tokens,
    sequence_similarity,
    share_above,
    window_similarity,
)

WINDOWS = (2, 3, 4)
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What is computed of each map.

    Attributes:
        max_distance: of the curve along the sequence, in tokens.
        max_radius: of the curve over true distance, in tokens.
        threshold: similarity from which tokens count as alike: of the clusters, and one of ``thresholds``.
        sample: tokens of a map whose best match is looked for, among all tokens; None for every token.
        seed: of the sample.
    """

    max_distance: int = 64
    max_radius: int = 32
    threshold: float = 0.9
    sample: int | None = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be a cosine from -1 to 1, such as 0.9; got {self.threshold:g}")
        for name, value in (("distance", self.max_distance), ("radius", self.max_radius)):
            if not 1 <= value <= CHUNK:
                raise ValueError(f"{name} must be from 1 to {CHUNK} tokens, got {value}")
        if self.sample is not None and self.sample < 2:
            raise ValueError(f"the sample must be at least 2 tokens, got {self.sample}")

    @property
    def thresholds(self) -> tuple[float, ...]:
        """All thresholds, ascending."""
        return tuple(sorted({*THRESHOLDS, self.threshold}))


def analyse(feature_map: Tensor, settings: Settings) -> tuple[Numbers, dict[int, np.ndarray]]:
    """Everything about one map (C, H, W), and its similarity maps by side of their windows.

    Raises:
        ValueError: the map is empty or has values that are not finite.
    """
    tokens = TokenMap.of(feature_map)
    count = len(tokens.tokens)
    places = sample_tokens(count, settings.sample, settings.seed)
    along = sequence_similarity(tokens, settings.max_distance)
    matches = best_matches(tokens, places)
    found = {
        "tokens": np.array(count),
        "zeros": np.array(tokens.zeros),
        "sampled": np.array(len(places)),
        "sequence": along.mean,
        "sequence.square": along.square,
        "rings": ring_similarity(tokens, settings.max_radius).mean,
        "nearest": _mean(matches.nearest),
        "nearest.share": share_above(matches.nearest, settings.thresholds),
        "bipartite": _mean(matches.bipartite),
        "bipartite.share": share_above(matches.bipartite, settings.thresholds),
        "effective_rank": np.array(effective_rank(tokens)),
        "clusters": np.array(cluster_count(tokens, places, settings.threshold)),
    }
    windows = {side: window_similarity(tokens, side) for side in WINDOWS}
    for side, values in windows.items():
        found[f"windows.{side}"] = _mean(values)
        found[f"windows.{side}.share"] = share_above(values, settings.thresholds)
    return found, windows


def analysis_bytes(size: Size, channels: int, settings: Settings) -> int:
    """Upper bound of what :func:`analyse` holds at once, beyond the map itself, in bytes.

    Unit vectors and their padded copy in float32; one chunk in float64 three times over; the band of one
    chunk in float32 and float64; one block of products; the Fourier planes of 16 channels. Half as much again
    for freed blocks that the allocator has not given back.
    """
    tokens = size[0] * size[1]
    chunk = min(tokens, CHUNK)
    vectors = 2 * 4 * (tokens + settings.max_distance + 128) * channels
    rows = 3 * 8 * chunk * channels
    band = (4 * (128 + settings.max_distance) + 2 * 8 * settings.max_distance) * (chunk + 128)
    products = 3 * 8 * 1024 * 1024 + 4 * 1024 * channels * 8
    # Padding adds the radius, and the round size a quarter at most; 16 planes, three times over in float64.
    height, width = (1.25 * (side + settings.max_radius) for side in size)
    planes = 4 * tokens * channels + 16 * 3 * 8 * height * width
    return int(1.5 * (vectors + max(rows, band, products, planes) + 32 * channels * channels))


class Tally:
    """Mean and spread of named numbers over images; NaN (nothing to measure) is passed over."""

    def __init__(self) -> None:
        self._count: dict[str, np.ndarray] = {}
        self._sum: dict[str, np.ndarray] = {}
        self._square: dict[str, np.ndarray] = {}

    def add(self, numbers: Mapping[str, np.ndarray]) -> None:
        """Add one image's numbers."""
        for name, value in numbers.items():
            value = np.asarray(value, dtype=np.float64)
            there = np.isfinite(value)
            filled = np.where(there, value, 0.0)
            for store, part in ((self._count, there), (self._sum, filled), (self._square, filled**2)):
                store[name] = store.get(name, np.zeros(value.shape)) + part

    def __contains__(self, name: str) -> bool:
        return name in self._sum

    def count(self, name: str) -> np.ndarray:
        """Images that had each entry."""
        return self._count[name]

    def mean(self, name: str) -> np.ndarray:
        """Mean over images; NaN where none had it."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._count[name] > 0, self._sum[name] / self._count[name], math.nan)

    def std(self, name: str) -> np.ndarray:
        """Sample standard deviation over images; NaN below two."""
        count = self._count[name]
        with np.errstate(invalid="ignore", divide="ignore"):
            scatter = self._square[name] - self._sum[name] ** 2 / count
            return np.where(count > 1, np.sqrt(np.maximum(scatter, 0.0) / (count - 1)), math.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    return np.array(values.mean() if values.size else math.nan)
