# SPDX-License-Identifier: Apache-2.0
"""The searchers that are compared: Optuna's samplers with and without front-aware stops, ours, and Syne Tune's.

MO-ASHA (Schmucker et al. 2021) stops a trial at a rung unless it is among the best 1 / 3 of all that reached it,
sorted by fronts and, within a front, by an epsilon-net (the point that is farthest from those before it comes next).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState

from benchmarks.harness.problem import Point, Problem
from benchmarks.harness.replay import Method
from search.optimiser.pareto import non_dominated
from search.optimiser.problem import KnownCostProblem
from search.optimiser.pruner import FrontPruner
from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate

REDUCTION = 3.0


class OptunaMethod:
    """A sampler on a study of two objectives, alone or with the stops of MO-ASHA, which are told as PRUNED."""

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler, *, stops: bool) -> None:
        self._problem = problem
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        self._stops = stops
        self._reached: list[list[Point]] = [[] for _ in problem.rungs]

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        return self._problem.ask(self._study)

    def reached(self, handle: optuna.Trial, rung: int, error: float) -> bool:
        if not self._stops:
            return True
        others = self._reached[rung]
        others.append((_cost(self._problem, handle.params), error))
        if len(others) == 1 or _position(others) / len(others) <= 1.0 / REDUCTION:
            return True
        self._study.tell(handle, state=TrialState.PRUNED)
        return False

    def finished(self, handle: optuna.Trial, error: float) -> None:
        self._study.tell(handle, [_cost(self._problem, handle.params), error])


class _NeverFails(KnownCostProblem):
    """A trial that is told as failed had a point without a cost: it is no reason to avoid the points near by."""

    def failed(self, trial: optuna.trial.FrozenTrial) -> bool:
        """False."""
        return False


class UnderstudyMethod:
    """The project's sampler and pruner, on a study of one objective."""

    def __init__(self, problem: Problem, seed: int) -> None:
        surrogate = Surrogate(
            _NeverFails(
                rungs=problem.rungs,
                cost=problem.cost,
                active=problem.active,
                worst_cost=problem.worst_cost,
                log2_error=problem.log2_error,
            )
        )
        self._problem = problem
        self._study = optuna.create_study(
            direction="minimize", sampler=FrontSampler(surrogate, seed=seed), pruner=FrontPruner(surrogate)
        )

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        return self._problem.ask(self._study)

    def reached(self, handle: optuna.Trial, rung: int, error: float) -> bool:
        handle.report(error, self._problem.rungs[rung])
        if not handle.should_prune():
            return True
        self._study.tell(handle, state=TrialState.PRUNED)
        return False

    def finished(self, handle: optuna.Trial, error: float) -> None:
        handle.report(error, self._problem.rungs[-1])
        self._study.tell(handle, error)


class SyneTuneMethod:
    """Syne Tune's own MOASHA."""

    def __init__(self, problem: Problem, seed: int) -> None:
        """Raises ImportError where Syne Tune is not installed."""
        # By name, for it is no dependency: what it brings along is larger than this project's own.
        trial_status = import_module("syne_tune.backend.trial_status")
        scheduler = import_module("syne_tune.optimizer.scheduler")
        moasha = import_module("syne_tune.optimizer.schedulers.multiobjective.moasha")

        self._go_on = scheduler.SchedulerDecision.CONTINUE
        self._new_trial = trial_status.Trial
        self._scheduler = moasha.MOASHA(
            {}, ["cost", "error"], time_attr="epoch", max_t=problem.rungs[-1], random_seed=seed
        )
        self._study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        self._problem = problem
        self._n_trials = 0

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        asked = self._problem.ask(self._study)
        if asked is None:
            return None
        _, configuration = asked
        trial = self._new_trial(self._n_trials, configuration, None)
        self._n_trials += 1
        self._scheduler.on_trial_add(trial)
        return trial, configuration

    def reached(self, handle: Any, rung: int, error: float) -> bool:
        result = {"epoch": self._problem.rungs[rung], "cost": _cost(self._problem, handle.config), "error": error}
        return bool(self._scheduler.on_trial_result(handle, result) == self._go_on)

    def finished(self, handle: Any, error: float) -> None:
        result = {"epoch": self._problem.rungs[-1], "cost": _cost(self._problem, handle.config), "error": error}
        self._scheduler.on_trial_complete(handle, result)


def methods() -> dict[str, Callable[[Problem, int], Method]]:
    """Makers of every method by name, from a problem and a seed."""
    return {
        "random": lambda problem, seed: OptunaMethod(problem, _random(seed), stops=False),
        "nsga2": lambda problem, seed: OptunaMethod(problem, _nsga2(seed), stops=False),
        "tpe": lambda problem, seed: OptunaMethod(problem, _tpe(seed), stops=False),
        "mo-asha": lambda problem, seed: OptunaMethod(problem, _random(seed), stops=True),
        "tpe+mo-asha": lambda problem, seed: OptunaMethod(problem, _tpe(seed), stops=True),
        "understudy": UnderstudyMethod,
        "syne-tune": SyneTuneMethod,
    }


def _cost(problem: Problem, configuration: dict[str, Any]) -> float:
    cost = problem.cost(configuration)
    assert cost is not None, "what is tried has a cost"
    return cost


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _position(points: list[Point]) -> int:
    """How many of the points come before the last one."""
    remaining = list(range(len(points)))
    position = 0
    while True:
        front = [remaining[i] for i in non_dominated([(points[i][0], -points[i][1]) for i in remaining])]
        if len(points) - 1 in front:
            order = _epsilon_net(np.array([points[i] for i in front]))
            return position + [front[i] for i in order].index(len(points) - 1)
        position += len(front)
        remaining = [i for i in remaining if i not in front]


def _epsilon_net(points: npt.NDArray[np.float64]) -> list[int]:
    """The order of points (n x 2) in which the next one is the farthest from all before it; the cheapest is first."""
    order = [int(np.argmin(points[:, 0]))]
    nearest = np.full(len(points), np.inf)
    while len(order) < len(points):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[order[-1]], axis=1))
        nearest[order] = -np.inf
        order.append(int(np.argmax(nearest)))
    return order
