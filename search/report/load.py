# SPDX-License-Identifier: Apache-2.0
"""Reads a search from the store: trials with their times, space, objective, latency predictor.

Reads the study's journal, whether its search has ended, was killed or still runs. The latency predictor is refitted to
the study's calibration and used only if it reproduces the predicted latencies of the trials' records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from runtime.atomic import read_json
from search.optimiser.posterior import Posterior
from search.optimiser.surrogate import Surrogate
from search.records.objective import Objective, objective_from_json
from search.records.trial import TrialRecord, TrialState
from search.report.history import TimedTrial
from search.storage.error_files import read_error
from search.storage.store import Store
from search.storage.study_state import CALIBRATION, StudyState
from search.trials.journal import RECORD, read_study, record_of
from search.trials.problem import StudentProblem
from spaces.space import Space
from spaces.student import StudentSpec
from spaces.study.space import read_space
from spaces.study.yaml import Problems, StudyError, compose
from trainers.measure.calibration import Calibration
from trainers.measure.predictor import LatencyPredictor

MAX_ERROR_CHARACTERS = 4000  # of a trial's log that the page shows
_SAME_RTOL = 1e-3  # relative difference of predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSearch:
    """A search as its journal holds it."""

    study: optuna.Study
    """The two-objective Optuna study; read-only."""
    space: Space
    """The search space."""
    objective: Objective
    """The study's objective."""
    rungs: tuple[int, ...]
    """The rungs in training tokens."""
    trials: tuple[TimedTrial, ...]
    """All trials with a record, by number."""
    teacher: StudentSpec | None
    """The teacher's spec; None if the store does not hold it."""
    predictor: LatencyPredictor | None
    """The search's latency predictor; None if the calibration is missing or gives other predictions."""
    errors: Mapping[str, str]
    """The end of what was logged of trials that failed or lost their worker, by the trial's name."""

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The records of all trials, by number."""
        return tuple(trial.record for trial in self.trials)

    @property
    def teacher_latency_ms(self) -> float | None:
        """The teacher's predicted latency; None without predictor or teacher."""
        if self.predictor is None or self.teacher is None:
            return None
        return self.predictor.predict(self.teacher)

    def posterior(self) -> Posterior | None:
        """The surrogate model's posterior given all measurements; None without any, or if the teacher is unknown.

        Without the search's predictor only the latencies of tried students are known; all others are infinite.
        """
        if self.teacher is None:
            return None
        limit_ms = self.teacher_latency_ms
        problem = StudentProblem(
            space=self.space,
            teacher=self.teacher,
            rungs=self.rungs,
            predict=self._predict(),
            limit_ms=math.inf if limit_ms is None else limit_ms,
            objective=self.objective,
        )
        return Surrogate(problem).posterior(self.study, measured_only=True)

    def _predict(self) -> Callable[[StudentSpec], float]:
        if self.predictor is not None:
            return self.predictor.predict
        known = {record.spec: record.predicted_latency_ms for record in self.records}
        return lambda spec: known.get(spec) or math.inf


def read_search(store: Store, name: str, *, teacher: StudentSpec | None = None) -> RecordedSearch | None:
    """The search of study `name`; None if there is none, or if this version cannot read it.

    `teacher` is used if no calibration of the study is found.
    """
    folder = store.study_folder(name)
    study = read_study(folder, name)
    if study is None:
        return None
    identity = study.user_attrs.get("identity", {})
    space = _space_of(identity.get("space"))
    rungs = tuple(identity.get("rungs", ()))
    if space is None or not rungs:
        return None
    try:
        objective = objective_from_json(identity.get("objective"))
    except ValueError:
        return None
    trials = _timed_trials(study, folder)
    found = _matching_calibration(
        store, name, profile=identity.get("profile"), records=[trial.record for trial in trials]
    )
    calibration, predictor = found if found is not None else (None, None)
    return RecordedSearch(
        study=study,
        space=space,
        objective=objective,
        rungs=rungs,
        trials=trials,
        teacher=teacher if calibration is None else calibration.points[0].spec,
        predictor=predictor,
        errors={
            name: error
            for name in (trial.record.name for trial in trials)
            if (error := read_error(folder, name, most_characters=MAX_ERROR_CHARACTERS))
        },
    )


def _space_of(document: Any) -> Space | None:
    """The space of a study's identity; None if it cannot be read."""
    if not isinstance(document, dict):
        return None
    problems = Problems()
    try:
        return read_space(compose(json.dumps(document), origin="space"), "space", problems=problems)
    except StudyError:
        return None


def _timed_trials(study: optuna.Study, folder: Path) -> tuple[TimedTrial, ...]:
    found: dict[int, TimedTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        record = record_of(trial, folder)
        if record is None or trial.datetime_start is None:
            continue
        # The end of a killed trial is missing, or is the time of a later search.
        killed = trial.user_attrs[RECORD]["state"] == TrialState.RUNNING.value
        ended = None if killed or trial.datetime_complete is None else trial.datetime_complete.timestamp()
        before = None if record.continues is None else found.get(record.continues)
        found[record.number] = TimedTrial.of(
            record, None if before is None else before.record, started=trial.datetime_start.timestamp(), ended=ended
        )
    return tuple(found.values())


def _matching_calibration(
    store: Store, name: str, *, profile: Any, records: Sequence[TrialRecord]
) -> tuple[Calibration, LatencyPredictor] | None:
    """The calibration that reproduces the trials' predicted latencies, with its predictor; None if there is none."""
    predicted = [record for record in records if record.spec is not None and record.predicted_latency_ms is not None]
    for calibration in _calibrations(store, name):
        if calibration.profile.to_json() != profile:
            continue
        predictor = LatencyPredictor.fit(calibration)
        if all(_agrees(predictor, record) for record in predicted):
            return calibration, predictor
    return None


def _calibrations(store: Store, name: str) -> Iterator[Calibration]:
    """The study's calibration, then those in the cache, the latest first."""
    own = StudyState.of(store, name).read(CALIBRATION)
    if own is not None:
        yield own
    cached = sorted((store.cache / "latency").glob("latency-*.json"), key=lambda path: -path.stat().st_mtime)
    for document in filter(None, map(read_json, cached)):
        with suppress(ValueError):  # of another version
            yield Calibration.from_json(document)


def _agrees(predictor: LatencyPredictor, record: TrialRecord) -> bool:
    assert record.spec is not None and record.predicted_latency_ms is not None
    return math.isclose(predictor.predict(record.spec), record.predicted_latency_ms, rel_tol=_SAME_RTOL)
