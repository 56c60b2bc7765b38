# SPDX-License-Identifier: Apache-2.0
"""Deletes the checkpoints of complete trials that are no candidates for graduation, so that the disk does not fill."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace

from search.graduation.select import choose_graduates
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState

N_SPARE_CHECKPOINTS = 4
"""Checkpoints kept in addition to `max_students`, because later trials may change the front."""


class CheckpointKeeper:
    """An observer that deletes the checkpoints of complete trials that are no candidates for graduation.

    A dominated trial stays dominated, so a trial whose checkpoint is deleted would not have graduated.
    """

    def __init__(self, *, max_students: int, objective: Objective, records: Iterable[TrialRecord] = ()) -> None:
        """`max_students` is the most students that graduate; `records` are the trials of earlier commands."""
        self._n_kept = max_students + N_SPARE_CHECKPOINTS
        self._objective = objective
        records = with_existing_checkpoints(records)
        self._complete = [record for record in records if record.state is TrialState.COMPLETE]

    def trial_started(self, record: TrialRecord) -> None:
        """Does nothing."""

    def rung_reached(self, record: TrialRecord) -> None:
        """Does nothing."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Chooses the candidates again, with this trial, and deletes the checkpoints of all others."""
        if record.state is not TrialState.COMPLETE or record.checkpoint is None:
            return
        self._complete.append(record)
        kept = choose_graduates(self._complete, max_students=self._n_kept, objective=self._objective)
        for other in self._complete:
            if other not in kept and other.checkpoint is not None:
                shutil.rmtree(other.checkpoint.parent, ignore_errors=True)
        self._complete = kept


def with_existing_checkpoints(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The records, with `checkpoint` None where its folder does not exist any more."""
    return [
        record if record.checkpoint is None or record.checkpoint.is_dir() else replace(record, checkpoint=None)
        for record in records
    ]
