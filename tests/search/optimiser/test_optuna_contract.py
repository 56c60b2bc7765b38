# SPDX-License-Identifier: Apache-2.0
"""The contract tests that Optuna ships for samplers, joined by ours; and what Optuna asks of a pruner."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from search.optimiser.problem import KnownCostProblem
from search.optimiser.pruner import FrontPruner
from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate

RUNGS = (1, 2, 4)


def surrogate() -> Surrogate:
    """Of a problem in which every point has the same cost, whatever its dimensions."""
    return Surrogate(KnownCostProblem(rungs=RUNGS, cost=lambda point: 1.0))


class TestFrontSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """`n_startup_trials` 0, so that the model proposes from the first trial on."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: FrontSampler(surrogate(), seed=0, n_startup_trials=0)


STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "in memory": lambda folder: InMemoryStorage(),
    "sqlite": lambda folder: RDBStorage(f"sqlite:///{folder}/trials.db"),
    "journal": lambda folder: JournalStorage(JournalFileBackend(str(folder / "trials.journal"))),
}


@pytest.mark.parametrize("kind", STORAGES)
def test_sampler_and_pruner_work_on_every_kind_of_storage(kind: str, tmp_path: Path) -> None:
    shared = surrogate()

    def objective(trial: optuna.Trial) -> float:
        units, rate = trial.suggest_int("units", 1, 64, log=True), trial.suggest_float("rate", 1e-4, 1.0, log=True)
        error = 1.0 / units + 0.1 * abs(math.log10(rate / 1e-2))
        for rung in RUNGS:
            trial.report(error * (1.0 + 1.0 / rung), rung)
            if trial.should_prune():
                raise optuna.TrialPruned
        return error * (1.0 + 1.0 / RUNGS[-1])

    study = optuna.create_study(
        storage=STORAGES[kind](tmp_path),
        sampler=FrontSampler(shared, seed=0),
        pruner=FrontPruner(shared, n_startup_trials=2),
    )
    study.optimize(objective, n_trials=14)
    states = [trial.state for trial in study.trials]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert states.count(TrialState.COMPLETE) >= 2


def test_a_pruner_goes_on_with_trials_that_have_reported_nothing_or_no_number() -> None:
    study = optuna.create_study(pruner=FrontPruner(surrogate(), n_startup_trials=0))
    trial = study.ask()
    assert not trial.should_prune()
    trial.suggest_float("rate", 0.0, 1.0)
    trial.report(math.nan, RUNGS[0])
    assert not trial.should_prune()


def test_the_last_rung_is_never_pruned() -> None:
    study = optuna.create_study(pruner=FrontPruner(surrogate(), n_startup_trials=0))
    for value in (0.1, 0.2, 9.0):
        trial = study.ask()
        trial.suggest_float("rate", 0.0, 1.0)
        for rung in RUNGS:
            trial.report(value, rung)
        assert not trial.should_prune()
        study.tell(trial, value)
