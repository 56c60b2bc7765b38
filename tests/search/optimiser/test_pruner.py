# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from search.optimiser.problem import KnownCostProblem
from search.optimiser.pruner import FrontPruner
from search.optimiser.surrogate import Surrogate

optuna.logging.set_verbosity(optuna.logging.WARNING)

RUNGS = (1, 4, 16)
DISTRIBUTIONS = {"cost": FloatDistribution(0.0, 1.0), "x": FloatDistribution(0.0, 1.0)}


def surrogate():
    return Surrogate(KnownCostProblem(rungs=RUNGS, cost=lambda point: point["cost"]))


def study_of(trials, rule=None):
    """A study with ended trials (cost, x, errors by rung) and a running last one, which is returned too.

    An ended trial with an error at every rung is complete, another one is pruned.
    """
    study = optuna.create_study(pruner=rule or FrontPruner(surrogate()))
    for cost, x, errors in trials[:-1]:
        whole = len(errors) == len(RUNGS)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                value=errors[-1] if whole else None,
                params={"cost": cost, "x": x},
                distributions=DISTRIBUTIONS,
                intermediate_values=dict(zip(RUNGS, errors, strict=False)),
            )
        )
    cost, x, errors = trials[-1]
    study.enqueue_trial({"cost": cost, "x": x})
    trial = study.ask(DISTRIBUTIONS)
    for step, error in zip(RUNGS, errors, strict=False):
        trial.report(error, step)
    return study, trial


def curve(final):
    return [2.0 * final, 1.4 * final, final]


FRONT = [(i / 10, j / 4, curve(0.5 - 0.04 * i + 0.005 * j)) for i in range(10) for j in range(4)]


def test_a_trial_far_above_a_known_front_is_stopped_and_its_dominators_are_named():
    study, trial = study_of([*FRONT, (0.5, 0.5, [2.0])])
    assert trial.should_prune()
    rivals = study.pruner.dominators(study, study.trials[-1])
    assert rivals
    assert all(rival.params["cost"] <= 0.5 for rival in rivals)
    assert all(rival.intermediate_values[1] < 2.0 for rival in rivals)
    assert rivals[0].value == min(rival.value for rival in rivals)


def test_a_trial_far_below_a_known_front_goes_on():
    _, trial = study_of([*FRONT, (0.5, 0.5, [0.1])])
    assert not trial.should_prune()


ended = st.tuples(
    st.integers(1, 9).map(lambda n: n / 10),
    st.integers(0, 9).map(lambda n: n / 9),
    st.lists(st.integers(1, 99).map(lambda n: n / 100), min_size=1, max_size=3),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(ended, min_size=3, max_size=12), st.floats(0.01, 50.0))
def test_the_cheapest_trial_is_never_stopped(others, error):
    cheapest = min(cost for cost, _, _ in others)
    _, trial = study_of([*others, (cheapest - 0.05, 0.5, [error])])
    assert not trial.should_prune()


@settings(deadline=None, max_examples=40)
@given(st.lists(ended, min_size=3, max_size=12), ended)
def test_slower_trials_never_stop_a_faster_one(others, last):
    cost, x, errors = last
    slower = [(cost + 0.1 * (1.0 - cost), at, curve) for _, at, curve in others]
    _, trial = study_of([*slower, (cost, x, errors[:1])])
    assert not trial.should_prune()


def test_whoever_is_stopped_is_expected_to_end_behind_all_who_stop_it():
    study, trial = study_of([*FRONT, (0.7, 0.9, [1.5, 1.1])])
    posterior = study.pruner._surrogate.posterior(study, judging=trial.number)
    mean = dict(zip([seen.number for seen in posterior.trials], posterior.means, strict=True))
    rivals = study.pruner.dominators(study, study.trials[-1])
    assert rivals
    assert all(mean[rival.number] < mean[trial.number] for rival in rivals)


def test_nan_is_left_alone_and_harms_no_one():
    _, trial = study_of([*FRONT, (0.5, 0.5, [math.nan])])
    assert not trial.should_prune()
    _, trial = study_of([*FRONT, (0.4, 0.1, [math.nan]), (0.5, 0.5, [2.0])])
    assert trial.should_prune()


def test_a_trial_that_has_shown_nothing_stops_no_one():
    """What is imagined of a running trial, near good ones, is no reason."""
    for curve_of_rival, is_stopped in (((), False), ((0.1, 0.05), True)):
        others = [(0.8, 0.1, curve(0.2)), (0.9, 0.1, curve(0.2))]
        study, trial = study_of([*others, (0.5, 0.5, [2.0])], FrontPruner(surrogate(), n_startup_trials=2))
        study.enqueue_trial({"cost": 0.4, "x": 0.1})
        rival = study.ask(DISTRIBUTIONS)
        for step, error in zip((1, 4), curve_of_rival, strict=False):
            rival.report(error, step)
        assert trial.should_prune() == is_stopped


def test_a_failed_trial_stops_no_one():
    for state in (TrialState.FAIL, TrialState.RUNNING):
        others = [(0.8, 0.1, curve(0.2)), (0.9, 0.1, curve(0.2))]
        study, trial = study_of([*others, (0.5, 0.5, [2.0])], FrontPruner(surrogate(), n_startup_trials=2))
        study.enqueue_trial({"cost": 0.4, "x": 0.5})
        better = study.ask(DISTRIBUTIONS)
        for step, error in ((1, 0.1), (4, 0.05)):
            better.report(error, step)
        if state is TrialState.FAIL:
            study.tell(better, state=state)
        assert trial.should_prune() == (state is TrialState.RUNNING)


def test_the_last_rung_stops_no_one():
    _, trial = study_of([*FRONT, (0.5, 0.5, [2.0, 1.4, 1.0])])
    assert not trial.should_prune()


def test_none_is_stopped_before_others_were_seen():
    others = FRONT[:2]
    _, trial = study_of([*others, (0.9, 0.5, [9.0])], FrontPruner(surrogate(), n_startup_trials=3))
    assert not trial.should_prune()


def test_with_96_in_100_stopped_it_stops_neither_all_nor_none():
    def final(cost, x):
        return (0.5 - 0.4 * cost) * math.exp(4.0 * abs(x - 0.5))

    complete = [(cost, 0.5, curve(final(cost, 0.5))) for cost in (0.1, 0.3, 0.5, 0.9)]
    sides = [(i / 96, 0.5 + (0.2 + 0.3 * (7 * i % 96) / 96) * (-1) ** i) for i in range(96)]
    stopped = [(cost, x, curve(final(cost, x))[:1]) for cost, x in sides]
    decisions = []
    for i in range(10):
        x = 0.5 + 0.05 * i
        _, trial = study_of([*complete, *stopped, (0.7, x, curve(final(0.7, x))[:1])])
        decisions.append(trial.should_prune())
    assert not decisions[0]
    assert decisions[-1]
    assert decisions == sorted(decisions)


def test_a_study_without_points_is_left_alone():
    study = optuna.create_study(pruner=FrontPruner(surrogate()))
    for _ in range(4):
        trial = study.ask()
        trial.report(1.0, 1)
        assert not trial.should_prune()


@pytest.mark.parametrize("wrong", [{"prune_ratio": 0.0}, {"n_startup_trials": -1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FrontPruner(surrogate(), **wrong)
