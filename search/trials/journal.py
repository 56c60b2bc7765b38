# SPDX-License-Identifier: Apache-2.0
"""Optuna's storage of one study, a journal file in the study's folder: the source of truth for every trial.

    FOLDER/trials.journal     the Optuna study, of latency and fidelity; records hold the measurements at rungs
    FOLDER/trials/trial-0007/ checkpoints: of complete trials (graduation starts there) and of interrupted ones

A search may be killed at any time: a partial last line is removed when the next search opens the journal, and the state
of a trial follows from its record and Optuna's state together (`record_of`).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search.records.objective import Objective
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState

RECORD = "record"
"""User attribute of a trial: the JSON object of its record."""
CONTINUES = "continues"
"""User attribute of a trial: the number of the interrupted trial that it continues."""
INITIAL = "initial"
"""User attribute of a trial: the study's initial point that it evaluates, as JSON text."""

_JOURNAL = "trials.journal"


def open_storage(folder: Path) -> TrialStorage:
    """The study folder's storage, for the one search that writes (`search.storage.lock`)."""
    journal = folder / _JOURNAL
    _truncate_partial_line(journal)
    return TrialStorage(AtomicJournalBackend(journal))


class TrialStorage(JournalStorage):
    """Optuna's journal storage with a method that forces what was written to the disk."""

    def __init__(self, journal: AtomicJournalBackend) -> None:
        super().__init__(journal)
        self._journal = journal

    def sync(self) -> None:
        """Forces all that was written to the disk (fsync); called after every record, from which the rest follows."""
        self._journal.sync()


class AtomicJournalBackend(JournalFileBackend):
    """A journal file in which a failed write leaves no partial line, for one writing process.

    On a full disk the operating system may write a part of a line. The next line would be appended to it, and the
    journal could not be read any more. As there is one writer, no lock is taken, and nothing is forced to the disk
    before `sync`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def sync(self) -> None:
        """Forces all that was written to the disk (fsync)."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes all of the lines, or raises and writes none."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        size = self._path.stat().st_size
        try:
            with self._path.open("ab") as file:
                file.write(lines.encode())
        except OSError:
            os.truncate(self._path, size)
            raise


class TrialReader:
    """Reads a study's trials repeatedly, even while another process writes, and parses only what changed.

    Optuna reads only the new lines of the journal; a record is parsed again only if its trial changed. So a record that
    did not change is the same object as before.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Reads study `name` in its folder; the study need not exist yet."""
        self._folder, self._name = folder, name
        self._study: optuna.Study | None = None
        self._parsed: dict[int, tuple[Any, OptunaState, TrialRecord | None]] = {}

    def records(self) -> tuple[TrialRecord, ...]:
        """All trials by number; empty before any search."""
        if self._study is None:
            self._study = read_study(self._folder, self._name)
        trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        return tuple(record for record in map(self._record, trials) if record is not None)

    def _record(self, trial: FrozenTrial) -> TrialRecord | None:
        document = trial.user_attrs.get(RECORD)
        known = self._parsed.get(trial.number)
        if known is None or known[0] is not document or known[1] is not trial.state:
            self._parsed[trial.number] = known = (document, trial.state, record_of(trial, self._folder))
        return known[2]


def read_trials(folder: Path, name: str) -> tuple[TrialRecord, ...]:
    """All trials of study `name` by number, as they are now (`TrialReader`)."""
    return TrialReader(folder, name).records()


def read_study(folder: Path, name: str) -> optuna.Study | None:
    """The Optuna study `name`, for reading only; None before any search."""
    journal = folder / _JOURNAL
    if journal.exists():
        with suppress(KeyError):
            return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal))))
    return None


def records_of(study: optuna.Study, folder: Path) -> tuple[TrialRecord, ...]:
    """The records of all trials that have one, by number."""
    records = (record_of(trial, folder) for trial in study.get_trials(deepcopy=False))
    return tuple(record for record in records if record is not None)


def record_of(trial: FrozenTrial, folder: Path) -> TrialRecord | None:
    """A trial's record; None if the trial never began.

    A trial whose record is running although Optuna has ended it is complete if it has values, else interrupted.
    """
    document = trial.user_attrs.get(RECORD)
    if document is None:
        return None
    record = TrialRecord.from_json(document)
    if record.checkpoint is not None:
        checkpoint = folder / record.checkpoint
        record = replace(record, checkpoint=checkpoint if checkpoint.is_dir() else None)
    if record.state is TrialState.RUNNING and trial.state is OptunaState.COMPLETE:
        record = replace(record, state=TrialState.COMPLETE, outcome=Outcome(OutcomeKind.COMPLETE))
    elif record.state is TrialState.RUNNING and trial.state.is_finished():
        record = replace(record, state=TrialState.INTERRUPTED, outcome=Outcome(OutcomeKind.DRIVER_ENDED))
    return record


def document_of(record: TrialRecord, folder: Path) -> dict[str, Any]:
    """The JSON object that is stored: the checkpoint's path is relative, so that a study's folder can be moved."""
    if record.checkpoint is not None:
        record = replace(record, checkpoint=record.checkpoint.relative_to(folder))
    return record.to_json()


def optuna_state(state: TrialState) -> OptunaState:
    """The Optuna state for a trial's state. Raises ValueError for a running trial."""
    match state:
        case TrialState.COMPLETE:
            return OptunaState.COMPLETE
        case TrialState.PRUNED | TrialState.REFUSED:
            return OptunaState.PRUNED
        case TrialState.FAILED | TrialState.INTERRUPTED:
            return OptunaState.FAIL
        case TrialState.RUNNING:
            raise ValueError("a running trial has no outcome to tell; end it first")
        case _:
            assert_never(state)


def _truncate_partial_line(journal: Path) -> None:
    """Truncates the journal after its last complete line; a killed writer may leave a partial one."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with journal.open("r+b") as file:
            file.truncate(end)


def occupies_its_point(trial: FrozenTrial) -> bool:
    """Whether a trial is waiting or running, or has a record; else it never began, and its point is untried."""
    return not trial.state.is_finished() or RECORD in trial.user_attrs


def tell(study: optuna.Study, trial: optuna.Trial | int, record: TrialRecord, objective: Objective) -> None:
    """Tells Optuna the end of a trial; only a complete trial has values: latency in ms and fidelity."""
    state = optuna_state(record.state)
    if state is OptunaState.COMPLETE:
        assert record.predicted_latency_ms is not None and record.fidelity is not None
        study.tell(trial, values=[record.predicted_latency_ms, objective.of(record.fidelity)])
    else:
        study.tell(trial, state=state)
