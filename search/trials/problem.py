# SPDX-License-Identifier: Apache-2.0
"""A study's outlook: points to latencies, trials to curves, and the sampler that gives a twin its point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from search.optimiser.surrogate import Outlook
from search.records.objective import Objective
from search.records.trial import TrialState
from search.trials.journal import CONTINUES, FAILED, NUMBER, RECORD
from search.trials.points import active_point
from spaces.dimensions import DIMENSIONS
from spaces.domain import Real, Value
from spaces.space import Space
from spaces.student import StudentSpec


def outlook_of(
    *,
    space: Space,
    teacher: StudentSpec,
    rungs: Sequence[int],
    predict: Callable[[StudentSpec], float],
    limit_ms: float,
    objective: Objective,
) -> Outlook:
    """Cost is log2 of the predicted milliseconds; a point that cannot be built or is not below the limit has none.

    Students count by the log2 of their error, as in `search.records.score`, and up to a doubling of latency beyond
    the limit: one that is hardly faster than the teacher would else have no width, and nobody would look for it.
    """

    def cost(point: Mapping[str, Value]) -> float | None:
        try:
            spec, _ = space.decode(dict(point), teacher)
        except ValueError:
            return None
        latency_ms = predict(spec)
        return math.log2(latency_ms) if latency_ms < limit_ms else None

    return Outlook(
        rungs=rungs,
        cost=cost,
        error=objective.error,
        curve=lambda trial: _fidelities(trial, rungs, objective),
        active=lambda point: active_point(point, space),
        decides=lambda name: not (isinstance(space.domains[name], Real) and _is_dose(name)),
        failed=_failed,
        superseded=_superseded,
        worst_cost=worst_cost(limit_ms) if math.isfinite(limit_ms) else None,
        in_halvings=True,
    )


def worst_cost(limit_ms: float) -> float:
    """Up to where latency counts: log2 of the milliseconds, a doubling beyond the limit."""
    return math.log2(limit_ms) + 1.0


class GivenPoint(optuna.samplers.RandomSampler):
    """Proposes a given point."""

    def __init__(self, point: Mapping[str, Value]) -> None:
        """Of every dimension that will be asked for."""
        super().__init__()
        self._point = point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The point's value."""
        return self._point[param_name]


def _is_dose(name: str) -> bool:
    """Whether a dimension is a number of the recipe, such as a rate or a loss's weight."""
    return not DIMENSIONS[name].structural


def _failed(trial: FrozenTrial) -> bool:
    """Whether a trial, or a twin's trial, failed, and was not merely interrupted or put off."""
    record = trial.user_attrs.get(RECORD)
    return FAILED in trial.user_attrs if record is None else bool(record["state"] == TrialState.FAILED)


def _superseded(trials: Sequence[FrozenTrial]) -> frozenset[int]:
    """Trials, or twins, whose curve another has taken over: by number."""
    begun = [trial.user_attrs for trial in trials if RECORD in trial.user_attrs or NUMBER in trial.user_attrs]
    continued = {attributes[CONTINUES] for attributes in begun if CONTINUES in attributes}
    return frozenset(trial.number for trial in trials if trial.user_attrs.get(NUMBER, trial.number) in continued)


def _fidelities(trial: FrozenTrial, rungs: Sequence[int], objective: Objective) -> Mapping[int, float]:
    """By rung, of a twin or of a trial with a record."""
    if RECORD not in trial.user_attrs:
        return trial.intermediate_values
    measured = trial.user_attrs[RECORD]["rungs"]
    return {target: objective.of_json(rung["fidelity"]) for target, rung in zip(rungs, measured, strict=False)}
