# SPDX-License-Identifier: Apache-2.0
"""A sampler by expected hypervolume improvement with known costs.

For studies whose trials report an error and whose second objective, a cost, is a known function of the point. A study
begins with both ends of the range of costs and a few random points. Then candidates (random points, and mutations of
trials near the front) are evaluated by a Gaussian process over all learning curves, those of pruned and running trials
included (`search.optimiser.surrogate`), and the one with the largest expected gain in hypervolume is proposed. A point
depends on the seed, its number and the trials before it, so an interrupted search continues as if it had not been.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from search.optimiser.problem import Params
from search.optimiser.surrogate import Surrogate, distributions

N_RANDOM = 400
N_NEAR = 200
N_ROUNDS = 3


class FrontSampler(optuna.samplers.BaseSampler):
    """Proposes the point with the largest expected hypervolume improvement under known costs."""

    def __init__(self, surrogate: Surrogate, *, seed: int = 0, n_startup_trials: int = 5) -> None:
        """Before `n_startup_trials` have begun it proposes `Surrogate.initial_point`, the very first at random.

        Raises ValueError if that is negative.
        """
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must not be negative, got {n_startup_trials}")
        self._surrogate = surrogate
        self._seed = seed
        self._n_startup_trials = n_startup_trials

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions of earlier trials."""
        return distributions(study)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the best candidate, or of the initial point for a startup trial; random ones without either."""
        point = self._proposal(study, trial) if search_space else {}
        if not point:
            return {
                name: self.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
        return {name: value for name, value in point.items() if name in search_space}

    def _proposal(self, study: optuna.Study, trial: FrozenTrial) -> Params:
        """The point with the largest expected gain; empty if no trial has reported, or no new point is found."""
        generator = np.random.default_rng([self._seed, trial.number])
        if trial.number < self._n_startup_trials:
            return self._surrogate.initial_point(study, generator, asking=trial.number)
        posterior = self._surrogate.posterior(study, asking=trial.number)
        if posterior is None:
            return {}
        candidates = posterior.candidates(generator, n_random=N_RANDOM, n_near=N_NEAR, n_rounds=N_ROUNDS)
        if not len(candidates.gains):
            return {}
        return posterior.cube.point(candidates.coordinates[int(np.argmax(candidates.gains))])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for the first trial and for dimensions that no earlier trial had."""
        state = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(param_name.encode())])
        sampler = optuna.samplers.RandomSampler(seed=int(state.generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
