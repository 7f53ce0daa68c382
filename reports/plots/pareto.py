"""Which points no other point beats: the front of a trade-off.

One definition for every chart: a point is *dominated* when another point is no worse in both figures and
better in at least one. What is not dominated is the front; points that are equal in both figures stand or
fall together. A point that lacks a figure is compared with nothing and is on no front.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Higher is better for these; lower is better for every cost.
HIGHER_IS_BETTER = frozenset({"fps", "pq", "miou", "ap"})


def front(costs: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Places of the points on the front, in ascending order of the first cost, then of the second.

    Args:
        costs: for each point two figures, of both of which less is better; None for a missing one.

    >>> front([(3, 1), (1, 3), (2, 2), (2, 3), (None, 0)])
    [1, 2, 0]
    """
    complete = [(a, b, place) for place, (a, b) in enumerate(costs) if a is not None and b is not None]
    kept: list[tuple[float, float, int]] = []
    for a, b, place in sorted(complete):
        if not kept or b < kept[-1][1] or (a, b) == kept[-1][:2]:
            kept.append((a, b, place))
    return [place for _, _, place in kept]


def pareto_front(points: Sequence[Mapping[str, Any]], x: str, y: str) -> list[int]:
    """Places of the points on the front of two of their figures, cheapest or fastest end first.

    Args:
        points: records as of :func:`harness.tradeoff.collect.all_points`.
        x, y: two of their figures, such as "gflops_encoder" and "pq"; :data:`HIGHER_IS_BETTER` says which
            way is better.
    """
    return front([(_cost(point, x), _cost(point, y)) for point in points])


def _cost(point: Mapping[str, Any], figure: str) -> float | None:
    value = point.get(figure)
    if value is None:
        return None
    return -value if figure in HIGHER_IS_BETTER else value
