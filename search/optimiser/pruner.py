# SPDX-License-Identifier: Apache-2.0
"""Pruning by expected hypervolume improvement per step.

At a rung, the surrogate model of all learning curves (`search.optimiser.surrogate`) gives the trial's expected gain in
hypervolume if it is trained to the end, and that of the best new point. A trial is pruned if

    gain of a new point per step  >=  prune_ratio * gain of the trial per step that it has left,

where the gain of a new point per step is its gain, times the number of complete trials, divided by the steps that were
spent on all trials: new points may be pruned as well. So if nearly all trials are pruned, new points are worth little.

A trial is pruned only if another trial of no more cost, which has reported at that rung, is predicted to end with a
smaller error. So the cheapest trial is never pruned, and none is because of a trial that has reported nothing.
"""

from __future__ import annotations

import math

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from search.optimiser.posterior import Posterior
from search.optimiser.surrogate import Surrogate

N_RANDOM = 100
N_NEAR = 100


class FrontPruner(optuna.pruners.BasePruner):
    """Prunes trials whose expected hypervolume improvement per remaining step is too small."""

    def __init__(self, surrogate: Surrogate, *, prune_ratio: float = 4.0, n_startup_trials: int = 5) -> None:
        """A trial is pruned if a new point has `prune_ratio` times its expected gain per step, and more than
        `n_startup_trials` trials, itself included, have reported.

        Raises ValueError on a value outside its range.
        """
        if not prune_ratio > 0.0:
            raise ValueError(f"prune_ratio must be positive, got {prune_ratio}; the default is 4")
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must not be negative, got {n_startup_trials}")
        self._surrogate = surrogate
        self._prune_ratio = prune_ratio
        self._n_startup_trials = n_startup_trials

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is pruned at the last rung that it reported."""
        return bool(self.dominators(study, trial))

    def dominators(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """The trials that are predicted to beat this one, least error first, if it is pruned; empty if it goes on."""
        problem = self._surrogate.problem
        curve = problem.curve(trial)
        if not curve or not trial.params:
            return []
        step = max(curve)
        if step >= problem.rungs[-1] or not math.isfinite(curve[step]):
            return []  # NaN is a failure, which the caller records
        posterior = self._surrogate.posterior(study, judging=trial.number)
        if posterior is None or len(posterior.trials) <= self._n_startup_trials:
            return []
        trials = study.get_trials(deepcopy=False)
        predicted = (trials[number] for number in _predicted_better(posterior, trial.number))
        ahead = [rival for rival in predicted if self._reported_at(rival, step)]
        gain_per_step = posterior.gain(trial.number) / (problem.rungs[-1] - step) if ahead else math.inf
        return ahead if gain_per_step < self._least_gain_per_step(posterior, trial.number) else []

    def _reported_at(self, trial: FrozenTrial, step: int) -> bool:
        """Whether a trial has reported at a step or a later one."""
        return max(self._surrogate.problem.curve(trial), default=0) >= step

    def _least_gain_per_step(self, posterior: Posterior, number: int) -> float:
        """Expected gain per step below which a trial is pruned."""
        generator = np.random.default_rng([number, len(posterior.trials)])
        candidates = posterior.candidates(generator, n_random=N_RANDOM, n_near=N_NEAR, n_rounds=1)
        if not len(candidates.gains):
            return 0.0
        ended = [trial for trial in posterior.trials if trial.ended is not None]
        n_steps = self._surrogate.problem.rungs[-1] + sum(max(trial.log_errors) for trial in ended)
        n_complete = 1 + sum(trial.complete for trial in ended)
        return float(np.max(candidates.gains)) * n_complete / n_steps / self._prune_ratio


def _predicted_better(posterior: Posterior, number: int) -> list[int]:
    """Numbers of the trials of no more cost that are predicted to end with less error, least error first.

    A trial that failed is not among them: it may be the one that this trial continues.
    """
    i = posterior.index_of.get(number)
    if i is None:
        return []
    trials, means = posterior.trials, posterior.means
    ahead = [
        (means[j], other.number)
        for j, other in enumerate(trials)
        if j != i and not other.failed and other.cost <= trials[i].cost and means[j] < means[i]
    ]
    return [number for _, number in sorted(ahead)]
