"""Similarities against a plain O(n^2) float64 computation, closed forms and invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.harness.tokens.similarity import (
    TokenMap,
    best_matches,
    cluster_count,
    effective_rank,
    ring_similarity,
    sample_tokens,
    sequence_similarity,
    share_above,
    token_change,
    window_similarity,
)

# Unit vectors are kept in float32 (steps of 6e-8); dot products of some 10 channels add a few of those.
FLOAT32 = 1e-6
SIZES = [(1, 1), (1, 7), (5, 1), (2, 2), (6, 9), (13, 11)]


def noise(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Off zero, so that similarities spread from below 0 to nearly 1.
    return torch.randn(channels, height, width, generator=generator) + 0.6


def all_pairs(feature_map: torch.Tensor) -> np.ndarray:
    rows = feature_map.double().flatten(1).t().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("size", SIZES)
def test_sequence_is_the_mean_over_all_pairs_that_far_apart(size: tuple[int, int]) -> None:
    feature_map = noise(10, *size)
    pairs = all_pairs(feature_map)
    curve = sequence_similarity(TokenMap.of(feature_map), max_distance=12)
    for distance in range(1, 13):
        expected = np.diagonal(pairs, offset=distance)
        if not expected.size:
            assert math.isnan(curve.mean[distance - 1])
            continue
        assert curve.mean[distance - 1] == pytest.approx(expected.mean(), abs=FLOAT32)
        assert curve.square[distance - 1] == pytest.approx((expected**2).mean(), abs=FLOAT32)


@pytest.mark.parametrize("size", SIZES)
def test_ring_is_the_mean_over_all_pairs_at_that_distance(size: tuple[int, int]) -> None:
    feature_map = noise(10, *size)
    pairs = all_pairs(feature_map)
    places = list(itertools.product(range(size[0]), range(size[1])))
    rings: dict[int, list[float]] = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(places), 2):
        ring = math.floor(math.hypot(a[0] - b[0], a[1] - b[1]) + 0.5)
        rings.setdefault(ring, []).append(pairs[i, j])
    mean = ring_similarity(TokenMap.of(feature_map), max_radius=20).mean
    for radius in range(1, 21):
        if radius in rings:
            assert mean[radius - 1] == pytest.approx(np.mean(rings[radius]), abs=FLOAT32)
        else:
            assert math.isnan(mean[radius - 1])


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_window_is_the_mean_over_its_pairs(size: tuple[int, int], side: int) -> None:
    feature_map = noise(10, *size)
    found = window_similarity(TokenMap.of(feature_map), side)
    assert found.shape == (size[0] // side, size[1] // side)
    for row, column in itertools.product(*map(range, found.shape)):
        window = feature_map[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        pairs = all_pairs(window)
        expected = pairs[np.triu_indices(side**2, k=1)].mean()
        assert found[row, column] == pytest.approx(expected, abs=FLOAT32)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_and_bipartite_matches_are_the_row_maxima(size: tuple[int, int]) -> None:
    feature_map = noise(10, *size)
    pairs = all_pairs(feature_map)
    np.fill_diagonal(pairs, -np.inf)
    count = size[0] * size[1]
    found = best_matches(TokenMap.of(feature_map), torch.arange(count))
    nearest = pairs.max(axis=1) if count > 1 else np.empty(0)
    np.testing.assert_allclose(found.nearest, nearest, atol=FLOAT32)
    bipartite = pairs[::2, 1::2].max(axis=1) if count > 1 else np.empty(0)
    np.testing.assert_allclose(found.bipartite, bipartite, atol=FLOAT32)


def test_sampled_tokens_are_matched_among_all_tokens() -> None:
    tokens = TokenMap.of(noise(10, 20, 30))
    everything = best_matches(tokens, torch.arange(600))
    places = sample_tokens(600, 50, seed=3)
    assert len(set(places.tolist())) == 50
    np.testing.assert_array_equal(best_matches(tokens, places).nearest, everything.nearest[places.numpy()])


def test_effective_rank_follows_the_singular_values() -> None:
    feature_map = noise(10, 6, 9)
    rows = feature_map.double().flatten(1).t().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    share = np.linalg.svd(unit, compute_uv=False)
    share /= share.sum()
    # float32 unit vectors move singular values by 1e-6 of the largest.
    assert effective_rank(TokenMap.of(feature_map)) == pytest.approx(
        math.exp(-(share * np.log(share)).sum()), rel=1e-5
    )


def test_orthogonal_tokens_have_full_rank_and_a_cluster_each() -> None:
    # 6 tokens along 6 axes: rank 6, 6 clusters at any positive threshold, one at -1.
    tokens = TokenMap.of(torch.eye(6).view(6, 2, 3))
    assert effective_rank(tokens) == pytest.approx(6.0, rel=1e-6)
    assert cluster_count(tokens, torch.arange(6), 0.5) == 6
    assert cluster_count(tokens, torch.arange(6), -1.0) == 1


def test_clusters_are_leaders_in_order() -> None:
    # Unit vectors at 0, 40, 80 and 120 degrees; cos 40 = 0.766, cos 80 = 0.174. At 0.7 each leader takes
    # its neighbour: 0 takes 40, 80 takes 120.
    angle = torch.tensor([0.0, 40.0, 80.0, 120.0]).deg2rad()
    tokens = TokenMap.of(torch.stack((angle.cos(), angle.sin()))[:, None])
    assert cluster_count(tokens, torch.arange(4), 0.7) == 2
    assert cluster_count(tokens, torch.arange(4), 0.8) == 4


def test_a_constant_map_is_one_everywhere() -> None:
    tokens = TokenMap.of(torch.full((7, 12, 10), -3.5))
    places = torch.arange(120)
    for values in (
        sequence_similarity(tokens, 30).mean,
        ring_similarity(tokens, 9).mean,
        window_similarity(tokens, 3),
        best_matches(tokens, places).nearest,
        best_matches(tokens, places).bipartite,
    ):
        np.testing.assert_allclose(values, 1.0, atol=FLOAT32)
    assert effective_rank(tokens) == pytest.approx(1.0, abs=1e-6)
    assert cluster_count(tokens, places, 1.0) == 1
    assert share_above(window_similarity(tokens, 2), [1.0])[0] == 1.0


def test_independent_tokens_are_about_orthogonal() -> None:
    # Cosines of independent normal vectors have mean 0 and standard deviation 1 / sqrt(C) = 0.0625; a mean
    # over 3,000 pairs or more deviates by at most 0.0625 / sqrt(3000) = 0.0011: five of those are 0.006.
    tokens = TokenMap.of(torch.randn(256, 60, 60, generator=torch.Generator().manual_seed(1)))
    assert np.abs(sequence_similarity(tokens, 40).mean).max() < 0.006
    assert np.abs(ring_similarity(tokens, 20).mean).max() < 0.006
    assert np.sqrt(sequence_similarity(tokens, 5).square).mean() == pytest.approx(0.0625, rel=0.05)
    assert abs(window_similarity(tokens, 2).mean()) < 0.006


def test_a_periodic_map_gives_its_autocorrelation() -> None:
    # Token x points at angle 2 pi x / 8, so two tokens d columns apart have cosine cos(2 pi d / 8). Rows are
    # 16 wide, a whole number of periods, so the sequence continues the pattern over row ends.
    angle = 2 * math.pi * torch.arange(16) / 8
    feature_map = torch.stack((angle.cos(), angle.sin()))[:, None].expand(2, 9, 16)
    curve = sequence_similarity(TokenMap.of(feature_map), 24)
    expected = np.cos(2 * np.pi * np.arange(1, 25) / 8)
    np.testing.assert_allclose(curve.mean, expected, atol=FLOAT32)
    np.testing.assert_allclose(curve.square, expected**2, atol=FLOAT32)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 6),
    st.floats(1e-30, 1e30),
    st.integers(0, 100),
)
def test_scale_of_a_token_changes_nothing(
    height: int, width: int, channels: int, scale: float, seed: int
) -> None:
    feature_map = noise(channels, height, width, seed).double()
    factors = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    plain, scaled = TokenMap.of(feature_map), TokenMap.of(feature_map * factors * scale)
    for first, second in (
        (sequence_similarity(plain, 8).mean, sequence_similarity(scaled, 8).mean),
        (ring_similarity(plain, 5).mean, ring_similarity(scaled, 5).mean),
        (window_similarity(plain, 2), window_similarity(scaled, 2)),
    ):
        np.testing.assert_allclose(first, second, atol=FLOAT32)


@pytest.mark.parametrize("chunk", [1, 100, 128, 333, 100_000])
def test_chunks_change_nothing(chunk: int) -> None:
    tokens = TokenMap.of(noise(24, 37, 41))
    places = torch.arange(37 * 41)
    expected, found = sequence_similarity(tokens, 50), sequence_similarity(tokens, 50, chunk)
    np.testing.assert_allclose(found.mean, expected.mean, atol=FLOAT32)
    np.testing.assert_allclose(found.square, expected.square, atol=FLOAT32)
    np.testing.assert_allclose(
        ring_similarity(tokens, 9, chunk).mean, ring_similarity(tokens, 9).mean, atol=FLOAT32
    )
    if chunk > 1:
        np.testing.assert_allclose(
            best_matches(tokens, places, chunk).nearest, best_matches(tokens, places).nearest, atol=FLOAT32
        )
        assert cluster_count(tokens, places, 0.6, chunk) == cluster_count(tokens, places, 0.6)


def test_threads_change_nothing() -> None:
    tokens = TokenMap.of(noise(24, 37, 41))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            matches = best_matches(tokens, sample_tokens(37 * 41, 300))
            found.append(
                (sequence_similarity(tokens, 50).mean, ring_similarity(tokens, 9).mean, matches.nearest)
            )
    finally:
        torch.set_num_threads(before)
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, atol=FLOAT32)


def test_zero_tokens_resemble_nothing() -> None:
    feature_map = torch.ones(4, 3, 4)
    feature_map[:, 1] = 0
    tokens = TokenMap.of(feature_map)
    assert tokens.zeros == 4
    # 12 tokens in rows of 4, the middle row zero: of 11 neighbours in sequence, 3 + 3 lie inside live rows.
    assert sequence_similarity(tokens, 1).mean[0] == pytest.approx(6 / 11, abs=FLOAT32)
    assert math.isnan(effective_rank(TokenMap.of(torch.zeros(4, 2, 2))))


def test_share_above_counts_equal_values() -> None:
    np.testing.assert_allclose(
        share_above(np.array([0.2, 0.5, 0.5, 0.9]), [0.0, 0.5, 0.6, 1.0]), [1, 0.75, 0.25, 0]
    )
    assert np.isnan(share_above(np.empty((0, 3)), [0.5])).all()


def test_token_change_is_each_tokens_own_cosine() -> None:
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 1, 2)
    after = torch.tensor([[3.0, 1.0], [0.0, 1.0]]).view(2, 1, 2)
    # (1,0) against (3,0): 1; (0,2) against (1,1): cos 45 degrees.
    np.testing.assert_allclose(token_change(before, after), [1.0, math.sqrt(0.5)], atol=FLOAT32)
    with pytest.raises(ValueError, match="differ"):
        token_change(before, after[:, :, :1])


@pytest.mark.parametrize("bad", [torch.ones(3, 4), torch.ones(0, 2, 2), torch.full((2, 2, 2), math.nan)])
def test_a_map_that_is_none_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="feature map"):
        TokenMap.of(bad)
