# SPDX-License-Identifier: Apache-2.0
"""What a study's trials let one expect: of those that run, and of points that nobody tried.

An `Outlook` belongs to a problem: costs that are known before training, learning curves of an error. A `View` is what
it makes of the trials of one moment: the front, a model of the curves, and the gain in hypervolume that a trial or a
point can be expected to bring. The sampler and the pruner look at the same view, so they agree on what is promising.

Scales of the model are fitted anew whenever the number of ended trials has grown by half, to the earliest so many: a
view depends on the trials alone, not on the order in which they ended or on who has looked at them before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.optimiser.encoding import UnitCube
from search.optimiser.failure_model import FailureModel
from search.optimiser.learning_curves import CurveModel, Scales, fit_scales
from search.optimiser.model_inputs import ModelInputs
from search.optimiser.observations import Seen, as_many_as_fit, columns_of, curves_of
from search.optimiser.posterior import View

Array = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]
Params = Mapping[str, Any]

FIRST_FIT = 6  # ended trials
FIT_GROWTH = 1.5
N_REFERENCE = 256  # random points that a reference is taken from, and ends of the range of costs
AT_AN_END = 0.02  # of the range of costs
MOST_KNOWN = 10_000  # costs that are remembered


class Outlook:
    """A problem, and the views of its studies."""

    def __init__(
        self,
        *,
        rungs: Sequence[int],
        cost: Callable[[Params], float | None],
        error: Callable[[float], float] | None = None,
        curve: Callable[[FrozenTrial], Mapping[int, float]] | None = None,
        active: Callable[[Params], Params] = lambda point: point,
        decides: Callable[[str], bool] = lambda name: True,
        failed: Callable[[FrozenTrial], bool] = lambda trial: trial.state is TrialState.FAIL,
        superseded: Callable[[Sequence[FrozenTrial]], Collection[int]] = lambda trials: (),
        worst_cost: float | None = None,
        in_halvings: bool = False,
    ) -> None:
        """What is known of a problem before anything is trained.

        `rungs` are the steps at which trials report, the last one ends them. `cost` is a point's, to be minimised (a
        logarithm of time or size, say), and None if the point must not be tried; a point may lack a dimension that no
        trial had yet. `error` turns a reported value into a
        positive error, to be minimised. `curve` gives the reported values of a trial by step; by default those that it
        reported, and a complete trial's value at the last rung if it did not report there. `active` takes the part
        of a point that matters, in spaces with conditions. `decides` tells of a dimension whether costs and what is
        active depend on its value, and not only on whether that is the lowest: then few costs are asked for. `failed`
        says whether a trial failed for what its point is, `superseded` which trials others have taken over, by number.
        The hypervolume reaches to a bad error of random points, as
        believed, and to `worst_cost`, None for the largest of random points; it counts halvings of the error if
        `in_halvings`, so that a faithful student's last percent weighs as much as a poor one's last half.

        Raises ValueError unless the rungs are positive and rise.
        """
        if not rungs or rungs[0] < 1 or any(a >= b for a, b in pairwise(rungs)):
            raise ValueError(f"rungs must be positive and rise, got {tuple(rungs)}")
        self.rungs = tuple(rungs)
        self.cost = cost
        self.error = _same if error is None else error
        self._knows_error = error is not None
        self.curve = self._reported if curve is None else curve
        self.active = active
        self.decides = decides
        self.failed = failed
        self.superseded = superseded
        self.worst_cost = worst_cost
        self.in_halvings = in_halvings
        self._cube: tuple[dict[str, BaseDistribution], UnitCube] | None = None
        self._fitted: dict[bytes, Scales] = {}
        self._model: CurveModel | None = None
        self._ended: dict[tuple[str, int], tuple[FrozenTrial, Seen | None]] = {}
        self._known: dict[tuple[str, ...], dict[bytes, tuple[float, Booleans] | None]] = {}
        self._inputs: dict[tuple[str, ...], ModelInputs] = {}

    def view(
        self,
        study: optuna.Study,
        *,
        asking: int | None = None,
        judging: int | None = None,
        looking_back: bool = False,
    ) -> View | None:
        """The view of a study's trials; None as long as there is nothing to see.

        The trial that is `asking` for a point is left out. The other running trials count as finished with the error
        that is expected of them, so that the next points are looked for elsewhere; but not the one that is being
        judged, which is to be compared with what is new. `looking_back`, nothing counts but what was measured.
        """
        if study.directions == [StudyDirection.MAXIMIZE] and not self._knows_error:
            raise ValueError("an outlook minimises an error: give `error`, or create the study to minimise")
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != asking and trial.params]
        cube = self._cube_of(distributions(study))
        tried = frozenset(cube.coordinates(trial.params).tobytes() for trial in trials)
        superseded = self.superseded(trials)
        trials = [trial for trial in trials if trial.number not in superseded]
        seen = [one for trial in trials if (one := self._remembered(study, trial)) is not None]
        observed = as_many_as_fit([one for one in seen if one.log_errors])
        if not observed:
            return None
        observed.sort(key=lambda one: one.ended or (math.inf, one.number))  # what changes comes last
        inputs = self.inputs(cube)
        scales = self._scales(cube, [one for one in seen if one.ended is not None])
        curves = curves_of(observed, inputs, self.rungs)
        model = CurveModel(curves, scales, before=self._model)
        running = {one.number for one in seen if one.ended is None and not looking_back} - {judging}
        if running:
            waiting = [one for one in seen if not one.log_errors and one.number in running]
            points = columns_of(waiting, inputs)
            means = [*model.means_of_trials(), *model.means_of_new(points)]
            believed = [i for i, one in enumerate((*observed, *waiting)) if one.number in running]
            model = CurveModel(curves.ended(points, believed, [means[i] for i in believed]), scales, before=model)
            observed = [
                one.finished(float(mean), self.rungs[-1]) if one.number in running else one
                for one, mean in zip((*observed, *waiting), means, strict=True)
            ]
        self._model = model
        return View(self, inputs, observed, model, self._failures(cube, trials), tried)

    def start(self, study: optuna.Study, generator: np.random.Generator, *, asking: int) -> Params:
        """A point to begin with, while nothing but costs is known: of the costliest that count, of the cheapest, and
        then any that counts. Empty before the first trial, and if no point counts.

        A model knows little beyond the costs that it has seen, and the front has both ends.
        """
        others = [trial for trial in study.get_trials(deepcopy=False) if trial.number != asking and trial.params]
        if not others:
            return {}
        limit = math.inf if self.worst_cost is None else self.worst_cost
        cube = self._cube_of(distributions(study))
        costs, coordinates = self.costs(cube, cube.random(generator, N_REFERENCE))
        counts = costs < limit
        if not counts.any():
            return {}
        costs, coordinates = costs[counts], coordinates[counts]
        seen = [cost for trial in others if (cost := self.cost(trial.params)) is not None and cost < limit]
        near = AT_AN_END * float(np.ptp(costs))
        if max(seen, default=-math.inf) < np.max(costs) - near:
            chosen = int(np.argmax(costs))
        elif min(seen) > np.min(costs) + near:
            chosen = int(np.argmin(costs))
        else:
            chosen = 0
        return cube.point(coordinates[chosen])

    def _cube_of(self, found: dict[str, BaseDistribution]) -> UnitCube:
        """The cube of dimensions; the one that was made last, if it is that one."""
        if self._cube is None or self._cube[0] != found:
            self._cube = found, UnitCube(found)
        return self._cube[1]

    def inputs(self, cube: UnitCube) -> ModelInputs:
        """Of a model of points in a cube, the same ones in every view."""
        if cube.names not in self._inputs:
            costs, coordinates = self.costs(cube, cube.random(np.random.default_rng(0), N_REFERENCE))
            known = ~np.isnan(costs)
            self._inputs[cube.names] = ModelInputs(cube, coordinates[known], costs[known])
        return self._inputs[cube.names]

    def costs(self, cube: UnitCube, coordinates: Array) -> tuple[Array, Array]:
        """Of points (n x dimensions, none NaN): costs (n), NaN for none; coordinates, NaN for what is not active."""
        snapped = cube.snapped(coordinates)
        decides = np.array([self.decides(name) for name in cube.names], bool)
        keys = np.where(decides, snapped, snapped > 0.0)
        known = self._known.setdefault(cube.names, {})
        if len(known) > MOST_KNOWN:
            known.clear()
        costs = np.full(len(snapped), math.nan)
        for i, key in enumerate(map(np.ndarray.tobytes, keys)):
            if key not in known:
                point = self.active(cube.point(snapped[i]))
                cost = self.cost(point)
                known[key] = None if cost is None else (cost, np.array([name in point for name in cube.names]))
            found = known[key]
            if found is not None:
                costs[i] = found[0]
                snapped[i, ~found[1]] = math.nan
        return costs, snapped

    def _failures(self, cube: UnitCube, trials: Sequence[FrozenTrial]) -> FailureModel:
        """Of the trials that failed, and of those that came to something."""
        judged = [trial for trial in trials if self.failed(trial) or self.curve(trial)]
        columns = cube.columns(np.array([cube.coordinates(trial.params) for trial in judged]))
        return FailureModel(columns, np.array([self.failed(trial) for trial in judged]))

    def _remembered(self, study: optuna.Study, trial: FrozenTrial) -> Seen | None:
        """`_seen`, once for a trial that has ended."""
        if not trial.state.is_finished():
            return self._seen(trial)
        key = study.study_name, trial.number
        known = self._ended.get(key)
        if known is None or known[0] is not trial:
            known = self._ended[key] = trial, self._seen(trial)
        return known[1]

    def _reported(self, trial: FrozenTrial) -> Mapping[int, float]:
        last = self.rungs[-1]
        if trial.state is TrialState.COMPLETE and len(trial.values) == 1 and last not in trial.intermediate_values:
            return {**trial.intermediate_values, last: trial.values[0]}
        return trial.intermediate_values

    def _seen(self, trial: FrozenTrial) -> Seen | None:
        """What a trial shows; None if that is nothing, or if its point has no cost."""
        values = {step: self.error(value) for step, value in self.curve(trial).items() if math.isfinite(value)}
        log_errors = {step: math.log(error) for step, error in sorted(values.items()) if error > 0.0 and step > 0}
        if not log_errors and trial.state is not TrialState.RUNNING:
            return None
        cost = self.cost(trial.params)
        if cost is None:
            return None
        ended = None if trial.datetime_complete is None else (trial.datetime_complete.timestamp(), trial.number)
        complete = trial.state is TrialState.COMPLETE and self.rungs[-1] in log_errors
        failed = trial.state is TrialState.FAIL
        return Seen(trial.number, trial.params, cost, log_errors, ended, complete, failed)

    def _scales(self, cube: UnitCube, ended: list[Seen]) -> Scales:
        """Of trials by number."""
        n = FIRST_FIT
        if len(ended) < n:
            return Scales.prior(len(cube.names) + 1)
        while int(FIT_GROWTH * n) <= len(ended):
            n = int(FIT_GROWTH * n)
        curves = curves_of(ended[:n], self.inputs(cube), self.rungs)
        key = curves.points.tobytes() + curves.log_errors.tobytes()
        if key not in self._fitted:
            self._fitted[key] = fit_scales(curves)
        return self._fitted[key]


def distributions(study: optuna.Study) -> dict[str, BaseDistribution]:
    """Of all dimensions that any trial of a study ever had, by name; the latest where they changed."""
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found.update(trial.distributions)
    return found


def _same(value: float) -> float:
    return value
