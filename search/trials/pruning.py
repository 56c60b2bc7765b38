# SPDX-License-Identifier: Apache-2.0
"""Whether a trial goes on at a rung: by our pruner, by any pruner of Optuna, or always.

Our pruner reads the records of the study of two objectives. Optuna's pruners need intermediate values, and Optuna
refuses them for several objectives; so they are shown a copy in memory, a study that minimises the error alone.
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
from search.trials.sampling import make_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Why a trial is pruned."""

    by: str
    """The pruner's name."""
    rivals: tuple[int, ...] = ()
    """Numbers of the trials that are predicted to beat it, best first; empty if the pruner does not say."""


class Pruning(Protocol):
    """Judges a trial that has just reported."""

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Pruned | None:
        """Why the trial is pruned; None if it goes on."""


def make_pruning(name: str, surrogate: Surrogate, *, prune_ratio: float) -> Pruning:
    """The pruning that a study names: `front`, `none`, or MODULE:CLASS of a pruner of Optuna.

    Raises ValueError if there is no such class, or if it is no pruner of Optuna.
    """
    match name:
        case "front":
            return FrontPruning(FrontPruner(surrogate, prune_ratio=prune_ratio))
        case "none":
            return NoPruning()
        case _:
            pruner: BasePruner = make_named("pruner", name, BasePruner)
            return ReportedPruning(pruner, surrogate.problem, name=name)


class FrontPruning:
    """`FrontPruner`, which says for whom it prunes."""

    def __init__(self, pruner: FrontPruner) -> None:
        self._pruner = pruner

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Pruned | None:
        """See `FrontPruner`."""
        rivals = tuple(rival.number for rival in self._pruner.dominators(study, trial))
        return Pruned(by="front", rivals=rivals) if rivals else None


class NoPruning:
    """Every trial goes on to its last rung."""

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Pruned | None:
        """None."""
        return None


class ReportedPruning:
    """Any pruner of Optuna, on a copy in memory of the study: one objective, the error, reported at every rung."""

    def __init__(self, pruner: BasePruner, problem: Problem, *, name: str) -> None:
        self._problem = problem
        self._name = name
        self._copy = optuna.create_study(
            direction="minimize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._ended: set[int] = set()
        self._verdicts: dict[int, bool] = {}

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Pruned | None:
        """Brings the copy up to date and asks the pruner, as `trial.should_prune()` does."""
        for other in study.get_trials(deepcopy=False):
            self._follow(other)
        self._follow(trial)
        return Pruned(by=self._name) if self._verdicts.get(trial.number, False) else None

    def _follow(self, trial: FrozenTrial) -> None:
        """Reports what the trial has measured since; a pruner that counts is asked at every rung."""
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
                self._verdicts[trial.number] = own.should_prune()
        if trial.state.is_finished():
            self._ended.add(trial.number)
            complete = trial.state is OptunaState.COMPLETE
            self._copy.tell(own, curve[max(curve)] if complete else None, state=trial.state)
