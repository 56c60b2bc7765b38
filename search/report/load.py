# SPDX-License-Identifier: Apache-2.0
"""A search as its journal holds it: trials with their times, the space, and the latencies that it predicted.

Everything is read from the study's folder, whether its search has ended, was killed or runs. The latency predictor is
fitted again to the study's calibration and must predict what the trials' records say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
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

_SAME = 1e-3  # relative difference of two predictions that mean the same predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSearch:
    """What a journal tells."""

    study: optuna.Study
    """Of latency and fidelity; to be read alone."""
    space: Space
    """What was searched."""
    objective: Objective
    """What fidelity means."""
    rungs: tuple[int, ...]
    """Training tokens."""
    trials: tuple[TimedTrial, ...]
    """All that have a record, by number."""
    teacher: StudentSpec | None
    """None if nothing in the store tells it."""
    predictor: LatencyPredictor | None
    """None if the calibration is gone or another version predicted."""

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """Of all trials, by number."""
        return tuple(trial.record for trial in self.trials)

    @property
    def teacher_latency_ms(self) -> float | None:
        """As the search predicted it."""
        if self.predictor is None or self.teacher is None:
            return None
        return self.predictor.predict(self.teacher)

    def posterior(self) -> Posterior | None:
        """The surrogate model given all that was measured; None if that is nothing, or if the teacher is unknown.

        Without the search's predictor it knows the latencies of tried students alone.
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
    """The search of study `name`; None if there is none, or none that this version can read.

    `teacher` is used if the study's calibration does not tell it.
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
    trials = _timed(study, folder)
    found = _calibrated(store, name, profile=identity.get("profile"), records=[trial.record for trial in trials])
    calibration, predictor = found if found is not None else (None, None)
    return RecordedSearch(
        study=study,
        space=space,
        objective=objective,
        rungs=rungs,
        trials=trials,
        teacher=teacher if calibration is None else calibration.points[0].spec,
        predictor=predictor,
    )


def _space_of(document: Any) -> Space | None:
    """The space that the identity of a study wrote down."""
    if not isinstance(document, dict):
        return None
    problems = Problems()
    try:
        return read_space(compose(json.dumps(document), origin="space"), "space", problems=problems)
    except StudyError:
        return None


def _timed(study: optuna.Study, folder: Path) -> tuple[TimedTrial, ...]:
    found: dict[int, TimedTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        record = record_of(trial, folder)
        if record is None or trial.datetime_start is None:
            continue
        killed = trial.user_attrs[RECORD]["state"] == TrialState.RUNNING.value  # a later search told its end, or none
        told = None if killed or trial.datetime_complete is None else trial.datetime_complete.timestamp()
        before = None if record.continues is None else found.get(record.continues)
        found[record.number] = TimedTrial.of(
            record, None if before is None else before.record, started=trial.datetime_start.timestamp(), told=told
        )
    return tuple(found.values())


def _calibrated(
    store: Store, name: str, *, profile: Any, records: Sequence[TrialRecord]
) -> tuple[Calibration, LatencyPredictor] | None:
    """The calibration and the predictor that the trials' latencies come from."""
    told = [record for record in records if record.spec is not None and record.predicted_latency_ms is not None]
    for calibration in _calibrations(store, name):
        if calibration.profile.to_json() != profile:
            continue
        predictor = LatencyPredictor.fit(calibration)
        if all(_agrees(predictor, record) for record in told):
            return calibration, predictor
    return None


def _calibrations(store: Store, name: str) -> Iterator[Calibration]:
    """The study's own, then those in the cache, the latest first."""
    own = StudyState.of(store, name).read(CALIBRATION)
    if own is not None:
        yield own
    cached = sorted((store.cache / "latency").glob("latency-*.json"), key=lambda path: -path.stat().st_mtime)
    for document in filter(None, map(read_json, cached)):
        with suppress(ValueError):  # of another version
            yield Calibration.from_json(document)


def _agrees(predictor: LatencyPredictor, record: TrialRecord) -> bool:
    assert record.spec is not None and record.predicted_latency_ms is not None
    return math.isclose(predictor.predict(record.spec), record.predicted_latency_ms, rel_tol=_SAME)
