# SPDX-License-Identifier: Apache-2.0
"""What became of the trials at each rung, and which ones were pruned for whom.

A trial that was interrupted and continued counts once, as what became of the last one that continued it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.records.trial import RungRecord, TrialRecord, TrialState, trials_once


@dataclass(frozen=True, slots=True, kw_only=True)
class RungCount:
    """The trials that arrived at one rung, by what they did next; the parts add up to `arrived`."""

    n_tokens: int
    """The rung."""
    arrived: int
    """Trials that were measured here."""
    went_on: int
    """Reached the next rung."""
    complete: int
    """Ended here as planned: at the last rung."""
    pruned: int
    """Stopped here."""
    failed: int
    """Failed here, or on the way to the next rung."""
    interrupted: int
    """Ended here, or on the way to the next rung, with their search."""
    running: int
    """Are on their way to the next rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A trial that another was pruned for."""

    name: str
    """As it is called now: the last one that continued it."""
    record: TrialRecord | None
    """None if the study does not hold it."""
    rung: RungRecord | None
    """What it measured where the other was pruned; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A pruned trial."""

    record: TrialRecord
    """The trial."""
    target: int
    """The rung's tokens."""
    rung: RungRecord
    """What it measured there."""
    rivals: tuple[Rival, ...]
    """Those of its outcome: no slower, and predicted to end with less error."""


def count_rungs(records: Sequence[TrialRecord], rungs: Sequence[int]) -> tuple[RungCount, ...]:
    """What became of the trials at each rung."""
    counts = []
    records = trials_once(records)
    for k, target in enumerate(rungs):
        arrived = [record for record in records if len(record.rungs) > k]
        here = Counter(record.state for record in arrived if len(record.rungs) == k + 1)
        counts.append(
            RungCount(
                n_tokens=target,
                arrived=len(arrived),
                went_on=len(arrived) - here.total(),
                complete=here[TrialState.COMPLETE],
                pruned=here[TrialState.PRUNED],
                failed=here[TrialState.FAILED],
                interrupted=here[TrialState.INTERRUPTED],
                running=here[TrialState.RUNNING],
            )
        )
    return tuple(counts)


def unmeasured(records: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials were begun or refused and never reached a rung, by state; a refusal by its kind."""
    states = Counter(
        f"refused: {record.outcome_kind}" if record.state is TrialState.REFUSED else record.state.value
        for record in trials_once(records)
        if not record.rungs
    )
    return dict(sorted(states.items()))


def pruned_trials(records: Sequence[TrialRecord], rungs: Sequence[int]) -> tuple[Pruned, ...]:
    """All pruned trials with their rivals, in their order."""
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
