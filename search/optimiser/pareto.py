# SPDX-License-Identifier: Apache-2.0
"""Pareto fronts and hypervolume for latency (lower is better) and fidelity (higher is better).

A point is a pair (latency, fidelity). Only finite points take part: a point with a NaN or an infinity
is never on the front and dominates nothing. Latencies may be milliseconds or their logarithms: all results but
the hypervolume depend on their order alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]
"""(latency, fidelity)."""


def is_finite(point: Point) -> bool:
    """Whether both coordinates are finite numbers."""
    return math.isfinite(point[0]) and math.isfinite(point[1])


def dominates(first: Point, second: Point) -> bool:
    """Whether `first` is at least as good as `second` in both coordinates and better in one.

    A finite point dominates every point that is not finite; a point that is not finite dominates nothing.
    """
    if not is_finite(first):
        return False
    if not is_finite(second):
        return True
    no_worse = first[0] <= second[0] and first[1] >= second[1]
    return no_worse and (first[0] < second[0] or first[1] > second[1])


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indexes of the points that no other point dominates, by rising latency (equal points stay, in their order).

    One sort and one sweep: a point is on the front if its fidelity exceeds that of every faster point.
    """
    finite = [i for i, point in enumerate(points) if is_finite(point)]
    finite.sort(key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in finite:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indexes of the non-dominated points (cost, error), both minimised, by rising cost; of equal points the first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front


def dominator(point: Point, others: Sequence[Point]) -> int | None:
    """Index of the point of `others` with the largest fidelity that dominates `point`; None if none does."""
    found = [i for i, other in enumerate(others) if dominates(other, point)]
    return max(found, key=lambda i: (others[i][1], -others[i][0])) if found else None


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate up to `reference` = (worst latency, worst fidelity).

    Points beyond the reference are ignored. Raises ValueError if the reference is not finite.
    """
    if not is_finite(reference):
        raise ValueError(f"the reference of a hypervolume must be finite, got {reference}")
    inside = [point for point in points if point[0] < reference[0] and point[1] > reference[1]]
    area, fidelity = 0.0, reference[1]
    for i in non_dominated(inside):
        area += (reference[0] - inside[i][0]) * (inside[i][1] - fidelity)
        fidelity = inside[i][1]
    return area
