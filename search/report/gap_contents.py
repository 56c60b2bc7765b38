# SPDX-License-Identifier: Apache-2.0
"""What was tried in the gaps of a front, how close it came, and what the searcher's model believes could be had."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.optimiser.encoding import UnitCube
from search.optimiser.posterior import Candidates, Posterior
from search.report.gaps import Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial whose latency lies in a gap."""

    number: int
    """Of the trial."""
    error: float
    """At the end, or for a trial that did not get there the median of what is believed."""
    measured: bool
    """Whether it got there."""
    excess: float
    """How much less error it would have needed to be in the gap; not positive if it is believed to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The candidate of largest expected gain in a gap."""

    point: Mapping[str, Any]
    """Of the space."""
    cost: float
    """log2 of its predicted milliseconds."""
    low_error: float
    """Believed error, 5% quantile."""
    error: float
    """Believed error, median."""
    high_error: float
    """Believed error, 95% quantile."""
    gain: float
    """Expected gain in hypervolume."""
    chance: float
    """Believed probability that its error is less than the faster neighbour's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapContents:
    """A gap with all that is known of it."""

    gap: Gap
    """The rectangle."""
    tried: tuple[Tried, ...]
    """Trials there, closest first."""
    n_candidates: int
    """Untried points that were found there; 0: perhaps the space holds none."""
    promise: Promise | None
    """The best of them; None if there is none."""


_QUANTILE_90 = 1.6449  # of the normal distribution, 5% to 95%


def look_into(
    gaps: Sequence[Gap], view: Posterior, candidates: Candidates, *, front: Sequence[int]
) -> tuple[GapContents, ...]:
    """The contents of gaps; `front` are numbers of the trials that make them."""
    return tuple(
        GapContents(
            gap=gap,
            tried=_tried(gap, view, frozenset(front)),
            n_candidates=int(sum(gap.holds(cost) for cost in candidates.costs)),
            promise=_promise(gap, candidates, view.cube),
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


def _promise(gap: Gap, candidates: Candidates, cube: UnitCube) -> Promise | None:
    inside = [i for i, cost in enumerate(candidates.costs) if gap.holds(cost)]
    if not inside:
        return None
    best = max(inside, key=lambda i: (candidates.gains[i], -candidates.means[i]))
    mean, deviation = float(candidates.means[best]), float(max(candidates.deviations[best], 1e-9))
    distance = (math.log(gap.high_error) - mean) / deviation
    return Promise(
        point=cube.point(candidates.coordinates[best]),
        cost=float(candidates.costs[best]),
        low_error=math.exp(mean - _QUANTILE_90 * deviation),
        error=math.exp(mean),
        high_error=math.exp(mean + _QUANTILE_90 * deviation),
        gain=float(candidates.gains[best]),
        chance=0.5 * math.erfc(-distance / math.sqrt(2.0)),
    )
