# SPDX-License-Identifier: Apache-2.0
"""The gaps of a Pareto front: rectangles between neighbouring points, and beyond the two ends.

Points are (log2 of milliseconds, error), both minimised. The gap between two neighbours is bounded by the faster one's
cost and the more faithful one's error: its area is the largest hypervolume that one point there can add. The gap before
the fastest point is bounded by the fastest student of the space and the reference's error, the gap after the most
faithful one by the teacher's latency and half its error. A gap is wide if its area exceeds `WIDE_FACTOR` times the mean
of those between neighbours. For each gap: the trials in it and what the surrogate model predicts for untried points.
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

WIDE_FACTOR = 1.5
_QUANTILE_90 = 1.6449  # z-score of the 5% and 95% quantiles
MIN_INNER_GAPS = 3  # gaps between neighbours that are needed for their mean; with fewer, all gaps are wide
_MIN_LOG2_WIDTH = 0.01  # in log2 of latency: 0.7%, below the accuracy of any latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An empty rectangle of a front."""

    low_cost: float
    """Cost of the faster neighbour: the left edge."""
    high_cost: float
    """Cost of the more faithful neighbour: the right edge."""
    low_error: float
    """Error of the more faithful neighbour."""
    high_error: float
    """Error of the faster neighbour."""
    faster: int | None
    """Index of the faster neighbour; None for the gap before the fastest point."""
    more_faithful: int | None
    """Index of the more faithful neighbour; None for the gap after the most faithful point."""
    wide: bool
    """Whether its area exceeds `WIDE_FACTOR` times the mean; True if there are too few gaps for a mean."""

    @property
    def area(self) -> float:
        """Area of the rectangle: log2 latency times log2 error."""
        return (self.high_cost - self.low_cost) * math.log2(self.high_error / self.low_error)

    def contains(self, cost: float) -> bool:
        """Whether a cost lies between the edges; costs within `_MIN_LOG2_WIDTH` of the faster neighbour do not."""
        return self.low_cost + (0.0 if self.faster is None else _MIN_LOG2_WIDTH) <= cost < self.high_cost


def gaps_of(
    corners: Sequence[tuple[float, float]],
    *,
    fastest_cost: float,
    slowest_cost: float,
    worst_error: float,
) -> tuple[Gap, ...]:
    """The gaps of the Pareto front of `corners`, by rising cost; indexes are those of `corners`.

    `fastest_cost` is that of the space's fastest student, `slowest_cost` the teacher's, `worst_error` the reference
    point's, which bounds all gaps. Gaps narrower than `_MIN_LOG2_WIDTH` are left out.
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
        if gap.high_cost - gap.low_cost > _MIN_LOG2_WIDTH and gap.high_error > gap.low_error:
            found.append(gap)
    inner = [gap.area for gap in found if gap.faster is not None and gap.more_faithful is not None]
    mean_area = statistics.fmean(inner) if len(inner) >= MIN_INNER_GAPS else 0.0
    return tuple(replace(gap, wide=gap.area > WIDE_FACTOR * mean_area) for gap in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInGap:
    """A trial whose cost lies in a gap."""

    number: int
    """The trial's number."""
    error: float
    """Final error; the predicted median for a trial that is not complete."""
    measured: bool
    """Whether the error was measured, not predicted."""
    excess: float
    """Its error minus the gap's `high_error`; 0 or less if it is predicted to lie in the gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestCandidate:
    """The untried point of largest expected gain in a gap."""

    point: Mapping[str, Any]
    """The point of the space."""
    cost: float
    """log2 of its predicted milliseconds."""
    low_error: float
    """Predicted error, 5% quantile."""
    error: float
    """Predicted error, median."""
    high_error: float
    """Predicted error, 95% quantile."""
    gain: float
    """Expected hypervolume improvement."""
    probability: float
    """Predicted probability that its error is below the faster neighbour's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapContents:
    """A gap with its trials and candidates."""

    gap: Gap
    """The gap."""
    tried: tuple[TrialInGap, ...]
    """Trials in it, by rising error."""
    n_candidates: int
    """Number of candidates in it; 0: none was found, though the space may have some."""
    best: BestCandidate | None
    """The candidate of largest expected gain; None if there is none."""


def gap_contents(
    gaps: Sequence[Gap], posterior: Posterior, candidates: Candidates, *, front: Sequence[int]
) -> tuple[GapContents, ...]:
    """The contents of each gap; `front` are the numbers of the trials on the front, which are not listed in a gap."""
    return tuple(
        GapContents(
            gap=gap,
            tried=_tried(gap, posterior, frozenset(front)),
            n_candidates=int(sum(gap.contains(cost) for cost in candidates.costs)),
            best=_best(gap, candidates, posterior.cube),
        )
        for gap in gaps
    )


def _tried(gap: Gap, posterior: Posterior, front: frozenset[int]) -> tuple[TrialInGap, ...]:
    found = []
    for trial, mean in zip(posterior.trials, posterior.means, strict=True):
        if trial.number not in front and gap.contains(trial.cost):
            error = math.exp(trial.last if trial.complete else float(mean))
            excess = error - gap.high_error
            found.append(TrialInGap(number=trial.number, error=error, measured=trial.complete, excess=excess))
    return tuple(sorted(found, key=lambda each: (each.error, each.number)))


def _best(gap: Gap, candidates: Candidates, cube: UnitCube) -> BestCandidate | None:
    inside = [i for i, cost in enumerate(candidates.costs) if gap.contains(cost)]
    if not inside:
        return None
    best = max(inside, key=lambda i: (candidates.gains[i], -candidates.means[i]))
    mean, deviation = float(candidates.means[best]), float(max(candidates.deviations[best], 1e-9))
    distance = (math.log(gap.high_error) - mean) / deviation
    return BestCandidate(
        point=cube.point(candidates.coordinates[best]),
        cost=float(candidates.costs[best]),
        low_error=math.exp(mean - _QUANTILE_90 * deviation),
        error=math.exp(mean),
        high_error=math.exp(mean + _QUANTILE_90 * deviation),
        gain=float(candidates.gains[best]),
        probability=0.5 * math.erfc(-distance / math.sqrt(2.0)),
    )
