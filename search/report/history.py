# SPDX-License-Identifier: Apache-2.0
"""The hypervolume of a search over time and over training tokens.

Time is the wall-clock time during which at least one trial ran: parallel workers count once, and pauses between the
commands of an interrupted study do not count. Tokens are the sum over all trials up to the last rung that each
reached; a continued trial adds only what it trained itself. The hypervolume counts complete trials only, at their
predicted latency, from the time at which they were complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.optimiser.pareto import hypervolume
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState

Corner = tuple[float, float]
"""A point (log2 of milliseconds, error), both minimised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTrial:
    """A trial with its start and end."""

    record: TrialRecord
    """The trial's record."""
    started: float
    """Seconds since the epoch."""
    ended: float
    """Seconds since the epoch; for a trial that runs or was killed, the time of its last rung."""
    n_inherited: int = 0
    """Leading rungs that were measured by the trial that it continues."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ended", max(self.started, self.ended))

    @classmethod
    def of(cls, record: TrialRecord, before: TrialRecord | None, *, started: float, ended: float | None) -> TimedTrial:
        """The timed trial of a record; `before` is the record of the trial that it continues.

        `ended` is its end; None if the end was not recorded while it ran: then the end is the start plus the seconds of
        its own rungs.
        """
        inherited = 0 if before is None else _n_common(record, before)
        own_s = sum(rung.seconds for rung in record.rungs[inherited:])
        return cls(
            record=record, started=started, ended=started + own_s if ended is None else ended, n_inherited=inherited
        )

    def rungs(self) -> list[tuple[float, int]]:
        """(seconds since the epoch, tokens since the rung before) of the rungs that it measured itself, in order.

        The last rung of a complete or pruned trial is at its end; the others follow from the seconds between rungs.
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
    """The state of a search when a trial was completed."""

    record: TrialRecord
    """The trial."""
    seconds: float
    """Search time until then."""
    n_tokens: int
    """Training tokens of all trials until then."""
    hypervolume: float
    """Hypervolume including this trial."""
    gained: float
    """Hypervolume that this trial added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHistory:
    """The hypervolume of a search after each complete trial."""

    steps: tuple[Step, ...]
    """A step for each complete trial, in order of completion."""
    seconds: float
    """Time of the whole search."""
    n_tokens: int
    """Training tokens of the whole search."""
    reference: Corner
    """The reference point of the hypervolume."""


def history_of(trials: Sequence[TimedTrial], *, reference: Corner, objective: Objective) -> SearchHistory:
    """The history of all trials of a search."""
    elapsed = elapsed_clock([(trial.started, trial.ended) for trial in trials])
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


def elapsed_clock(intervals: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """A function from a time to the seconds before it that lie in the union of the intervals."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return lambda time: sum(max(0.0, min(end, time) - start) for start, end in merged)


def corner_of(record: TrialRecord, objective: Objective) -> Corner:
    """The (log2 of predicted milliseconds, error) of a measured trial, as in the sampler."""
    assert record.predicted_latency_ms is not None and record.fidelity is not None
    return math.log2(record.predicted_latency_ms), objective.error(objective.of(record.fidelity))


def dominated_area(corners: Sequence[Corner], reference: Corner) -> float:
    """Hypervolume of points, in log2 latency times log2 error."""
    return hypervolume([(cost, -math.log2(error)) for cost, error in corners], (reference[0], -math.log2(reference[1])))


def _n_common(record: TrialRecord, before: TrialRecord) -> int:
    """Number of leading rungs that are equal in both records."""
    n = 0
    for own, other in zip(record.rungs, before.rungs, strict=False):
        if own != other:
            break
        n += 1
    return n
