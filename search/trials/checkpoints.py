# SPDX-License-Identifier: Apache-2.0
"""Deletes checkpoints of a study's trials that are not needed any more.

FOLDER/trials/trial-0007/rung-2/   what `TrialWork.save` wrote
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from search.records.trial import TrialRecord, trials_once


def delete_checkpoints(folder: Path, record: TrialRecord) -> None:
    """Deletes all checkpoints of a trial, and those of the trial that it continues."""
    shutil.rmtree(folder / "trials" / record.name, ignore_errors=True)
    if record.checkpoint is not None:
        shutil.rmtree(record.checkpoint.parent, ignore_errors=True)


def delete_partial_checkpoints(folder: Path, record: TrialRecord) -> None:
    """Deletes what an interrupted trial was saving when it ended; its record's checkpoint stays."""
    for checkpoint in folder.glob(f"trials/{record.name}/*"):
        if checkpoint != record.checkpoint:
            shutil.rmtree(checkpoint, ignore_errors=True)


def delete_unused_checkpoints(folder: Path, records: Iterable[TrialRecord]) -> None:
    """Deletes the checkpoints of trials whose record names none, and of those that another trial continues."""
    needed = {record.checkpoint.parent for record in trials_once(records) if record.checkpoint is not None}
    for trial in folder.glob("trials/trial-*"):
        if trial not in needed:
            shutil.rmtree(trial, ignore_errors=True)
