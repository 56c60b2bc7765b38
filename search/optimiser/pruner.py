# SPDX-License-Identifier: Apache-2.0
"""Stops a trial when training a new point promises more for the same effort.

At a rung, a model of all learning curves (`search.optimiser.surrogate`) says what the trial can be expected to add to
the front if it is trained to the end, and what the best new point can. The trial is stopped if the new point's gain for
a step is `patience` times the trial's for each step that it has left. A new point's gain for a step counts what became
of earlier ones: it is the gain times the complete trials for each step that was spent on all. So a pruner that stops
everything soon expects little of new points, and lets trials go on.

A trial is stopped only if a trial of no more cost that got as far is believed to end with a smaller error: the cheapest
one never is, and none is for what is merely imagined of a trial that has shown nothing yet.
"""

from __future__ import annotations

import math

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from search.optimiser.posterior import View
from search.optimiser.surrogate import Outlook

N_RANDOM = 100
N_NEAR = 100


class FrontPruner(optuna.pruners.BasePruner):
    """Stops trials whose expected gain in hypervolume is not worth their remaining steps."""

    def __init__(self, outlook: Outlook, *, patience: float = 4.0, n_startup_trials: int = 5) -> None:
        """`patience`: how many times more a new point must promise. None is stopped until more than so many startup
        trials, itself included, have reported.

        Raises ValueError on a value outside its range.
        """
        if not patience > 0.0:
            raise ValueError(f"patience must be positive, got {patience}; 2 stops only trials that promise half")
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must not be negative, got {n_startup_trials}")
        self._outlook = outlook
        self._patience = patience
        self._n_startup_trials = n_startup_trials

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is stopped at the last rung that it reported."""
        return bool(self.dominators(study, trial))

    def dominators(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """The trials for which this one is stopped, least error first; empty if it goes on."""
        curve = self._outlook.curve(trial)
        if not curve or not trial.params:
            return []
        step = max(curve)
        if step >= self._outlook.rungs[-1] or not math.isfinite(curve[step]):
            return []  # not a number is a failure, which someone else records
        view = self._outlook.view(study, judging=trial.number)
        if view is None or len(view.trials) <= self._n_startup_trials:
            return []
        trials = study.get_trials(deepcopy=False)
        ahead = [trials[number] for number in _ahead(view, trial.number) if self._got_to(trials[number], step)]
        if not ahead or view.gain(trial.number) / (self._outlook.rungs[-1] - step) >= self._rate(view, trial.number):
            return []
        return ahead

    def _got_to(self, trial: FrozenTrial, step: int) -> bool:
        """Whether a trial has shown what it is worth at a step, so that more than a belief speaks for it."""
        return max(self._outlook.curve(trial), default=0) >= step

    def _rate(self, view: View, number: int) -> float:
        """Gain for a step that a trial must promise."""
        generator = np.random.default_rng([number, len(view.trials)])
        candidates = view.candidates(generator, n_random=N_RANDOM, n_near=N_NEAR, n_rounds=1)
        if not len(candidates.gains):
            return 0.0
        ended = [trial for trial in view.trials if trial.ended is not None]
        n_steps = self._outlook.rungs[-1] + sum(max(trial.log_errors) for trial in ended)
        n_complete = 1 + sum(trial.complete for trial in ended)
        return float(np.max(candidates.gains)) * n_complete / n_steps / self._patience


def _ahead(view: View, number: int) -> list[int]:
    """Numbers of the trials of no more cost that are believed to end with less error, least error first.

    A trial that failed stops nobody: it may be the one that this trial continues.
    """
    i = view.places.get(number)
    if i is None:
        return []
    ahead = [
        j
        for j, other in enumerate(view.trials)
        if j != i and not other.failed and other.cost <= view.trials[i].cost and view.means[j] < view.means[i]
    ]
    return [view.trials[j].number for j in sorted(ahead, key=lambda j: (view.means[j], view.trials[j].number))]
