# SPDX-License-Identifier: Apache-2.0
"""Prepares the Optuna study when a search opens it, after an earlier search that may have been killed.

In this order: the study must have the same identity (`claim_identity`); trials that are still running are ended
(`end_running_trials`); interrupted trials, then untried initial points, are enqueued (`enqueue`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import replace

import optuna
from optuna.trial import TrialState as OptunaState

from search.records.trial import TrialRecord, TrialState
from search.trials.identity import IDENTITY, require_identity
from search.trials.journal import CONTINUES, INITIAL, occupies_its_point, record_of, tell
from search.trials.plan import TrialPlan
from search.trials.points import initial_point


def claim_identity(study: optuna.Study, plan: TrialPlan) -> None:
    """Writes the plan's identity into a study that lacks it. Raises ValueError if the study was begun with another.

    A new study gets the names of its objectives, too, which Optuna's dashboard and plots show.
    """
    wanted = json.loads(json.dumps(dict(plan.identity)))
    stored = study.user_attrs.get(IDENTITY)
    require_identity(stored or {}, plan)
    if stored is None or {*wanted} - {*stored}:
        study.set_user_attr(IDENTITY, {**(stored or {}), **wanted})
    if stored is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_ms", plan.objective.name])


def end_running_trials(study: optuna.Study, plan: TrialPlan) -> None:
    """Ends the trials that a killed search left running: COMPLETE if all rungs are measured, else FAIL."""
    for trial in study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
        record = record_of(trial, plan.folder)
        if record is None:
            study.tell(trial.number, state=OptunaState.FAIL)
        elif record.state is TrialState.RUNNING:
            state = TrialState.COMPLETE if len(record.rungs) == len(plan.rungs) else TrialState.INTERRUPTED
            tell(study, trial.number, replace(record, state=state), plan.objective)
        else:
            tell(study, trial.number, record, plan.objective)


def enqueue(study: optuna.Study, plan: TrialPlan, records: Iterable[TrialRecord]) -> None:
    """Enqueues continuations of interrupted trials, then initial points, unless there is a trial for them already."""
    interrupted = [record for record in records if record.state is TrialState.INTERRUPTED]

    def left() -> list[TrialRecord]:
        continued = {trial.user_attrs.get(CONTINUES) for trial in _occupying(study)}
        return [record for record in interrupted if record.number not in continued]

    if left():
        for _ in study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            study.tell(study.ask(), state=OptunaState.FAIL)  # enqueued again below, behind the continuations
    tried = {trial.user_attrs.get(INITIAL) for trial in _occupying(study)}
    for record in left():
        study.enqueue_trial(record.point, user_attrs={CONTINUES: record.number})
    for point in plan.initial_points:
        text = json.dumps(dict(point), sort_keys=True)
        if text not in tried:
            tried.add(text)
            filled = initial_point(point, plan.space, plan.teacher)
            study.enqueue_trial(filled, user_attrs={INITIAL: text})


def _occupying(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that are waiting or running, or have a record."""
    return [trial for trial in study.get_trials(deepcopy=False) if occupies_its_point(trial)]
