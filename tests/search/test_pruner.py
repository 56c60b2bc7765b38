# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.front import non_dominated
from search.objective import score
from search.pruner import LATENCY, DominancePruner

optuna.logging.set_verbosity(optuna.logging.WARNING)


def pruner(**changes):
    values = {"n_startup_trials": 0} | changes
    return DominancePruner(score=lambda fidelity, latency: score(fidelity, 1.0 / latency), **values)


def study_of(trials, rule):
    """A study with one trial for each (latency, fidelities by rung 1, 2, ...); the last one is returned too."""
    study = optuna.create_study(direction="maximize", pruner=rule, sampler=optuna.samplers.RandomSampler(seed=0))
    for latency, fidelities in trials:
        trial = study.ask()
        trial.set_user_attr(LATENCY, latency)
        for step, fidelity in enumerate(fidelities, start=1):
            trial.report(fidelity, step)
    return study, trial


def pruned(*trials, **changes):
    _, trial = study_of(trials, pruner(**changes))
    return trial.should_prune()


def test_two_faster_trials_clearly_ahead_prune():
    assert pruned((1.0, [0.95]), (1.5, [0.94]), (2.0, [0.90]))


def test_one_faster_trial_ahead_does_not_prune():
    assert not pruned((1.0, [0.95]), (3.0, [0.99]), (2.0, [0.90]))


def test_slower_trials_never_prune_however_far_ahead():
    assert not pruned((1.0, [0.80]), (3.0, [0.99]), (4.0, [0.99]), (2.0, [0.90]))


def test_the_fastest_trial_is_never_pruned():
    assert not pruned((2.0, [0.95]), (2.0, [0.95]), (2.0, [0.10]))


def test_only_the_same_rung_is_compared():
    assert not pruned((1.0, [0.5, 0.95]), (1.5, [0.5, 0.95]), (2.0, [0.90]))
    assert pruned((1.0, [0.5, 0.95]), (1.5, [0.5, 0.95]), (2.0, [0.6, 0.90]))


def test_a_trial_ahead_by_less_than_the_margin_does_not_count_as_clear():
    # 0.905 leaves 5% less error than 0.90: a tie, and the score of the last trial is among the best half
    others = ((1.9, [0.905]), (1.9, [0.905]), (3.0, [0.5]), (3.0, [0.5]), (3.0, [0.5]))
    assert not pruned(*others, (2.0, [0.90]), margin=0.1)
    assert pruned(*others, (2.0, [0.90]), margin=0.04)


def test_the_score_breaks_a_tie():
    better = [(0.5, [0.905]), (0.5, [0.905]), (0.6, [0.905]), (0.7, [0.905])]
    assert pruned(*better, (2.0, [0.90]), reduction=2.0)
    assert not pruned(*better, (2.0, [0.90]), reduction=1.01)


def test_nothing_is_pruned_before_enough_others_have_reported():
    trials = ((1.0, [0.95]), (1.5, [0.94]), (2.0, [0.90]))
    assert not pruned(*trials, n_startup_trials=3)
    assert pruned(*trials, n_startup_trials=2)


def test_nan_neither_prunes_nor_is_pruned():
    assert not pruned((1.0, [math.nan]), (1.5, [0.94]), (2.0, [0.90]))
    assert not pruned((1.0, [0.95]), (1.5, [0.94]), (2.0, [math.nan]))


def test_the_dominators_are_no_slower_and_more_faithful():
    study, trial = study_of([(1.0, [0.95]), (1.5, [0.97]), (5.0, [0.99]), (2.0, [0.90])], pruner())
    rivals = pruner().dominators(study, study.trials[trial.number])
    assert [rival.number for rival in rivals] == [1, 0]


points = st.tuples(st.integers(1, 9).map(float), st.integers(0, 99).map(lambda n: n / 100))


@settings(deadline=None, max_examples=50)
@given(st.lists(points, min_size=1, max_size=8))
def test_a_trial_on_the_front_of_its_rung_is_never_pruned(cloud):
    _, trial = study_of([(latency, [fidelity]) for latency, fidelity in cloud], pruner(reduction=100.0))
    if len(cloud) - 1 in non_dominated(cloud):
        assert not trial.should_prune()


@pytest.mark.parametrize(
    "wrong", [{"n_dominators": 0}, {"margin": 1.0}, {"margin": -0.1}, {"reduction": 1.0}, {"n_startup_trials": -1}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        pruner(**wrong)
