# SPDX-License-Identifier: Apache-2.0
"""Chooses the trials that graduate: the predicted Pareto front after long training.

If the front has too many trials, a spread-out subset of it is chosen; if it has too few, trials near it are added.
Fidelities are extrapolated (`search.graduation.extrapolation`), because learning curves cross. Distances are Euclidean
in (log2 latency, log2 error), so that halving the latency or the error counts the same everywhere on the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.graduation.extrapolation import GRADUATION_FACTOR, fidelity_after
from search.optimiser.pareto import non_dominated
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState, trials_once

MAX_DISTANCE = 0.5
"""Largest distance to the front, in log2 error at the same latency, of a trial that is added to it."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    record: TrialRecord
    latency_ms: float
    fidelity: float
    """Predicted after long training."""
    error: float
    """The objective's error at this fidelity."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        assert self.record.spec is not None
        return self.record.spec.n_layers

    @property
    def point(self) -> tuple[float, float]:
        """(latency in ms, fidelity)."""
        return self.latency_ms, self.fidelity

    @property
    def log_point(self) -> tuple[float, float]:
        """(log2 latency, log2 error)."""
        return math.log2(max(self.latency_ms, 1e-9)), math.log2(self.error)


def choose_graduates(records: Sequence[TrialRecord], *, max_students: int, objective: Objective) -> list[TrialRecord]:
    """The records that graduate, at most `max_students`, by rising predicted latency.

    If the front has fewer trials, others are added: first, for each depth that the front lacks, its trial nearest to
    the front at any distance, then the trials within `MAX_DISTANCE` of the front. For a depth without a complete trial,
    interrupted trials that reached a rung are candidates too: graduation trains them for the tokens that they lack.
    """
    records = trials_once(records)
    complete = [record for record in records if _may_graduate(record, TrialState.COMPLETE, objective)]
    interrupted = [record for record in records if _may_graduate(record, TrialState.INTERRUPTED, objective)]
    n_tokens = GRADUATION_FACTOR * max((record.n_tokens for record in (*complete, *interrupted)), default=0)
    candidates = [_candidate(record, n_tokens, objective) for record in complete]
    depths = {candidate.depth for candidate in candidates}
    others = [_candidate(record, n_tokens, objective) for record in interrupted]
    candidates += [candidate for candidate in others if candidate.depth not in depths]
    front = [candidates[i] for i in non_dominated([candidate.point for candidate in candidates])]
    front = _without_duplicates(front)
    if len(front) > max_students:
        chosen = _spread(front, max_students)
    else:
        others = [candidate for candidate in candidates if candidate not in front]
        chosen = front + _fill(front, others, max_students - len(front))
    return [candidate.record for candidate in sorted(chosen, key=lambda candidate: candidate.point)]


def _may_graduate(record: TrialRecord, state: TrialState, objective: Objective) -> bool:
    return (
        record.state is state
        and record.spec is not None
        and record.checkpoint is not None
        and record.fidelity is not None
        and record.predicted_latency_ms is not None
        and math.isfinite(objective.of(record.fidelity))
    )


def _candidate(record: TrialRecord, n_tokens: float, objective: Objective) -> _Candidate:
    assert record.predicted_latency_ms is not None
    curve = [(rung.n_tokens, objective.of(rung.fidelity)) for rung in record.rungs]
    fidelity = fidelity_after(curve, n_tokens, objective)
    return _Candidate(record, record.predicted_latency_ms, fidelity, objective.error(fidelity))


def _without_duplicates(front: list[_Candidate]) -> list[_Candidate]:
    """The front without the later ones of candidates with equal points."""
    by_point: dict[tuple[float, float], _Candidate] = {}
    for candidate in front:
        by_point.setdefault(candidate.point, candidate)
    return list(by_point.values())


def _spread(front: list[_Candidate], n: int) -> list[_Candidate]:
    """`n` candidates: both ends, then repeatedly the one farthest from those chosen (Gonzalez 1985)."""
    if n == 1:
        return [max(front, key=lambda candidate: -sum(candidate.log_point))]
    chosen = [front[0], front[-1]]
    while len(chosen) < n:
        rest = [candidate for candidate in front if candidate not in chosen]
        chosen.append(max(rest, key=lambda one: min(math.dist(one.log_point, other.log_point) for other in chosen)))
    return chosen


def _fill(front: list[_Candidate], others: list[_Candidate], n: int) -> list[_Candidate]:
    """At most `n` of the others to be added to the front, as `choose_graduates` says."""

    def distance(candidate: _Candidate) -> float:
        """log2 of the candidate's error over the front's error at its latency; 0 if the front has nothing as fast."""
        errors = [other.log_point[1] for other in front if other.latency_ms <= candidate.latency_ms]
        return candidate.log_point[1] - min(errors) if errors else 0.0

    depths = {candidate.depth for candidate in front}
    filled: list[_Candidate] = []
    nearest = sorted(others, key=lambda candidate: (distance(candidate), candidate.record.number))
    for candidate in nearest:
        if len(filled) < n and candidate.depth not in depths:
            depths.add(candidate.depth)
            filled.append(candidate)
    for candidate in nearest:
        if len(filled) < n and candidate not in filled and distance(candidate) <= MAX_DISTANCE:
            filled.append(candidate)
    return filled
