# SPDX-License-Identifier: Apache-2.0
"""The optimiser alone: `FrontSampler` and `FrontPruner` on a problem of one's own, without anything else of Understudy.

A network is to be both accurate and small. Its size is known before it is trained; its error is not, and is reported
after 1, 3, 9 and 27 epochs. The optimiser looks for the whole Pareto front of size and error, and prunes trials whose
learning curve promises less than a new point. Training is a formula here, so the example takes seconds:

    python examples/optimiser.py

It needs Optuna, NumPy and SciPy.
"""

from __future__ import annotations

import math

import numpy as np
import optuna

from search.optimiser.pareto import front_of
from search.optimiser.problem import KnownCostProblem, Params
from search.optimiser.pruner import FrontPruner
from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate

EPOCHS = (1, 3, 9, 27)


def n_weights(point: Params) -> int:
    """Weights of a network with 20 inputs, `layers` hidden layers of `units` and 2 outputs."""
    layers, units = point["layers"], point["units"]
    return int(20 * units + (layers - 1) * units**2 + 2 * units)


def cost(point: Params) -> float | None:
    """log2 of the weights; None, never to be tried, above a million."""
    return math.log2(n_weights(point)) if n_weights(point) <= 1_000_000 else None


def error_after(point: Params, epoch: int, noise: np.random.Generator) -> float:
    """The validation error after some epochs; train a network here instead."""
    capacity = 0.02 + 0.6 / math.log2(n_weights(point))
    bad_rate = 0.05 * abs(math.log10(point["rate"] / 3e-3))
    return (capacity + bad_rate) * (1.0 + 1.5 / epoch) * math.exp(0.01 * noise.standard_normal())


def search(n_trials: int, *, seed: int = 0) -> optuna.Study:
    """A study of so many trials."""
    surrogate = Surrogate(KnownCostProblem(rungs=EPOCHS, cost=cost, log2_error=True))
    study = optuna.create_study(sampler=FrontSampler(surrogate, seed=seed), pruner=FrontPruner(surrogate))
    noise = np.random.default_rng(seed)

    def objective(trial: optuna.Trial) -> float:
        point = {
            "layers": trial.suggest_int("layers", 1, 4),
            "units": trial.suggest_int("units", 8, 512, log=True),
            "rate": trial.suggest_float("rate", 1e-4, 1e-1, log=True),
        }
        error = math.inf
        for epoch in EPOCHS:
            error = error_after(point, epoch, noise)
            trial.report(error, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return error

    study.optimize(objective, n_trials=n_trials)
    return study


def main() -> None:
    """Search, then print the front and how many epochs pruning saved."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = search(40)
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    points = [(float(n_weights(trial.params)), float(trial.value or 0.0)) for trial in complete]
    n_epochs = sum(trial.last_step or 0 for trial in study.trials)
    print(f"{len(study.trials)} trials, {len(complete)} of them complete; {n_epochs} of {40 * EPOCHS[-1]} epochs")
    for i in front_of(points):
        print(f"{points[i][0]:>9,.0f} weights  error {points[i][1]:.4f}  {complete[i].params}")


if __name__ == "__main__":
    main()
