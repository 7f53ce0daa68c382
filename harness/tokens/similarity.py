"""How much the tokens of a feature map resemble each other: similarity against distance, windows, matches.

All similarities are cosines. Sources: PRO-SCALE, "Progressive Token Length Scaling in Transformer Encoders
for Efficient Universal Segmentation", Figure 9 (similarity against neighbour distance); ALGM (CVPR 2024;
similar tokens inside small windows); Token Merging (arXiv 2210.09461; bipartite matches); Roy and Vetterli
(EUSIPCO 2007; effective rank).

Tokens are normalised in float64 and kept in float32. Sums are in float64, and whatever is held against a
threshold is computed in float64, so that no result depends on chunk sizes or threads. A token that is zero
has no direction: its similarity to every token is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segmeter.harness.inputs import Size

# Tokens that one matrix product takes in at a time; bounds the memory, changes no result.
CHUNK = 4096
# Unit vectors in float32 have a length of 1 to this much.
ROUNDING = 5e-7
# Tokens of one block of the band along the diagonal; small blocks waste little beyond the band.
_BLOCK = 128
# 1024 x 1024 products at a time stay in a CPU's cache.
_SEARCH_BLOCK = 1024


@dataclass(frozen=True)
class TokenMap:
    """Tokens of one map as unit vectors.

    Attributes:
        tokens: (N, C) float32, row-major, of length 1 (or 0, for zero tokens).
        size: (H, W) with H * W = N.
    """

    tokens: Tensor
    size: Size

    @classmethod
    def of(cls, feature_map: Tensor) -> "TokenMap":
        """Normalise a map (C, H, W) of any floating dtype.

        Raises:
            ValueError: another shape, no tokens, or values that are not finite.
        """
        if feature_map.ndim != 3 or not feature_map.numel():
            raise ValueError(f"a feature map must be (C, H, W) and not empty, got {tuple(feature_map.shape)}")
        planes = feature_map.detach().flatten(1)
        unit = torch.empty(planes.shape[1], planes.shape[0])
        for start in range(0, len(unit), CHUNK):
            rows = planes[:, start : start + CHUNK].t().double()
            # Division by the largest entry first: squares of huge or tiny features leave float64.
            largest = rows.abs().amax(dim=1, keepdim=True)
            if not bool(largest.isfinite().all()):
                raise ValueError("feature map has values that are not finite")
            rows = rows / torch.where(largest > 0, largest, 1.0)
            length = rows.norm(dim=1, keepdim=True)
            unit[start : start + CHUNK] = rows / torch.where(length > 0, length, 1.0)
        return cls(unit, (feature_map.shape[1], feature_map.shape[2]))

    @property
    def zeros(self) -> int:
        """Number of tokens without direction."""
        return int((self.tokens == 0).all(dim=1).sum())


@dataclass(frozen=True)
class Curve:
    """Similarity against distance; entry i is distance i + 1.

    Attributes:
        mean: mean over pairs, NaN where the map has no such pair.
        square: mean of the squares over pairs; empty where it is not computed.
    """

    mean: np.ndarray
    square: np.ndarray


def sequence_similarity(tokens: TokenMap, max_distance: int, chunk: int = CHUNK) -> Curve:
    """Similarity of tokens that are 1, 2, ..., ``max_distance`` apart in the row-major sequence.

    Each block of tokens is multiplied with itself and the ``max_distance`` tokens after it; the diagonals of
    the product are the distances.
    """
    unit, count = tokens.tokens, len(tokens.tokens)
    width = _BLOCK + max_distance
    blocks = -(-count // _BLOCK)
    # Zero tokens past the end add nothing to any sum.
    padded = torch.nn.functional.pad(unit, (0, 0, 0, blocks * _BLOCK + max_distance - count))
    channels = unit.shape[1]
    total = torch.zeros(max_distance, dtype=torch.float64)
    squares = torch.zeros(max_distance, dtype=torch.float64)
    step = max(1, chunk // _BLOCK)
    for first in range(0, blocks, step):
        number = min(step, blocks - first)
        start = padded[first * _BLOCK :]
        queries = start[: number * _BLOCK].view(number, _BLOCK, channels)
        keys = start.as_strided((number, width, channels), (_BLOCK * channels, channels, 1))
        products = torch.bmm(queries, keys.transpose(1, 2))
        band = products.as_strided(
            (number, _BLOCK, max_distance), (_BLOCK * width, width + 1, 1), products.storage_offset() + 1
        ).double()
        total += band.sum(dim=(0, 1))
        squares += band.square_().sum(dim=(0, 1))
    pairs = count - torch.arange(1, max_distance + 1, dtype=torch.float64)
    pairs[pairs <= 0] = math.nan
    return Curve((total / pairs).numpy(), (squares / pairs).numpy())


def ring_similarity(tokens: TokenMap, max_radius: int, chunk: int = 16) -> Curve:
    """Similarity against true distance: ring r holds the pairs from r - 0.5 up to r + 0.5 tokens apart.

    The sum over all pairs of one offset is the map's autocorrelation, which the Fourier transform gives for
    all offsets at once.

    Args:
        chunk: channels transformed at a time.
    """
    height, width = tokens.size
    # The padding keeps offsets up to the radius from wrapping round.
    shape = (_smooth(height + max_radius), _smooth(width + max_radius))
    planes = tokens.tokens.t().reshape(-1, height, width)
    power = torch.zeros(shape[0], shape[1] // 2 + 1, dtype=torch.float64)
    for part in planes.split(chunk):
        spectrum = torch.fft.rfft2(part.double(), s=shape)
        power += (spectrum.real.square() + spectrum.imag.square()).sum(dim=0)
    correlation = torch.fft.irfft2(power, s=shape).numpy()
    total, pairs = np.zeros(max_radius + 1), np.zeros(max_radius + 1)
    for down in range(min(max_radius + 1, height)):
        # Half of the plane: an offset and its opposite are the same pairs.
        across = np.arange(-max_radius if down else 1, max_radius + 1)
        across = across[np.abs(across) < width]
        ring = np.floor(np.hypot(down, across) + 0.5).astype(int)
        across, ring = across[ring <= max_radius], ring[ring <= max_radius]
        np.add.at(total, ring, correlation[down, across])
        np.add.at(pairs, ring, (height - down) * (width - np.abs(across)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Curve(np.where(pairs > 0, total / pairs, math.nan)[1:], np.empty(0))


def window_similarity(tokens: TokenMap, side: int) -> np.ndarray:
    """Mean similarity of the pairs inside each ``side`` x ``side`` window: (H // side, W // side) float64.

    Windows do not overlap; rows and columns that fill no window are left out. For unit vectors the sum over
    pairs follows from the length of the window's sum.
    """
    (height, width), channels = tokens.size, tokens.tokens.shape[1]
    down, across = height // side, width // side
    grid = tokens.tokens.view(height, width, channels)[: down * side, : across * side]
    if not grid.numel():
        return np.empty((down, across))
    length, own = torch.empty(2, down, across, dtype=torch.float64)
    rows = max(1, CHUNK // (side * width))
    for start in range(0, down, rows):
        part = grid[start * side : (start + rows) * side]
        by_window = part.reshape(-1, side, across, side, channels).double()
        length[start : start + rows] = by_window.sum(dim=(1, 3)).square_().sum(dim=-1)
        own[start : start + rows] = by_window.square_().sum(dim=(1, 3, 4))
    ordered_pairs = side**2 * (side**2 - 1)
    return ((length - own) / ordered_pairs).numpy()


@dataclass(frozen=True)
class Matches:
    """Best matches of a sample of tokens among all tokens of the map.

    Attributes:
        nearest: (S,) similarity of each sampled token to its most similar other token.
        bipartite: similarity of the sampled tokens at even places to their most similar one at odd places
            (Token Merging's two sets).
    """

    nearest: np.ndarray
    bipartite: np.ndarray


def sample_tokens(count: int, sample: int | None, seed: int = 0) -> Tensor:
    """Places of ``sample`` of ``count`` tokens, ascending; all of them if None or too few."""
    if sample is None or sample >= count:
        return torch.arange(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:sample].sort().values


def best_matches(tokens: TokenMap, places: Tensor, chunk: int = CHUNK) -> Matches:
    """Find the most similar other token of each token in ``places``, exactly, among all tokens.

    The search is in float32; the similarity to what it found is then computed in float64.
    """
    unit = tokens.tokens
    nearest, bipartite = [np.empty(0)], [np.empty(0)]
    for part in places.split(_SEARCH_BLOCK):
        queries = unit[part]
        best = [_search(queries, part, unit[parity::2], parity, chunk) for parity in (0, 1)]
        among = torch.stack(best, dim=1)
        exact = (queries.double()[:, None] * unit[among].double()).sum(dim=-1)
        # A token alone in its half was matched with itself.
        exact[among == part[:, None]] = -math.inf
        nearest.append(exact.amax(dim=1).numpy())
        bipartite.append(exact[part % 2 == 0, 1].numpy())
    return Matches(*(_finite(np.concatenate(values)) for values in (nearest, bipartite)))


def share_above(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Share of ``values`` at or above each threshold; NaN if there are no values."""
    ordered = np.sort(values, axis=None)
    if not ordered.size:
        return np.full(len(thresholds), math.nan)
    # Equal up to rounding is equal: a constant map reaches a threshold of 1.
    below = np.searchsorted(ordered, np.asarray(thresholds) - ROUNDING, side="left")
    return 1.0 - below / ordered.size


def effective_rank(tokens: TokenMap) -> float:
    """Exponential of the entropy of the normalised singular values: 1 if all tokens are one, at most C.

    Not centred: the mean direction counts as one dimension. NaN if every token is zero.
    """
    count, channels = tokens.tokens.shape
    if count < channels:
        rows = tokens.tokens.double()
        gram = rows @ rows.t()
    else:
        gram = torch.zeros(channels, channels, dtype=torch.float64)
        for part in tokens.tokens.split(CHUNK):
            rows = part.double()
            gram += rows.t() @ rows
    singular = torch.linalg.eigvalsh(gram).clamp_(min=0).sqrt_()
    # What is left of a rank-deficient matrix is rounding, of the order of eps times the largest eigenvalue.
    singular = singular[singular > 1e-7 * singular.amax()]
    if not singular.numel():
        return math.nan
    part = singular / singular.sum()
    return float((-(part * part.log()).sum()).exp())


def cluster_count(tokens: TokenMap, places: Tensor, threshold: float, chunk: int = CHUNK) -> int:
    """Number of clusters of the tokens in ``places``: leaders, none within ``threshold`` of another.

    In order of place, a token that no earlier leader is similar to at ``threshold`` becomes a leader.
    """
    unit = tokens.tokens
    leaders = unit[:0]
    for part in places.split(_SEARCH_BLOCK):
        block = unit[part]
        covered = torch.zeros(len(block), dtype=torch.bool)
        for known in leaders.split(chunk):
            covered |= (_products(block, known) >= threshold - ROUNDING).any(dim=1)
        block = block[~covered]
        close = (_products(block, block) >= threshold - ROUNDING).numpy()
        free = np.ones(len(block), dtype=bool)
        new = []
        for place in range(len(block)):
            if free[place]:
                new.append(place)
                free &= ~close[place]
        leaders = torch.cat((leaders, block[new]))
    return len(leaders)


def token_change(before: Tensor, after: Tensor) -> np.ndarray:
    """Similarity of each token to itself before a layer, (N,) float64, from two maps (C, H, W).

    Raises:
        ValueError: as :meth:`TokenMap.of`, or maps of different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"maps before and after a layer differ: {tuple(before.shape)} and {tuple(after.shape)}"
        )
    first, second = TokenMap.of(before).tokens, TokenMap.of(after).tokens
    return (first.double() * second.double()).sum(dim=1).numpy()


def _search(queries: Tensor, places: Tensor, half: Tensor, parity: int, chunk: int) -> Tensor:
    """Place of each query's most similar other token among every second token."""
    value = torch.full((len(queries),), -math.inf)
    index = places.clone()
    own = torch.where(places % 2 == parity, places // 2, -1)
    width = min(chunk, _SEARCH_BLOCK)
    for start in range(0, len(half), width):
        products = queries @ half[start : start + width].t()
        inside = ((own >= start) & (own < start + width)).nonzero()[:, 0]
        products[inside, own[inside] - start] = -math.inf
        best, column = products.max(dim=1)
        better = best > value
        value = torch.where(better, best, value)
        index = torch.where(better, 2 * (column + start) + parity, index)
    return index


def _products(first: Tensor, second: Tensor) -> Tensor:
    return first.double() @ second.double().t()


def _finite(values: np.ndarray) -> np.ndarray:
    return values[values > -math.inf]


def _smooth(size: int) -> int:
    """The next number whose prime factors are 2, 3 and 5: sizes at which a Fourier transform is quick."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1
