"""The front's one definition, against brute force and its own invariants."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from segmeter.reports.plots.pareto import front, pareto_front

# Few distinct values, so that ties and missing figures are common.
figure = st.one_of(st.none(), st.integers(-4, 4).map(float))
clouds = st.lists(st.tuples(figure, figure), max_size=30)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def brute_force(points: list[tuple[float | None, float | None]]) -> set[int]:
    complete = {i: (x, y) for i, (x, y) in enumerate(points) if x is not None and y is not None}
    return {i for i, p in complete.items() if not any(dominates(q, p) for q in complete.values())}


@given(clouds)
def test_it_is_what_no_other_point_dominates(points: list[tuple[float | None, float | None]]) -> None:
    found = front(points)
    assert set(found) == brute_force(points)
    assert len(found) == len(set(found))


@given(clouds)
def test_it_runs_from_cheap_to_dear_and_ever_better(points: list[tuple[float | None, float | None]]) -> None:
    line = [points[i] for i in front(points)]
    for (x0, y0), (x1, y1) in pairwise(line):
        assert x0 is not None and x1 is not None and y0 is not None and y1 is not None
        # Equal points stand together; otherwise what costs more is better.
        assert (x0, y0) == (x1, y1) or (x0 < x1 and y0 > y1)


@given(clouds, st.randoms(use_true_random=False))
def test_the_order_of_points_does_not_matter(points, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = [points[i] for i in order]
    assert {order[i] for i in front(shuffled)} == set(front(points))


@given(clouds)
def test_the_front_of_the_front_is_the_front(points: list[tuple[float | None, float | None]]) -> None:
    kept = [points[i] for i in front(points)]
    assert len(front(kept)) == len(kept)


@given(clouds, st.tuples(figure, figure))
def test_one_more_point_brings_none_back(points, more) -> None:  # type: ignore[no-untyped-def]
    assert set(front([*points, more])) - {len(points)} <= set(front(points))


def test_fps_and_quality_are_better_when_higher() -> None:
    points = [
        {"fps": 5.10, "gflops_encoder": 281.0, "pq": 64.00},
        {"fps": 6.47, "gflops_encoder": 55.14, "pq": 60.58},
        {"fps": 6.01, "gflops_encoder": 172.0, "pq": 60.00},
        {"fps": None, "gflops_encoder": 10.0, "pq": 99.0},
    ]
    # The third is slower and worse than the second, and costs more.
    assert pareto_front(points, "fps", "pq") == [1, 0]
    # Without a speed the last is on no front of speeds, but it beats all of GFLOPs.
    assert pareto_front(points, "gflops_encoder", "pq") == [3]


def test_equal_points_stand_together() -> None:
    assert front([(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)]) == [0, 1]
    assert front([]) == []
