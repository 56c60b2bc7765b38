# SPDX-License-Identifier: Apache-2.0
"""The posterior given a study's trials: predicted errors, expected hypervolume improvement, candidates.

`search.optimiser.surrogate` makes posteriors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.optimiser.encoding import ModelInputs, UnitCube
from search.optimiser.failure_model import FailureModel
from search.optimiser.hypervolume_improvement import ParetoFront
from search.optimiser.known_costs import KnownCosts
from search.optimiser.learning_curves import CurveModel, fit_scales
from search.optimiser.observations import Observation, curves_of
from search.optimiser.problem import Problem

Array = npt.NDArray[np.float64]

REFERENCE_QUANTILE = 0.9


@dataclass(frozen=True, slots=True)
class Candidates:
    """Untried points with their predictions."""

    coordinates: Array
    """Points x dimensions, see `UnitCube`; NaN where a dimension is not active."""
    gains: Array
    """Expected hypervolume improvement if trained to the end, times the probability of not failing.

    The deviation between trials at the same point is left out: it cannot be optimised.
    """
    costs: Array
    """Costs, which are known before training."""
    means: Array
    """Means of the final log errors."""
    deviations: Array
    """Standard deviations of the final log errors, including the deviation between trials at the same point."""


class Posterior:
    """The posterior given the trials of a study at one time."""

    def __init__(
        self,
        problem: Problem,
        *,
        costs: KnownCosts,
        inputs: ModelInputs,
        trials: list[Observation],
        model: CurveModel,
        failures: FailureModel,
        tried: frozenset[bytes],
    ) -> None:
        """`trials` are those of the model's curves, in their order; `tried` are coordinates that are not proposed."""
        self._problem = problem
        self._costs = costs
        self._inputs = inputs
        self._tried = tried
        self.trials = trials
        """Observations; running trials are completed with their predicted final errors."""
        self.means, self.deviations = model.of_trials()
        """Means and standard deviations of the final log errors of `trials`."""
        self._model = model
        self._failures = failures
        self._reference = self._reference_point()
        self.index_of = {trial.number: i for i, trial in enumerate(trials)}
        """Index in `trials` by the trial's number."""
        self.complete = [trial for trial in trials if trial.complete]
        self.front = self.front_with(self.complete)
        """The front of the complete trials, up to the reference point."""

    @property
    def cube(self) -> UnitCube:
        """The space of the points."""
        return self._inputs.cube

    def front_with(self, complete: Sequence[Observation]) -> ParetoFront:
        """The front of some complete trials, up to the reference point."""
        last = self._problem.rungs[-1]
        points = [(trial.cost, math.exp(trial.log_errors[last])) for trial in complete]
        return ParetoFront.of(points, self._reference, log2_error=self._problem.log2_error)

    def _reference_point(self) -> tuple[float, float]:
        """The reference point of the hypervolume: (worst cost, worst error)."""
        costs = self._inputs.random_costs
        means = self._model.means_of_new(self._inputs.random_columns) if len(costs) else self.means
        worst_cost = self._problem.worst_cost
        if worst_cost is None:
            largest = max([*costs.tolist(), *(trial.cost for trial in self.trials)])
            worst_cost = largest + 1e-6 * abs(largest) + 1e-9
        return worst_cost, math.exp(float(np.quantile(means, REFERENCE_QUANTILE)))

    def gain(self, number: int) -> float:
        """Expected hypervolume improvement if the trial with this number is trained to the end."""
        i = self.index_of[number]
        front = self.front_with([trial for trial in self.complete if trial.number != number])
        costs = np.array([self.trials[i].cost])
        return float(front.expected_improvement(costs, self.means[[i]], self.deviations[[i]])[0])

    def draws(
        self,
        coordinates: Array,
        costs: Array,
        generator: np.random.Generator,
        *,
        n_models: int,
        n_each: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Array:
        """Draws (draws x points) of functions that map points to final log errors.

        Arguments are coordinates (points x dimensions) and costs (points; NaN where not known). `n_each` are drawn from
        this posterior's model, and from each of `n_models` others that are fitted to two thirds of the trials, so
        that draws reflect the posterior's uncertainty and the choice of trials (as in subsampling). `progress` is told
        (done, total) models.
        """
        columns, found = self._inputs.columns(coordinates, costs), []
        for model in (self._model, *(self._fitted_to_subset(generator) for _ in range(n_models))):
            found.append(model.draws(columns, generator, n_each))
            progress(len(found), n_models + 1)
        return np.concatenate(found)

    def _fitted_to_subset(self, generator: np.random.Generator) -> CurveModel:
        n = len(self.trials)
        kept = np.sort(generator.choice(n, max(1, round(2 * n / 3)), replace=False))
        curves = curves_of([self.trials[i] for i in kept], self._inputs, self._problem.rungs)
        return CurveModel(curves, fit_scales(curves))

    def r_squared(self) -> float | None:
        """R squared of the leave-one-out predictions of complete trials' log errors.

        At most 1, and below 0 if they are predicted worse than by their mean; None for fewer than 3, or equal ones.
        """
        complete = np.array([trial.complete for trial in self.trials])
        measured = np.array([trial.last for trial in self.trials])[complete]
        n = len(measured)
        if n < 3 or np.ptp(measured) < 1e-9:
            return None
        around_mean = (measured - measured.mean()) * n / (n - 1)  # each from the mean of the others
        missed = measured - self._model.leave_one_out()[complete]
        return float(1.0 - np.sum(missed**2) / np.sum(around_mean**2))

    def candidates(self, generator: np.random.Generator, *, n_random: int, n_near: int, n_rounds: int) -> Candidates:
        """Random points, mutations of trials near the front and, in later rounds, of the best candidates so far."""
        found = self._evaluated(self.cube.random(generator, n_random))
        parents = np.array([self.cube.coordinates(self.trials[i].point) for i in self._near_front()])
        for _ in range(n_rounds):
            found = _joined(found, self._evaluated(self.cube.mutated(generator, parents, n_near)))
            if len(found.gains):
                parents = found.coordinates[np.argsort(-found.gains, kind="stable")[:8]]
        return found

    def _near_front(self) -> list[int]:
        """Indexes of trials on the front or at most one standard deviation above it: 4 to 24, if there are so many."""
        heights = np.array([self.front.heights[self.front.step(trial.cost)] for trial in self.trials])
        above = (self.means - np.log(heights)) / np.maximum(self.deviations, 0.05)
        order = np.argsort(above, kind="stable")
        n = max(4, int(np.sum(above <= 1.0)))
        return [int(i) for i in order[: min(n, 24)]]

    def _evaluated(self, coordinates: Array) -> Candidates:
        costs, coordinates = self._costs.of(self.cube, coordinates)
        new = [i for i, row in enumerate(coordinates) if row.tobytes() not in self._tried and not math.isnan(costs[i])]
        costs, coordinates = costs[new], coordinates[new]
        if not new:
            return Candidates(coordinates, *(np.empty(0) for _ in range(4)))
        means, decided = self._model.of_new(self._inputs.columns(coordinates, costs))
        gains = self.front.expected_improvement(costs, means, decided)
        gains *= 1.0 - self._failures.probability(self.cube.columns(coordinates))
        return Candidates(coordinates, gains, costs, means, np.hypot(decided, self._model.trial_noise))


def _joined(first: Candidates, second: Candidates) -> Candidates:
    return Candidates(
        np.concatenate([first.coordinates, second.coordinates]),
        np.concatenate([first.gains, second.gains]),
        np.concatenate([first.costs, second.costs]),
        np.concatenate([first.means, second.means]),
        np.concatenate([first.deviations, second.deviations]),
    )
