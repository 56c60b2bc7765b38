# SPDX-License-Identifier: Apache-2.0
"""Counts of trials by rung and state, and the pruned trials with those that dominated them.

A trial that was interrupted and continued counts once, with the state of the last trial that continued it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.records.trial import RungRecord, TrialRecord, TrialState, trials_once


@dataclass(frozen=True, slots=True, kw_only=True)
class RungCount:
    """The trials that reached one rung, by what happened next; the parts add up to `arrived`."""

    n_tokens: int
    """The rung in training tokens."""
    arrived: int
    """Trials that were measured at this rung."""
    continued: int
    """Reached the next rung."""
    complete: int
    """Completed at this rung: the last one."""
    pruned: int
    """Pruned at this rung."""
    failed: int
    """Failed after this rung and before the next."""
    interrupted: int
    """Interrupted after this rung and before the next."""
    running: int
    """Training towards the next rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A trial that dominated a pruned one."""

    name: str
    """Its name; if it was continued, that of the last trial that continued it."""
    record: TrialRecord | None
    """Its record; None if the study has none."""
    rung: RungRecord | None
    """Its measurement at the rung where the other was pruned; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A pruned trial with the trials that dominated it."""

    record: TrialRecord
    """The trial."""
    target: int
    """The training tokens of the rung at which it was pruned."""
    rung: RungRecord
    """Its measurement there."""
    rivals: tuple[Rival, ...]
    """The trials named in its outcome: no slower, and predicted to have a lower final error."""


def count_rungs(records: Sequence[TrialRecord], rungs: Sequence[int]) -> tuple[RungCount, ...]:
    """The counts at each of `rungs`."""
    counts = []
    records = trials_once(records)
    for k, target in enumerate(rungs):
        arrived = [record for record in records if len(record.rungs) > k]
        here = Counter(record.state for record in arrived if len(record.rungs) == k + 1)
        counts.append(
            RungCount(
                n_tokens=target,
                arrived=len(arrived),
                continued=len(arrived) - here.total(),
                complete=here[TrialState.COMPLETE],
                pruned=here[TrialState.PRUNED],
                failed=here[TrialState.FAILED],
                interrupted=here[TrialState.INTERRUPTED],
                running=here[TrialState.RUNNING],
            )
        )
    return tuple(counts)


def unmeasured(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Number of trials without any rung, by state; refused ones by kind of refusal."""
    states = Counter(
        f"refused: {record.outcome_kind}" if record.state is TrialState.REFUSED else record.state.value
        for record in trials_once(records)
        if not record.rungs
    )
    return dict(sorted(states.items()))


def pruned_trials(records: Sequence[TrialRecord], rungs: Sequence[int]) -> tuple[Pruned, ...]:
    """All pruned trials with the trials that dominated them, in the order of `records`."""
    by_name = {record.name: record for record in records}
    successors = {f"trial-{record.continues:04d}": record for record in records if record.continues is not None}
    found = []
    for record in records:
        if record.state is not TrialState.PRUNED or not record.rungs:
            continue
        k = min(len(record.rungs), len(rungs)) - 1
        numbers = () if record.outcome is None else record.outcome.rivals
        rivals = tuple(_rival(f"trial-{number:04d}", by_name, successors, rung=k) for number in numbers)
        found.append(Pruned(record=record, target=rungs[k], rung=record.rungs[-1], rivals=rivals))
    return tuple(found)


def _rival(name: str, by_name: Mapping[str, TrialRecord], successors: Mapping[str, TrialRecord], *, rung: int) -> Rival:
    record = by_name.get(name)
    seen = {name}
    while record is not None and record.name in successors and successors[record.name].name not in seen:
        record = successors[record.name]
        seen.add(record.name)
    measured = record.rungs[rung] if record is not None and len(record.rungs) > rung else None
    return Rival(name=name if record is None else record.name, record=record, rung=measured)
