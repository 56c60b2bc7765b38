# SPDX-License-Identifier: Apache-2.0
"""Claims about the samplers and pruners that a study may name: each searches the toy study to its end."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler

from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate
from search.records.objective import COSINE
from search.records.trial import TrialRecord, TrialState
from search.trials.manager import TrialManager
from search.trials.problem import StudentProblem
from search.trials.pruning import ReportedPruning, make_pruning
from search.trials.sampling import make_sampler
from tests.search.toy_search import RUNGS, SPACE, TEACHER, plan, predict, train

SAMPLERS = (
    "front",
    "tpe",
    pytest.param("gp", marks=pytest.mark.slow),
    "random",
    "optuna.samplers:NSGAIISampler",
    "tests.search.trials.test_sampling:Seedless",
)
PRUNERS = (
    "front",
    "none",
    "optuna.pruners:MedianPruner",
    "optuna.pruners:SuccessiveHalvingPruner",
    "tests.search.trials.test_sampling:Everything",
)


class Seedless(BaseSampler):
    """A sampler of a user's, which takes no arguments."""

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return optuna.samplers.RandomSampler(seed=trial.number).sample_independent(
            study, trial, param_name, param_distribution
        )


class Everything(optuna.pruners.BasePruner):
    """A user's pruner: stops every trial at its first rung."""

    def prune(self, study, trial):
        return True


class NeedsMore(optuna.pruners.BasePruner):
    """A pruner that cannot be made without an argument."""

    def __init__(self, threshold):
        self.threshold = threshold

    def prune(self, study, trial):
        return False


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def surrogate() -> Surrogate:
    return Surrogate(
        StudentProblem(
            space=SPACE, teacher=TEACHER, rungs=RUNGS, predict=predict, limit_ms=predict(TEACHER), objective=COSINE
        )
    )


def searched(folder: Path, **changes: object) -> tuple[TrialRecord, ...]:
    """All trials of a toy search with at most 10 trainings."""
    folder.mkdir(exist_ok=True)
    manager = TrialManager(plan(folder, n_trials=10, **changes))
    while (record := manager.ask()) is not None:
        train(manager, record)
    return manager.records


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_searches_and_the_same_seed_gives_the_same_points(name: str, tmp_path: Path) -> None:
    records = searched(tmp_path / "one", sampler=name)
    assert sum(record.state is not TrialState.REFUSED for record in records) == 10
    assert any(record.state is TrialState.COMPLETE for record in records)
    if name not in ("gp", "optuna.samplers:NSGAIISampler"):  # whose arithmetic or state is theirs
        again = searched(tmp_path / "two", sampler=name)
        assert [record.point for record in again] == [record.point for record in records]


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_judges_the_trials(name: str, tmp_path: Path) -> None:
    records = searched(tmp_path, pruner=name, sampler="random")
    pruned = [record for record in records if record.state is TrialState.PRUNED]
    match name:
        case "none":
            assert pruned == []
        case "tests.search.trials.test_sampling:Everything":
            assert len(pruned) == 10 and {len(record.rungs) for record in pruned} == {1}
        case _:
            assert pruned and all(record.outcome for record in pruned)
    if name not in ("front", "none"):
        assert all(name in str(record.outcome) for record in pruned)


def test_optunas_pruner_decides_as_it_does_on_a_study_of_one_objective(tmp_path: Path) -> None:
    """The oracle is Optuna's own loop over the errors that our search recorded."""
    records = searched(tmp_path, pruner="optuna.pruners:MedianPruner", sampler="random")
    problem = surrogate().problem
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    for record in records:
        if record.state is TrialState.REFUSED:
            continue
        trial, verdict = study.ask(), False
        for step, rung in zip(RUNGS, record.rungs, strict=False):
            trial.report(1.0 - rung.fidelity.cosine, step)
            verdict = trial.should_prune() and step != problem.rungs[-1]
        assert verdict == (record.state is TrialState.PRUNED), record.name
        if record.state is TrialState.PRUNED:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, 1.0 - record.fidelity.cosine)


def test_a_search_that_goes_on_shows_an_optuna_pruner_what_was_measured_before(tmp_path: Path) -> None:
    first = TrialManager(plan(tmp_path, n_trials=6, pruner="optuna.pruners:MedianPruner", sampler="random"))
    while (record := first.ask()) is not None:
        train(first, record)
    again = TrialManager(plan(tmp_path, n_trials=7, pruner="optuna.pruners:MedianPruner", sampler="random"))
    record = again.ask()
    assert record is not None
    train(again, record, rungs=1)
    pruning = again._pruning
    assert isinstance(pruning, ReportedPruning)
    reported = {trial.number for trial in pruning._copy.trials if trial.intermediate_values}
    assert len(reported) == sum(bool(one.rungs) for one in again.records)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all:Sampler", r"can be imported.*PYTHONPATH"),
        ("optuna.samplers:NoSuchSampler", "has no NoSuchSampler"),
        ("optuna.pruners:MedianPruner", "subclass of Optuna's BaseSampler"),
        ("optuna:create_study", "subclass of Optuna's BaseSampler"),
    ],
)
def test_a_sampler_that_is_none_is_refused_with_the_remedy(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler(name, surrogate(), seed=0, n_startup_trials=5)


def test_a_pruner_that_needs_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without further arguments.*subclass that has defaults"):
        make_pruning("tests.search.trials.test_sampling:NeedsMore", surrogate(), prune_ratio=4.0)


def test_a_class_is_given_the_seed_that_it_takes() -> None:
    made = [make_sampler("optuna.samplers:RandomSampler", surrogate(), seed=3, n_startup_trials=5) for _ in range(2)]
    one, two = (optuna.create_study(sampler=each).ask().suggest_float("x", 0.0, 1.0) for each in made)
    assert one == two
    assert isinstance(make_sampler("front", surrogate(), seed=0, n_startup_trials=5), FrontSampler)
