# SPDX-License-Identifier: Apache-2.0
"""The surrogate model of a problem, which predicts the final errors of trials and points from a study's trials.

A `Surrogate` is fitted to the current trials at every call and returns a `Posterior`: the front, a Gaussian process
over the learning curves, and expected hypervolume improvements. Sampler and pruner share one surrogate, so
that they agree, and share its caches.

Hyperparameters are fitted again whenever the number of ended trials has grown by half, to the first of these trials by
number: a posterior depends on the trials alone, not on earlier calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.optimiser.encoding import UnitCube
from search.optimiser.failure_model import FailureModel
from search.optimiser.known_costs import N_RANDOM, KnownCosts
from search.optimiser.learning_curves import CurveModel, Scales, fit_scales
from search.optimiser.observations import Observation, columns_of, curves_of, limit_observations
from search.optimiser.posterior import Posterior
from search.optimiser.problem import Params, Problem

Array = npt.NDArray[np.float64]

FIRST_FIT = 6  # ended trials
FIT_GROWTH = 1.5
AT_AN_END = 0.02  # share of the range of costs that counts as being at its end


class Surrogate:
    """The surrogate model of one problem, with caches between calls."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        """The problem."""
        self.costs = KnownCosts(problem)
        """Cache of the costs of points."""
        self._cube: tuple[dict[str, BaseDistribution], UnitCube] | None = None
        self._fitted: dict[bytes, Scales] = {}
        self._model: CurveModel | None = None
        self._ended: dict[tuple[str, int], tuple[FrozenTrial, Observation | None]] = {}

    def posterior(
        self,
        study: optuna.Study,
        *,
        asking: int | None = None,
        judging: int | None = None,
        measured_only: bool = False,
    ) -> Posterior | None:
        """The posterior given a study's trials; None as long as no trial has reported.

        The trial that is `asking` for a point is left out. The other running trials count as complete with their
        predicted error (as in the kriging believer), so that the next points are proposed elsewhere; not so the trial
        `judging`, which is compared with new points. With `measured_only` nothing is imputed.

        Raises ValueError if the problem cannot be read from the study.
        """
        self.problem.check_study(study)
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != asking and trial.params]
        cube = self._cube_of(distributions(study))
        tried = frozenset(cube.coordinates(trial.params).tobytes() for trial in trials)
        superseded = self.problem.superseded(trials)
        trials = [trial for trial in trials if trial.number not in superseded]
        seen = [one for trial in trials if (one := self._observe_cached(study, trial)) is not None]
        observed = limit_observations([one for one in seen if one.log_errors])
        if not observed:
            return None
        # Running trials come last, so that the factorisation can be extended.
        observed.sort(key=lambda one: one.ended or (math.inf, one.number))
        inputs, rungs = self.costs.inputs(cube), self.problem.rungs
        scales = self._scales(cube, [one for one in seen if one.ended is not None])
        curves = curves_of(observed, inputs, rungs)
        model = CurveModel(curves, scales, before=self._model)
        running = {one.number for one in seen if one.ended is None and not measured_only} - {judging}
        if running:
            waiting = [one for one in seen if not one.log_errors and one.number in running]
            points = columns_of(waiting, inputs)
            means = [*model.means_of_trials(), *model.means_of_new(points)]
            imputed = [i for i, one in enumerate((*observed, *waiting)) if one.number in running]
            model = CurveModel(curves.with_final(points, imputed, [means[i] for i in imputed]), scales, before=model)
            observed = [
                one.finished(float(mean), rungs[-1]) if one.number in running else one
                for one, mean in zip((*observed, *waiting), means, strict=True)
            ]
        self._model = model
        return Posterior(
            self.problem,
            costs=self.costs,
            inputs=inputs,
            trials=observed,
            model=model,
            failures=self._failures(cube, trials),
            tried=tried,
        )

    def initial_point(self, study: optuna.Study, generator: np.random.Generator, *, asking: int) -> Params:
        """A startup point: the costliest below the worst cost, then the cheapest, then random ones.

        Empty before the first trial, and if no point costs less than the worst cost. Both ends come first, because the
        front spans the range of costs, and the model extrapolates poorly.
        """
        others = [trial for trial in study.get_trials(deepcopy=False) if trial.number != asking and trial.params]
        if not others:
            return {}
        limit = math.inf if self.problem.worst_cost is None else self.problem.worst_cost
        cube = self._cube_of(distributions(study))
        costs, coordinates = self.costs.of(cube, cube.random(generator, N_RANDOM))
        counts = costs < limit
        if not counts.any():
            return {}
        costs, coordinates = costs[counts], coordinates[counts]
        seen = [cost for trial in others if (cost := self.problem.cost(trial.params)) is not None and cost < limit]
        near = AT_AN_END * float(np.ptp(costs))
        if max(seen, default=-math.inf) < np.max(costs) - near:
            chosen = int(np.argmax(costs))
        elif min(seen) > np.min(costs) + near:
            chosen = int(np.argmin(costs))
        else:
            chosen = 0
        return cube.point(coordinates[chosen])

    def _cube_of(self, found: dict[str, BaseDistribution]) -> UnitCube:
        """The cube of these dimensions; the last one is cached."""
        if self._cube is None or self._cube[0] != found:
            self._cube = found, UnitCube(found)
        return self._cube[1]

    def _failures(self, cube: UnitCube, trials: Sequence[FrozenTrial]) -> FailureModel:
        """The failure model, fitted to the trials that failed and to those that reported."""
        failed, curve = self.problem.failed, self.problem.curve
        judged = [trial for trial in trials if failed(trial) or curve(trial)]
        columns = cube.columns(np.array([cube.coordinates(trial.params) for trial in judged]))
        return FailureModel(columns, np.array([failed(trial) for trial in judged]))

    def _observe_cached(self, study: optuna.Study, trial: FrozenTrial) -> Observation | None:
        """`_observe`, cached for trials that have ended."""
        if not trial.state.is_finished():
            return self._observe(trial)
        key = study.study_name, trial.number
        known = self._ended.get(key)
        if known is None or known[0] is not trial:
            known = self._ended[key] = trial, self._observe(trial)
        return known[1]

    def _observe(self, trial: FrozenTrial) -> Observation | None:
        """The observation of a trial; None if it ended without a report, or if its point has no cost."""
        errors = sorted(self.problem.curve(trial).items())
        log_errors = {step: math.log(error) for step, error in errors if math.isfinite(error) and error > 0.0 < step}
        if not log_errors and trial.state is not TrialState.RUNNING:
            return None
        cost = self.problem.cost(trial.params)
        if cost is None:
            return None
        ended = None if trial.datetime_complete is None else (trial.datetime_complete.timestamp(), trial.number)
        return Observation(
            number=trial.number,
            point=trial.params,
            cost=cost,
            log_errors=log_errors,
            ended=ended,
            complete=trial.state is TrialState.COMPLETE and self.problem.rungs[-1] in log_errors,
            failed=trial.state is TrialState.FAIL,
        )

    def _scales(self, cube: UnitCube, ended: list[Observation]) -> Scales:
        """Hyperparameters, fitted to the first ended trials by number."""
        n = FIRST_FIT
        if len(ended) < n:
            return Scales.prior(len(cube.names) + 1)
        while int(FIT_GROWTH * n) <= len(ended):
            n = int(FIT_GROWTH * n)
        curves = curves_of(ended[:n], self.costs.inputs(cube), self.problem.rungs)
        key = curves.points.tobytes() + curves.log_errors.tobytes()
        if key not in self._fitted:
            self._fitted[key] = fit_scales(curves)
        return self._fitted[key]


def distributions(study: optuna.Study) -> dict[str, BaseDistribution]:
    """Distributions of the dimensions of all trials of a study, by name; the latest if they differ."""
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found.update(trial.distributions)
    return found
