# SPDX-License-Identifier: Apache-2.0
"""Which trials graduate: the front of the complete ones, spread over it when it is large, filled up when it is small.

Distances are taken between (log2 latency, log2 error), so that twice as fast and half the error are equally far at
the fast and at the faithful end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.front import non_dominated
from search.trial import TrialRecord, TrialState

LEAST_ERROR = 2.0**-14  # below it errors are rounding
NEAR = 0.5
"""A trial whose error is at most 2 ** NEAR times that of the front at its latency may still overtake it."""


def choose_graduates(records: Sequence[TrialRecord], *, max_students: int) -> list[TrialRecord]:
    """The records that graduate, by rising predicted latency; at most `max_students`.

    With room left, depths that the front lacks come first (their nearest trial, however far), then the trials
    nearest to the front, within `NEAR`. A depth of which no trial is complete may send one that was interrupted after
    a rung: where the budget was too short for the machine, graduation gives it the tokens that it lacks.
    """
    candidates = [record for record in records if _is_candidate(record, TrialState.COMPLETE)]
    depths = {_depth(record) for record in candidates}
    interrupted = [record for record in records if _is_candidate(record, TrialState.INTERRUPTED)]
    candidates += [record for record in interrupted if _depth(record) not in depths]
    front = [candidates[i] for i in non_dominated([_point(record) for record in candidates])]
    front = _without_twins(front)
    if len(front) > max_students:
        chosen = _spread(front, max_students)
    else:
        others = [record for record in candidates if record not in front]
        chosen = front + _fill(front, others, max_students - len(front))
    return sorted(chosen, key=_point)


def _is_candidate(record: TrialRecord, state: TrialState) -> bool:
    return (
        record.state is state
        and record.spec is not None
        and record.checkpoint is not None
        and record.fidelity is not None
        and record.predicted_latency_ms is not None
        and math.isfinite(record.fidelity.cosine)
    )


def _depth(record: TrialRecord) -> int:
    assert record.spec is not None
    return record.spec.n_layers


def _point(record: TrialRecord) -> tuple[float, float]:
    assert record.predicted_latency_ms is not None and record.fidelity is not None
    return (record.predicted_latency_ms, record.fidelity.cosine)


def _place(record: TrialRecord) -> tuple[float, float]:
    latency_ms, fidelity = _point(record)
    return (math.log2(max(latency_ms, 1e-9)), math.log2(max(1.0 - fidelity, LEAST_ERROR)))


def _without_twins(front: list[TrialRecord]) -> list[TrialRecord]:
    """One record of those whose points are equal: the earliest."""
    seen: dict[tuple[float, float], TrialRecord] = {}
    for record in front:
        seen.setdefault(_point(record), record)
    return list(seen.values())


def _spread(front: list[TrialRecord], n: int) -> list[TrialRecord]:
    """Both ends, then each time the record farthest from those chosen (Gonzalez 1985)."""
    if n == 1:
        return [max(front, key=lambda record: -sum(_place(record)))]
    chosen = [front[0], front[-1]]
    while len(chosen) < n:
        rest = [record for record in front if record not in chosen]
        chosen.append(max(rest, key=lambda record: min(math.dist(_place(record), _place(other)) for other in chosen)))
    return chosen


def _fill(front: list[TrialRecord], others: list[TrialRecord], room: int) -> list[TrialRecord]:
    def gap(record: TrialRecord) -> float:
        """Doublings of error above the front's at the record's latency."""
        errors = [_place(other)[1] for other in front if _point(other)[0] <= _point(record)[0]]
        return _place(record)[1] - min(errors) if errors else 0.0

    depths = {_depth(record) for record in front}
    filled: list[TrialRecord] = []
    nearest = sorted(others, key=lambda record: (gap(record), record.number))
    for record in nearest:
        if len(filled) < room and _depth(record) not in depths:
            depths.add(_depth(record))
            filled.append(record)
    for record in nearest:
        if len(filled) < room and record not in filled and gap(record) <= NEAR:
            filled.append(record)
    return filled
