# SPDX-License-Identifier: Apache-2.0
"""The empty regions of a front: where a student is missing between two neighbours, or beyond the ends.

Corners are (log2 of milliseconds, error), both to be minimised. Between two neighbours of a front lies the rectangle
of what a student as fast as the one and as faithful as the other would add: its area is the most hypervolume that one
point there can gain. Beyond the fastest neighbour the rectangle ends at the fastest student of the space and at the
reference's error, beyond the most faithful one at the teacher's latency and at half the error. A gap is wide if it is
larger than `WIDE` times the mean gap between neighbours. For each gap: what was tried there, how close it
came, and what the surrogate model predicts for untried points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from search.optimiser.encoding import UnitCube
from search.optimiser.pareto import front_of
from search.optimiser.posterior import Candidates, Posterior

WIDE = 1.5
_QUANTILE_90 = 1.6449  # of the normal distribution, 5% to 95%
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
        """Of the rectangle: log2 latency times log2 error."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial whose latency lies in a gap."""

    number: int
    """Of the trial."""
    error: float
    """At the end; of a trial that did not get there, the predicted median."""
    measured: bool
    """Whether it got there."""
    excess: float
    """How much less error it would have needed to be in the gap; not positive if it is predicted to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestCandidate:
    """The candidate of largest expected gain in a gap."""

    point: Mapping[str, Any]
    """Of the space."""
    cost: float
    """log2 of its predicted milliseconds."""
    low_error: float
    """Predicted error, 5% quantile."""
    error: float
    """Predicted error, median."""
    high_error: float
    """Predicted error, 95% quantile."""
    gain: float
    """Expected gain in hypervolume."""
    chance: float
    """Predicted probability that its error is less than the faster neighbour's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapContents:
    """A gap with all that is known of it."""

    gap: Gap
    """The rectangle."""
    tried: tuple[Tried, ...]
    """Trials there, closest first."""
    n_candidates: int
    """Untried points that were found there; 0: perhaps the space holds none."""
    best: BestCandidate | None
    """The best of them; None if there is none."""


def look_into(
    gaps: Sequence[Gap], view: Posterior, candidates: Candidates, *, front: Sequence[int]
) -> tuple[GapContents, ...]:
    """The contents of gaps; `front` are numbers of the trials that make them."""
    return tuple(
        GapContents(
            gap=gap,
            tried=_tried(gap, view, frozenset(front)),
            n_candidates=int(sum(gap.holds(cost) for cost in candidates.costs)),
            best=_best(gap, candidates, view.cube),
        )
        for gap in gaps
    )


def _tried(gap: Gap, view: Posterior, front: frozenset[int]) -> tuple[Tried, ...]:
    found = []
    for trial, mean in zip(view.trials, view.means, strict=True):
        if trial.number not in front and gap.holds(trial.cost):
            error = math.exp(trial.last if trial.complete else float(mean))
            excess = error - gap.high_error
            found.append(Tried(number=trial.number, error=error, measured=trial.complete, excess=excess))
    return tuple(sorted(found, key=lambda each: (each.error, each.number)))


def _best(gap: Gap, candidates: Candidates, cube: UnitCube) -> BestCandidate | None:
    inside = [i for i, cost in enumerate(candidates.costs) if gap.holds(cost)]
    if not inside:
        return None
    place = max(inside, key=lambda i: (candidates.gains[i], -candidates.means[i]))
    mean, deviation = float(candidates.means[place]), float(max(candidates.deviations[place], 1e-9))
    distance = (math.log(gap.high_error) - mean) / deviation
    return BestCandidate(
        point=cube.point(candidates.coordinates[place]),
        cost=float(candidates.costs[place]),
        low_error=math.exp(mean - _QUANTILE_90 * deviation),
        error=math.exp(mean),
        high_error=math.exp(mean + _QUANTILE_90 * deviation),
        gain=float(candidates.gains[place]),
        chance=0.5 * math.erfc(-distance / math.sqrt(2.0)),
    )
