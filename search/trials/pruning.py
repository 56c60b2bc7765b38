# SPDX-License-Identifier: Apache-2.0
"""Pruning at rungs: by `FrontPruner`, by any pruner of Optuna, or not at all.

`FrontPruner` reads the records of the study with two objectives. Optuna's pruners need intermediate values, which
Optuna refuses for several objectives; so they work on a copy in memory, a study that minimises the error alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search.optimiser.problem import Problem
from search.optimiser.pruner import FrontPruner
from search.optimiser.surrogate import Surrogate
from search.trials.sampling import make_from_class_path


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """Why a trial is pruned."""

    by: str
    """The pruner's name."""
    rivals: tuple[int, ...] = ()
    """Numbers of the trials that are predicted to beat it, best first; empty if the pruner does not say."""


class Pruning(Protocol):
    """Decides whether a trial that has just reported is pruned."""

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> PruneDecision | None:
        """The decision to prune the trial; None if it goes on."""


def make_pruning(name: str, surrogate: Surrogate, *, prune_ratio: float) -> Pruning:
    """The pruning that a study names: `front`, `none`, or MODULE:CLASS of a pruner of Optuna.

    Raises ValueError if there is no such class, or if it is not a pruner of Optuna.
    """
    match name:
        case "front":
            return FrontPruning(FrontPruner(surrogate, prune_ratio=prune_ratio))
        case "none":
            return NoPruning()
        case _:
            pruner: BasePruner = make_from_class_path("pruner", name, BasePruner)
            return ReportedPruning(pruner, surrogate.problem, name=name)


class FrontPruning:
    """Pruning by `FrontPruner`; the decision names the trials that are predicted to beat the pruned one."""

    def __init__(self, pruner: FrontPruner) -> None:
        self._pruner = pruner

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> PruneDecision | None:
        """Prunes by the rule of `FrontPruner`."""
        rivals = tuple(rival.number for rival in self._pruner.dominators(study, trial))
        return PruneDecision(by="front", rivals=rivals) if rivals else None


class NoPruning:
    """Every trial goes on to its last rung."""

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> PruneDecision | None:
        """Returns None."""
        return None


class ReportedPruning:
    """Pruning by a pruner of Optuna, on an in-memory copy of the study that minimises the reported error."""

    def __init__(self, pruner: BasePruner, problem: Problem, *, name: str) -> None:
        self._problem = problem
        self._name = name
        self._copy = optuna.create_study(
            direction="minimize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._ended: set[int] = set()
        self._should_prune: dict[int, bool] = {}

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> PruneDecision | None:
        """Updates the copy and asks the pruner, as `trial.should_prune()` does."""
        for other in study.get_trials(deepcopy=False):
            self._report(other)  # the trial itself is one of them
        return PruneDecision(by=self._name) if self._should_prune.get(trial.number, False) else None

    def _report(self, trial: FrozenTrial) -> None:
        """Reports the trial's new rungs to its copy, and asks the pruner at each, because some pruners count calls."""
        curve = self._problem.curve(trial)
        if trial.number in self._ended or not curve:
            return
        if trial.number not in self._trials:
            self._copy.enqueue_trial(trial.params)
            self._trials[trial.number] = self._copy.ask(dict(trial.distributions))
        own = self._trials[trial.number]
        reported = self._copy.get_trials(deepcopy=False)[own.number].intermediate_values
        for step, error in sorted(curve.items()):
            if step not in reported:
                own.report(error, step)
                self._should_prune[trial.number] = own.should_prune()
        if trial.state.is_finished():
            self._ended.add(trial.number)
            complete = trial.state is OptunaState.COMPLETE
            self._copy.tell(own, curve[max(curve)] if complete else None, state=trial.state)
