# SPDX-License-Identifier: Apache-2.0
"""Retries of trials whose worker died: the cause of the death, and how often a trial is tried again.

A trial does not cause the death of its node, and perhaps not that of its worker: it continues from its last
checkpoint, in the same search. But a student may kill its worker (the operating system ends a process that takes too
much memory), so tries without a new rung are counted; for students that graduate, tries without a new checkpoint
(`search.graduation.state`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray.exceptions import (
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
)

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState

MOST_TRIES = {
    OutcomeKind.NODE_DIED: 10,
    OutcomeKind.WORKER_UNREACHABLE: 10,
    OutcomeKind.WORKER_DIED: 3,
    OutcomeKind.OUT_OF_MEMORY: 3,
}
"""Number of deaths in a row, without a new rung between them, after which the trial is failed; by kind of outcome."""

_NODE_DIED = "The actor died because its node has died."
_UNREACHABLE = re.compile(r"The actor ([0-9a-f]+|None) is unavailable: ")
_OUT_OF_MEMORY = re.compile("killed due to the node running low on memory|Worker exit type: NODE_OUT_OF_MEMORY")
_SET_UP_FAILED = "The actor died because of an error raised in its creation task, "
# Sentences of Ray 2.60: an ActorDiedError has no field that says whether the node died, and Ray
# Train wraps it in an error of its own, whose text ends with the whole text of Ray's.


def outcome_of_death(error: BaseException) -> Outcome:
    """The outcome of a trial whose actor died, from Ray's error.

    Its kind is `EXCEPTION` if the actor could not be set up: trying again would not help.
    """
    text = str(error)
    if isinstance(error, OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
        return Outcome(OutcomeKind.OUT_OF_MEMORY, "Ray ended the worker before the node ran out of memory")
    if (isinstance(error, RayActorError) and error.actor_init_failed) or _SET_UP_FAILED in text:
        return Outcome(OutcomeKind.EXCEPTION, f"the worker could not be set up: {text.strip().splitlines()[-1]}")
    is_node = isinstance(error, NodeDiedError | LocalRayletDiedError)
    if is_node or (isinstance(error, RayActorError) and error.preempted) or _NODE_DIED in text:
        return Outcome(OutcomeKind.NODE_DIED, "the node of the worker died")
    if isinstance(error, ActorUnavailableError) or _UNREACHABLE.search(text):
        return Outcome(OutcomeKind.WORKER_UNREACHABLE, "the worker, its node or the network failed")
    details = "a signal ended it (the operating system, when memory runs out), or it crashed"
    return Outcome(OutcomeKind.WORKER_DIED, details)


def n_losses(record: TrialRecord, records: Mapping[int, TrialRecord]) -> int:
    """How often a trial lost its worker at its current rung, including just now; `records` are all trials by number."""
    n, earlier = 1, _continued(record, records)
    while earlier is not None and earlier.outcome_kind in MOST_TRIES and len(earlier.rungs) == len(record.rungs):
        n, earlier = n + 1, _continued(earlier, records)
    return n


def _continued(record: TrialRecord, records: Mapping[int, TrialRecord]) -> TrialRecord | None:
    earlier = None if record.continues is None else records.get(record.continues)
    return earlier if earlier is not None and earlier.state is TrialState.INTERRUPTED else None
