# SPDX-License-Identifier: Apache-2.0
"""Trials whose worker ended under them: what ended it, and how often a trial is tried again.

A trial did nothing wrong when its node died, and perhaps nothing when its worker did: it goes on from its last
checkpoint, in the same search. But a student may be what kills its worker (the operating system ends a process that
takes too much memory), so the tries without a new rung are counted. So are those of students that graduate, without a
new save (`search.graduation.state`).
"""

from __future__ import annotations

from collections.abc import Mapping

from search.records.trial import TrialRecord, TrialState

NODE_DIED = "node died"
WORKER_DIED = "worker died"
OUT_OF_MEMORY = "out of memory"

MOST_TRIES = {NODE_DIED: 10, WORKER_DIED: 3, OUT_OF_MEMORY: 3}
"""By kind of outcome: losses in a row, without a new rung between them, after which the trial is failed."""

_NODE_WORDS = ("node has died", "node was terminated", "node is dead", "NodeDiedError", "NODE_DIED", "unavailable")
_MEMORY_WORDS = ("OutOfMemoryError", "running low on memory")


def outcome_of_death(text: str) -> str:
    """The outcome of a trial whose actor died, from what Ray says of the death."""
    if any(word in text for word in _MEMORY_WORDS):
        return f"{OUT_OF_MEMORY}: Ray ended the worker before the node ran out of memory"
    if any(word in text for word in _NODE_WORDS):
        return f"{NODE_DIED}: the worker is gone with its node, or cannot be reached any more"
    return f"{WORKER_DIED}: a signal ended it (the operating system, when memory runs out), or it crashed"


def n_losses(record: TrialRecord, records: Mapping[int, TrialRecord]) -> int:
    """How often a trial that was lost just now was lost at this rung, this time included; `records` by number."""
    n, earlier = 1, _continued(record, records)
    while earlier is not None and earlier.outcome_kind in MOST_TRIES and len(earlier.rungs) == len(record.rungs):
        n, earlier = n + 1, _continued(earlier, records)
    return n


def _continued(record: TrialRecord, records: Mapping[int, TrialRecord]) -> TrialRecord | None:
    earlier = None if record.continues is None else records.get(record.continues)
    return earlier if earlier is not None and earlier.state is TrialState.INTERRUPTED else None
