# SPDX-License-Identifier: Apache-2.0
"""Keeps the disk from filling: of the complete trials only those that may graduate keep their checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace

from search.graduation.select import choose_graduates
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState

SPARE = 4
"""Checkpoints kept beyond the most students that graduate: for when the front changes."""


class CheckpointKeeper:
    """An observer that deletes the checkpoints of complete trials that others have left behind.

    A trial that another beats on both objectives stays beaten, so what is deleted would not have graduated.
    """

    def __init__(self, *, max_students: int, objective: Objective, records: Iterable[TrialRecord] = ()) -> None:
        """`records` are those of earlier commands."""
        self._n_kept = max_students + SPARE
        self._objective = objective
        self._complete = [record for record in with_checkpoints(records) if record.state is TrialState.COMPLETE]

    def trial_started(self, record: TrialRecord) -> None:
        """Nothing."""

    def rung_reached(self, record: TrialRecord) -> None:
        """Nothing."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Choose again among the complete trials."""
        if record.state is not TrialState.COMPLETE or record.checkpoint is None:
            return
        self._complete.append(record)
        kept = choose_graduates(self._complete, max_students=self._n_kept, objective=self._objective)
        for other in self._complete:
            if other not in kept and other.checkpoint is not None:
                shutil.rmtree(other.checkpoint.parent, ignore_errors=True)
        self._complete = kept


def with_checkpoints(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The records, without the checkpoints that are no longer there."""
    return [
        record
        if record.checkpoint is None or record.checkpoint.is_dir()
        else replace(record, checkpoint=None)
        for record in records
    ]
