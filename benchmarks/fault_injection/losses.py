# SPDX-License-Identifier: Apache-2.0
"""Checks for lost or inconsistent results after a fault; every count must be 0."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import read_json
from search.graduation.graduate import failures_of, graduates_of
from search.graduation.select import choose_graduates
from search.records.front import Front, MeasuredStudent
from search.records.objective import objective_of
from search.records.outcomes import OutcomeKind
from search.records.trial import TrialRecord, TrialState
from search.storage.lock import COMMAND, TRIALS, exclusive
from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.clock import CLOCK
from search.study.measure import MEASUREMENT
from search.tracking.client import client_of
from search.tracking.experiment import runs_of_kind, study_experiment
from search.tracking.metrics import TRAINING_LOSS
from search.tracking.names import Tag
from search.tracking.registry import load_front, load_trials, registered_students
from search.trials.journal import read_trials
from spaces.study import StudySpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

Records = Mapping[str, TrialRecord]
"""By name."""

KINDS = {
    "rungs_lost": "reported, and not in the journal afterwards",
    "finished_changed": "trials whose record changed after they had ended",
    "rungs_repeated": "measured again although they were in the journal",
    "graduates_redone": "finished graduates that were trained and measured again, to no more tokens than before",
    "more_than_a_rung_lost": "trials that were continued from before their last rung",
    "left_running": "trials that are RUNNING in a complete study",
    "miscounted": "trials more than the study asks for, or fewer with time left, or continued twice, or not at all",
    "mlflow_differs": "trials whose run has another state, other tokens, or that have none, or two",
    "front_differs": "students on the front that the measurements do not put there, or the other way round",
    "locks_left": "locks that nobody holds and that would keep the next command out",
    "processes_left": "of a killed command, still there long after it",
    "commands_failed": "that ended with an error that the kill does not explain",
    "unclear_ends": "commands that had to end, and did so without saying why in one line",
}

_RUNG = re.compile(r"^(trial-\d{4}) rung (\d+) of", re.MULTILINE)
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_BEGUN = (*_ENDED, TrialState.FAILED)


@dataclass
class Losses:
    """Number of losses by kind; all should be 0."""

    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    _graduates: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    """What each student's folder said of its training."""

    def add(self, kind: str, what: str) -> None:
        """One more, which is shown."""
        assert kind in KINDS
        self.counts[kind] += 1
        print(f"{kind}: {what}", file=sys.stderr, flush=True)

    def compare(self, log: str, known: Records, records: Records) -> None:
        """One command's reports with the journal before and after it."""
        for name, n in _RUNG.findall(log):
            if name not in records or len(records[name].rungs) < int(n):
                self.add("rungs_lost", f"rung {n} of {name}")
            if name in known and len(known[name].rungs) >= int(n):
                self.add("rungs_repeated", f"rung {n} of {name}")
        for name, record in known.items():
            if record.state in _ENDED and (name not in records or records[name].rungs != record.rungs):
                self.add("finished_changed", name)
        by_number = {record.number: record for record in records.values()}
        for name, record in records.items():
            if record.continues is not None:
                earlier = by_number[record.continues].rungs
                if record.rungs[: len(earlier)] != earlier:
                    self.add("more_than_a_rung_lost", f"{name}, which continues trial-{record.continues:04d}")

    def watch_graduates(self, folder: Path) -> None:
        """A look at a study's graduation folder while a command works there; one may be replaced by a longer one."""
        for path in folder.glob("*/student/student.json"):
            document = read_json(path)
            if document is None:  # just being replaced
                continue
            training, before = document["training"], self._graduates.get(path, document["training"])
            if training != before and training["n_tokens"] <= before["n_tokens"]:
                self.add("graduates_redone", f"{path.parents[1].name}: first {before}, then {training}")
            self._graduates[path] = training

    def check_complete(self, store: Store, study: StudySpec, records: Records) -> None:
        """A study whose last command has ended well."""
        self._check_trials(store, study, records)
        self._check_locks(store.study_folder(study.name))
        self._check_mlflow(store, study, records)
        self._check_ends(store, study)
        self._check_front(store, study, records)

    def _check_trials(self, store: Store, study: StudySpec, records: Records) -> None:
        for name, record in records.items():
            if record.state is TrialState.RUNNING:
                self.add("left_running", name)
        continued = Counter(record.continues for record in records.values() if record.continues is not None)
        for number, n in continued.items():
            if n > 1:
                self.add("miscounted", f"trial-{number:04d} is continued {n} times")
        for name, record in records.items():
            timed_out = record.outcome_kind is OutcomeKind.TIME_BUDGET
            if record.state is TrialState.INTERRUPTED and record.number not in continued and not timed_out:
                self.add("miscounted", f"{name} is continued by none: {record.outcome}")
        n_begun, n_asked = sum(record.state in _BEGUN for record in records.values()), study.search.n_trials
        assert n_asked is not None and study.search.time_budget_s is not None
        spent_s = StudyState.of(store, study.name).read(CLOCK) or 0.0
        if n_begun > n_asked or (n_begun < n_asked and spent_s < study.search.time_budget_s / 2):
            self.add("miscounted", f"{n_begun} trials were begun in {spent_s:.0f} s, {n_asked} are asked for")

    def _check_locks(self, folder: Path) -> None:
        for lock in folder.glob("*.journal.lock*"):
            self.add("locks_left", str(lock))
        for name in (COMMAND, TRIALS):
            try:
                with exclusive(folder, lock=name):
                    pass
            except ValueError as error:
                self.add("locks_left", str(error))

    def _check_mlflow(self, store: Store, study: StudySpec, records: Records) -> None:
        trials = load_trials(store, study.name, objective_of(study.objective))
        for name, n in Counter(trial.name for trial in trials).items():
            if n > 1 or name not in records:
                self.add("mlflow_differs", f"{name} has {n} runs" if n > 1 else f"{name} is not in the journal")
        runs = {trial.name: trial for trial in trials}
        client = client_of(store)
        experiment = study_experiment(store, study.name)
        run_ids = {run.data.tags[Tag.TRIAL]: run.info.run_id for run in runs_of_kind(client, experiment, "trial")}
        continued = {record.continues for record in records.values()}
        for name, record in records.items():
            if record.number in continued:  # its run is its successor's
                continue
            run = runs.get(name)
            if run is None or run.state != record.state.value:
                state = "not" if run is None else run.state
                self.add("mlflow_differs", f"{name} is {record.state} in the journal and {state} in MLflow")
            elif run.n_tokens < record.n_tokens:
                self.add("mlflow_differs", f"{name} saw {record.n_tokens} tokens, {run.n_tokens} in MLflow")

            elif record.spec is not None:
                self._check_run(client, run_ids[name], record)

    def _check_run(self, client: MlflowClient, run_id: str, record: TrialRecord) -> None:
        """The run's curve and its parameters."""
        steps = sorted(metric.step for metric in client.get_metric_history(run_id, TRAINING_LOSS))
        if not set(steps) >= {rung.n_tokens for rung in record.rungs} or len(steps) > len(set(steps)):
            self.add("mlflow_differs", f"{record.name} has rungs at {steps} in MLflow, {record.rungs} in the journal")
        if not set(client.get_run(run_id).data.params) >= {*record.point, "seed"}:
            self.add("mlflow_differs", f"the run of {record.name} lacks parameters")

    def _check_ends(self, store: Store, study: StudySpec) -> None:
        """Check the status of the study's runs in MLflow."""
        client = client_of(store)
        experiment = client.get_experiment_by_name(study.name).experiment_id
        for run in client.search_runs([experiment], max_results=1000):
            if run.info.status not in ("FINISHED", "KILLED", "FAILED"):
                self.add("mlflow_differs", f"the run {run.info.run_name} is {run.info.status}")

    def _check_front(self, store: Store, study: StudySpec, records: Records) -> None:
        """The front once more from what was measured: the trials that graduate, their students, the best of them."""
        front = load_front(store, study.name)
        folder = store.study_folder(study.name)
        chosen = choose_graduates(
            list(records.values()),
            max_students=study.graduation.max_students,
            objective=objective_of(study.objective),
        )
        graduates = {one.record.name for one in graduates_of(list(records.values()), folder / "graduation")}
        failures = failures_of(chosen, folder / "graduation")
        killed = {name for name, outcome in failures.items() if outcome.kind is OutcomeKind.WORKER_DIED}
        wanted = {record.name for record in chosen} - killed
        if graduates != wanted:
            self.add("front_differs", f"graduated are {sorted(graduates)}, chosen were {sorted(wanted)}")
        again = Front.of(
            study.name,
            teacher=front.teacher,
            profile=front.profile,
            objective=front.objective,
            references=front.references,
            students=[entry for entry in _measured(folder) if entry.name in graduates],
        )
        points = {(entry.name, front.point_of(entry)) for entry in front.students}
        if points != {(entry.name, front.point_of(entry)) for entry in again.students}:
            self.add("front_differs", f"{sorted(points)} in the registry, {again.students} as measured")
        names = Counter(entry.name for entry in registered_students(client_of(store), study.name) if entry.on_front)
        for name, n in names.items():
            if n > 1:
                self.add("front_differs", f"{name} stands on the front {n} times")


def read_records(store: Store, study: StudySpec) -> dict[str, TrialRecord]:
    """The journal's trials by name."""
    return {record.name: record for record in read_trials(store.study_folder(study.name), study.name)}


def _measured(folder: Path) -> list[MeasuredStudent]:
    measured = StudyState(folder).read(MEASUREMENT)
    assert measured is not None, "a complete study was measured"
    return list(measured.students)
