# SPDX-License-Identifier: Apache-2.0
"""The hypervolume of a search over time: by time and by training tokens.

Time is that in which at least one trial ran, by the clock: two workers side by side count once, and pauses between the
commands of an interrupted study do not count. Tokens are those of all trials together, up to the last rung that each
reached; a continued trial adds only what it trained itself. A hypervolume counts complete trials alone, at their
predicted latency, from the moment they were complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.optimiser.pareto import hypervolume
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState

Corner = tuple[float, float]
"""(log2 of milliseconds, error), both to be minimised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTrial:
    """A trial and when it ran."""

    record: TrialRecord
    """What it was and what came of it."""
    started: float
    """Seconds since the epoch."""
    ended: float
    """Seconds since the epoch; for a trial that was killed or runs, when it had its last rung."""
    n_inherited: int = 0
    """Rungs that the trial that it continues had measured."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ended", max(self.started, self.ended))

    @classmethod
    def of(cls, record: TrialRecord, before: TrialRecord | None, *, started: float, told: float | None) -> TimedTrial:
        """A trial that continues the one `before`, if any, and whose end was `told`.

        None: never, or by a later search. Then it counts as long as its own rungs took.
        """
        inherited = 0 if before is None else _n_common(record, before)
        own_s = sum(rung.seconds for rung in record.rungs[inherited:])
        return cls(
            record=record, started=started, ended=started + own_s if told is None else told, n_inherited=inherited
        )

    def rungs(self) -> list[tuple[float, int]]:
        """(seconds since the epoch, tokens since the rung before) of the rungs that it measured itself, in order.

        A trial that ended at a rung had that one when it ended; the others are placed by the seconds between them.
        """
        own = self.record.rungs[self.n_inherited :]
        before = self.record.rungs[self.n_inherited - 1].n_tokens if self.n_inherited else 0
        if self.record.state in (TrialState.COMPLETE, TrialState.PRUNED):
            at = self.ended - sum(rung.seconds for rung in own)
        else:
            at = self.started
        found = []
        for rung in own:
            at += rung.seconds
            found.append((min(max(at, self.started), self.ended), rung.n_tokens - before))
            before = rung.n_tokens
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a search had when a trial was complete."""

    record: TrialRecord
    """The trial."""
    seconds: float
    """Of search by then."""
    n_tokens: int
    """Trained by all trials by then."""
    hypervolume: float
    """With this trial."""
    gained: float
    """By this trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHistory:
    """The hypervolume over a search."""

    steps: tuple[Step, ...]
    """A step for each complete trial, in the order in which they were complete."""
    seconds: float
    """Of the whole search."""
    n_tokens: int
    """Of the whole search."""
    reference: Corner
    """Up to which the hypervolume counts."""


def history_of(trials: Sequence[TimedTrial], *, reference: Corner, objective: Objective) -> SearchHistory:
    """The history of all trials of a search."""
    elapsed = busy_clock([(trial.started, trial.ended) for trial in trials])
    reached = sorted(rung for trial in trials for rung in trial.rungs())
    complete = sorted(
        (trial for trial in trials if trial.record.state is TrialState.COMPLETE and trial.record.fidelity is not None),
        key=lambda trial: (trial.ended, trial.record.number),
    )
    steps: list[Step] = []
    corners: list[Corner] = []
    before = 0.0
    for trial in complete:
        corners.append(corner_of(trial.record, objective))
        now = dominated_area(corners, reference)
        steps.append(
            Step(
                record=trial.record,
                seconds=elapsed(trial.ended),
                n_tokens=sum(n_tokens for at, n_tokens in reached if at <= trial.ended),
                hypervolume=now,
                gained=now - before,
            )
        )
        before = now
    return SearchHistory(
        steps=tuple(steps),
        seconds=elapsed(math.inf),
        n_tokens=sum(n_tokens for _, n_tokens in reached),
        reference=reference,
    )


def busy_clock(intervals: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """From a time to the seconds before it that lie within at least one of the intervals."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return lambda time: sum(max(0.0, min(end, time) - start) for start, end in merged)


def corner_of(record: TrialRecord, objective: Objective) -> Corner:
    """Where a measured trial stands, as the searcher counts."""
    assert record.predicted_latency_ms is not None and record.fidelity is not None
    return math.log2(record.predicted_latency_ms), objective.error(objective.of(record.fidelity))


def dominated_area(corners: Sequence[Corner], reference: Corner) -> float:
    """Hypervolume of corners, log2 latency times log2 error."""
    return hypervolume([(cost, -math.log2(error)) for cost, error in corners], (reference[0], -math.log2(reference[1])))


def _n_common(record: TrialRecord, before: TrialRecord) -> int:
    """Rungs that a trial has from the one before."""
    n = 0
    for own, other in zip(record.rungs, before.rungs, strict=False):
        if own != other:
            break
        n += 1
    return n
