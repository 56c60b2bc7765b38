# SPDX-License-Identifier: Apache-2.0
"""Runs the trials of a prepared study: makes a `TrialPlan` from the study and passes it to Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from search.records.objective import objective_of
from search.records.trial import Observer, TrialRecord
from search.trials.plan import TrialPlan
from search.trials.ray_tune import run_trials
from search.trials.work import DistillationWork
from spaces.objective import ObjectiveSpec
from spaces.space import Point
from spaces.study.spec import StudySpec, space_to_json

if TYPE_CHECKING:
    from search.storage.store import Store
    from search.study.prepare import Prepared


def search_trials(
    study: StudySpec,
    prepared: Prepared,
    *,
    store: Store,
    address: str | None = None,
    deadline: float | None = None,
    observers: Sequence[Observer] = (),
    fastest_first: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrialRecord, ...]:
    """Runs the trials of a prepared study; returns all of them by number, those of earlier commands included.

    `address` is a Ray cluster's, None for this machine. `deadline` is a time of `time.monotonic`: no trial begins that
    cannot be expected to end before it, and running ones end at the last rung before it, to be continued by the next
    run. `fastest_first` tries the initial points by rising predicted latency instead of in their order. `say` is told
    why a search ended before its trials or its time were used up. Raises KeyboardInterrupt after a Ctrl-C, once
    everything measured is stored; ValueError if the store holds a study of this name that is not comparable, or if
    another search is writing it.
    """
    plan = plan_of(study, prepared, store=store)
    if fastest_first:
        plan = replace(plan, initial_points=_by_latency(plan))
    work = DistillationWork(prepared.inheritance, prepared.data, device=prepared.device)
    return run_trials(
        plan,
        work,
        n_workers=study.search.n_workers,
        address=address,
        deadline=deadline,
        observers=observers,
        n_object_bytes=work.n_bytes,
        say=say,
    )


def plan_of(study: StudySpec, prepared: Prepared, *, store: Store) -> TrialPlan:
    """The `TrialPlan` of a study: its space, rungs, objective, sampler, pruner and limits."""
    return TrialPlan(
        name=study.name,
        folder=store.study_folder(study.name),
        space=study.space,
        teacher=prepared.teacher.spec,
        rungs=study.search.rungs,
        predict=prepared.predictor.predict,
        objective=objective_of(study.objective),
        seed=study.search.seed,
        n_trials=study.search.n_trials,
        n_startup_trials=study.search.n_startup_trials,
        sampler=study.search.sampler,
        pruner=study.search.pruner,
        prune_ratio=study.search.prune_ratio,
        rung_time_limit_s=study.search.rung_time_limit_s,
        trial_memory_gib=study.search.trial_memory_gib,
        initial_points=study.initial_points,
        identity=identity_of(study, prepared.identity),
    )


def _by_latency(plan: TrialPlan) -> tuple[Point, ...]:
    """The initial points by rising predicted latency."""

    def latency_ms(point: Point) -> float:
        try:
            return plan.predict(plan.space.decode(point, plan.teacher)[0])
        except ValueError:  # cannot be built: the trial is refused
            return math.inf

    return tuple(sorted(plan.initial_points, key=latency_ms))


def identity_of(study: StudySpec, prepared: Mapping[str, str]) -> dict[str, Any]:
    """What a study's trials must agree in to be comparable, as JSON values; `prepared` is `Prepared.identity`.

    The default objective is left out, so that studies from before there was a choice keep their identity.
    """
    identity = {
        "space": space_to_json(study.space),
        "rungs": list(study.search.rungs),
        "profile": study.profile.to_json(),
        "teacher_weights": [teacher.weight for teacher in study.teachers],
        **prepared,
    }
    return identity if study.objective == ObjectiveSpec() else identity | {"objective": study.objective.to_json()}
