# SPDX-License-Identifier: Apache-2.0
"""The files of a study's trials: a folder of checkpoints for each, and the text of an error.

    FOLDER/trials/trial-0007/rung-2/   what `TrialWork.save` wrote
    FOLDER/errors/trial-0007.txt       what is known of an error, for people
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from search.records.trial import TrialRecord, trials_once


def delete_checkpoints(folder: Path, record: TrialRecord) -> None:
    """All of a trial, and of the trial that it continues."""
    shutil.rmtree(folder / "trials" / record.name, ignore_errors=True)
    if record.checkpoint is not None:
        shutil.rmtree(record.checkpoint.parent, ignore_errors=True)


def delete_halves(folder: Path, record: TrialRecord) -> None:
    """What an interrupted trial was saving when it ended."""
    for checkpoint in folder.glob(f"trials/{record.name}/*"):
        if checkpoint != record.checkpoint:
            shutil.rmtree(checkpoint, ignore_errors=True)


def delete_orphans(folder: Path, records: Iterable[TrialRecord]) -> None:
    """Checkpoints that no trial needs any more: of trials that left none, or that another continues."""
    needed = {record.checkpoint.parent for record in trials_once(records) if record.checkpoint is not None}
    for trial in folder.glob("trials/trial-*"):
        if trial not in needed:
            shutil.rmtree(trial, ignore_errors=True)


def write_error(folder: Path, record: TrialRecord, details: str) -> None:
    """Keeps what is known of an error, such as its traceback; nothing if nothing is known."""
    if details:
        path = folder / "errors" / f"{record.name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(details, encoding="utf-8")
