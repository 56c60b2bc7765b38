# SPDX-License-Identifier: Apache-2.0
"""The empty regions of a front: where a student is missing between two neighbours, or beyond the ends.

Corners are (log2 of milliseconds, error), both to be minimised. Between two neighbours of a front lies the rectangle
of what a student as fast as the one and as faithful as the other would add: its area is the most hypervolume that one
point there can gain. Beyond the fastest neighbour the rectangle ends at the fastest student of the space and at the
reference's error, beyond the most faithful one at the teacher's latency and at half the error. A gap is wide if it is
larger than `WIDE` times the mean gap between neighbours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from search.optimiser.pareto import front_of

WIDE = 1.5
FEWEST = 3  # gaps between neighbours that can say what is usual
_LEAST_WIDTH = 0.01  # doublings of latency: 0.7%, less than any latency is known to


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An empty rectangle of a front."""

    low_cost: float
    """Of its left edge: the faster neighbour's."""
    high_cost: float
    """Of its right edge: the more faithful neighbour's."""
    low_error: float
    """Of its best edge: the more faithful neighbour's."""
    high_error: float
    """Of its worst edge: the faster neighbour's."""
    faster: int | None
    """Index of the faster neighbour; None beyond the fastest."""
    more_faithful: int | None
    """Index of the more faithful neighbour; None beyond the most faithful."""
    wide: bool
    """Whether it is larger than usual; True as long as nobody can say what is usual."""

    @property
    def area(self) -> float:
        """Of the rectangle, in doublings of latency times halvings of the error."""
        return (self.high_cost - self.low_cost) * math.log2(self.high_error / self.low_error)

    def holds(self, cost: float) -> bool:
        """Whether a student of a cost belongs here: slower than the left edge, as far as that can be told, and faster
        than the right one."""
        return self.low_cost + (0.0 if self.faster is None else _LEAST_WIDTH) <= cost < self.high_cost


def gaps_of(
    corners: Sequence[tuple[float, float]],
    *,
    fastest_cost: float,
    slowest_cost: float,
    worst_error: float,
) -> tuple[Gap, ...]:
    """The gaps of the front of corners, by rising cost; indexes are those of `corners`.

    `fastest_cost` is the space's fastest student's, `slowest_cost` the teacher's, `worst_error` the reference's. What
    lies beyond the reference does not count. Gaps that are narrower than a latency can be told are left out.
    """
    front = front_of(corners)
    if not front:
        return ()
    edges: list[tuple[int | None, int | None]] = [(None, front[0])]
    edges += list(pairwise(front))
    edges.append((front[-1], None))
    found = []
    for faster, more_faithful in edges:
        low_cost, high_error = corners[faster] if faster is not None else (fastest_cost, worst_error)
        high_error = min(high_error, worst_error)
        if more_faithful is not None:
            high_cost, low_error = corners[more_faithful]
        else:
            high_cost, low_error = slowest_cost, high_error / 2.0
        gap = Gap(
            low_cost=low_cost,
            high_cost=high_cost,
            low_error=low_error,
            high_error=high_error,
            faster=faster,
            more_faithful=more_faithful,
            wide=True,
        )
        if gap.high_cost - gap.low_cost > _LEAST_WIDTH and gap.high_error > gap.low_error:
            found.append(gap)
    inner = [gap.area for gap in found if gap.faster is not None and gap.more_faithful is not None]
    usual = statistics.fmean(inner) if len(inner) >= FEWEST else 0.0
    return tuple(replace(gap, wide=gap.area > WIDE * usual) for gap in found)
