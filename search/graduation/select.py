# SPDX-License-Identifier: Apache-2.0
"""Which trials graduate: those that are expected on the front after long training, spread over it when they are many,
filled up when they are few.

What counts is the extrapolated learning curve (`search.graduation.extrapolation`), as curves cross. Distances are
taken between (log2 latency, log2 error), so that twice as fast and half the error are equally far at the fast and at
the faithful end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.graduation.extrapolation import LONGER, fidelity_after
from search.optimiser.pareto import non_dominated
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState, trials_once

NEAR = 0.5
"""A trial whose error is at most 2 ** NEAR times that of the front at its latency may still overtake it."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    record: TrialRecord
    latency_ms: float
    fidelity: float
    """Expected after long training."""
    error: float
    """Of this fidelity."""

    @property
    def depth(self) -> int:
        """Layers."""
        assert self.record.spec is not None
        return self.record.spec.n_layers

    @property
    def point(self) -> tuple[float, float]:
        """(latency, fidelity)."""
        return self.latency_ms, self.fidelity

    @property
    def place(self) -> tuple[float, float]:
        """(log2 latency, log2 error)."""
        return math.log2(max(self.latency_ms, 1e-9)), math.log2(self.error)


def choose_graduates(records: Sequence[TrialRecord], *, max_students: int, objective: Objective) -> list[TrialRecord]:
    """The records that graduate, by rising predicted latency; at most `max_students`.

    With room left, depths that the front lacks come first (their nearest trial, however far), then the trials
    nearest to the front, within `NEAR`. A depth of which no trial is complete may send one that was interrupted after
    a rung: where the budget was too short for the machine, graduation gives it the tokens that it lacks.
    """
    records = trials_once(records)
    complete = [record for record in records if _may_graduate(record, TrialState.COMPLETE, objective)]
    interrupted = [record for record in records if _may_graduate(record, TrialState.INTERRUPTED, objective)]
    n_tokens = LONGER * max((record.n_tokens for record in (*complete, *interrupted)), default=0)
    candidates = [_candidate(record, n_tokens, objective) for record in complete]
    depths = {candidate.depth for candidate in candidates}
    others = [_candidate(record, n_tokens, objective) for record in interrupted]
    candidates += [candidate for candidate in others if candidate.depth not in depths]
    front = [candidates[i] for i in non_dominated([candidate.point for candidate in candidates])]
    front = _without_twins(front)
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


def _without_twins(front: list[_Candidate]) -> list[_Candidate]:
    """One of those whose points are equal: the earliest."""
    seen: dict[tuple[float, float], _Candidate] = {}
    for candidate in front:
        seen.setdefault(candidate.point, candidate)
    return list(seen.values())


def _spread(front: list[_Candidate], n: int) -> list[_Candidate]:
    """Both ends, then each time the one farthest from those chosen (Gonzalez 1985)."""
    if n == 1:
        return [max(front, key=lambda candidate: -sum(candidate.place))]
    chosen = [front[0], front[-1]]
    while len(chosen) < n:
        rest = [candidate for candidate in front if candidate not in chosen]
        chosen.append(max(rest, key=lambda one: min(math.dist(one.place, other.place) for other in chosen)))
    return chosen


def _fill(front: list[_Candidate], others: list[_Candidate], room: int) -> list[_Candidate]:
    def gap(candidate: _Candidate) -> float:
        """Doublings of error above the front's at the candidate's latency."""
        errors = [other.place[1] for other in front if other.latency_ms <= candidate.latency_ms]
        return candidate.place[1] - min(errors) if errors else 0.0

    depths = {candidate.depth for candidate in front}
    filled: list[_Candidate] = []
    nearest = sorted(others, key=lambda candidate: (gap(candidate), candidate.record.number))
    for candidate in nearest:
        if len(filled) < room and candidate.depth not in depths:
            depths.add(candidate.depth)
            filled.append(candidate)
    for candidate in nearest:
        if len(filled) < room and candidate not in filled and gap(candidate) <= NEAR:
            filled.append(candidate)
    return filled
