# SPDX-License-Identifier: Apache-2.0
"""Optuna's storage of one study: a journal file in the study's folder, the truth about every trial.

    FOLDER/trials.journal     one Optuna study, NAME, of latency and fidelity; what is measured at rungs is in records
    FOLDER/trials/trial-0007/ checkpoints: of complete trials (graduation starts there) and of interrupted ones

A search may be killed at any moment: a half-written last line is cut off when the next search opens the journal,
and what a trial was doing is read from its record and from Optuna's state together (`record_of`).
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
"""User attribute of a trial: the study's initial point that it tries, as text."""

_JOURNAL = "trials.journal"


def open_storage(folder: Path) -> TrialStorage:
    """The study folder's storage, for the one search that writes (`search.storage.lock`)."""
    journal = folder / _JOURNAL
    _cut_broken_line(journal)
    return TrialStorage(WholeLines(journal))


class TrialStorage(JournalStorage):
    """Optuna's storage in a journal whose writer says when what it wrote must be on the disk."""

    def __init__(self, journal: WholeLines) -> None:
        super().__init__(journal)
        self._journal = journal

    def sync(self) -> None:
        """Forces all that was written to the disk. After every record of a trial: what follows can be had from it."""
        self._journal.sync()


class WholeLines(JournalFileBackend):
    """A journal of which a failed write leaves nothing, for the one process that writes.

    Where the disk is full, the system takes a part of a line. The next line would be written behind it, and nobody
    could read the journal any more. As there is one writer, no lock is taken; and nothing is forced to the disk
    before `sync`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def sync(self) -> None:
        """Forces all that was written to the disk."""
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
    """Reads a study's trials again and again, while nothing or another process writes: only what is new is read.

    Optuna reads the new lines of the journal alone; here a record is parsed once, and again when its trial was told
    something. So a record that did not change is the same object as before.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Of study `name`, which need not have begun."""
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
    """The Optuna study `name`, to be read alone; None before any search."""
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
    """A trial's record; None if it was never begun.

    A trial that Optuna ended while its record runs was interrupted, or, if it has values, killed when all was measured.
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
    """What Optuna is told. Only complete trials have values; the sampler learns from complete and pruned ones."""
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


def _cut_broken_line(journal: Path) -> None:
    """A writer that was killed may leave a line without its end, which would break every later one."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with journal.open("r+b") as file:
            file.truncate(end)


def stands_for_its_point(trial: FrozenTrial) -> bool:
    """Whether a trial waits, runs, or has a record; else it ended before it began."""
    return not trial.state.is_finished() or RECORD in trial.user_attrs


def tell(study: optuna.Study, trial: optuna.Trial | int, record: TrialRecord, objective: Objective) -> None:
    """Ends a trial in Optuna as its record ended; only a complete one has values."""
    state = optuna_state(record.state)
    if state is OptunaState.COMPLETE:
        assert record.predicted_latency_ms is not None and record.fidelity is not None
        study.tell(trial, values=[record.predicted_latency_ms, objective.of(record.fidelity)])
    else:
        study.tell(trial, state=state)
