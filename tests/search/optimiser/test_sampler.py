# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import re
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from search.optimiser.observations import MOST_OBSERVATIONS
from search.optimiser.pareto import hypervolume, non_dominated
from search.optimiser.problem import KnownCostProblem
from search.optimiser.pruner import FrontPruner
from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate

optuna.logging.set_verbosity(optuna.logging.WARNING)

RUNGS = (1, 4, 16)
KINDS = ("a", "b", None)


def cost(point):
    """Known beforehand; a size of 9 must not be tried."""
    return None if point["size"] == 9 else math.log(point["size"])


def final_error(point):
    """Falls with the size; with the right rate, which kind `a` alone asks for, it is least."""
    rate = point.get("rate", 3e-2)
    return 0.1 + 1.0 / point["size"] + 0.2 * abs(math.log10(rate / 1e-2)) + 0.1 * KINDS.index(point["kind"])


def error_at(point, step):
    return final_error(point) * (1.0 + 0.5 * math.log(RUNGS[-1] / step))


def suggest(trial):
    trial.suggest_int("size", 1, 10)
    if trial.suggest_categorical("kind", KINDS) == "a":
        trial.suggest_float("rate", 1e-4, 1.0, log=True)
    return trial.params


def active(point):
    return {name: value for name, value in point.items() if name != "rate" or point["kind"] == "a"}


def surrogate(**changes):
    return Surrogate(KnownCostProblem(rungs=RUNGS, cost=cost, active=active, **changes))


def search(sampler, *, n, pruner=None, study=None):
    """A study of n trials, one at a time."""
    study = study or optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())
    for _ in range(n):
        trial = study.ask()
        point = suggest(trial)
        for step in RUNGS:
            trial.report(error_at(point, step), step)
            if step < RUNGS[-1] and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, final_error(point))
    return study


def area(study):
    """Hypervolume of the complete trials."""
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    points = [(math.log(trial.params["size"]), -trial.value) for trial in complete]
    return hypervolume(points, (math.log(11.0), -1.2))


def test_it_finds_more_of_a_front_than_random_points_do():
    seeds = range(3)
    ours = [area(search(FrontSampler(surrogate(), seed=seed), n=25)) for seed in seeds]
    random = [area(search(optuna.samplers.RandomSampler(seed=seed), n=25)) for seed in seeds]
    assert min(ours) > max(random)


def test_it_finds_more_for_fewer_steps_with_its_pruner():
    shared = surrogate()
    study = search(FrontSampler(shared, seed=0), n=25, pruner=FrontPruner(shared))
    n_steps = sum(trial.last_step for trial in study.trials)
    assert n_steps < 0.9 * 25 * RUNGS[-1]
    assert area(study) > area(search(optuna.samplers.RandomSampler(seed=0), n=25))


def test_points_follow_the_conditions_and_avoid_what_has_no_cost():
    study = search(FrontSampler(surrogate(), seed=1, n_startup_trials=4), n=20)
    for trial in study.trials:
        assert ("rate" in trial.params) == (trial.params["kind"] == "a")
    assert all(trial.params["size"] != 9 for trial in study.trials[4:])


@pytest.mark.parametrize("seed", range(5))
def test_it_begins_with_both_ends_of_the_range_of_costs(seed):
    first, *others = [trial.params["size"] for trial in search(FrontSampler(surrogate(), seed=seed), n=5).trials]
    ends = [end for end in (10, 1) if end != first]
    assert others[: len(ends)] == ends
    assert 9 not in others


def test_costs_that_do_not_count_are_no_end():
    limited = surrogate(worst_cost=math.log(7))
    first, *others = [trial.params["size"] for trial in search(FrontSampler(limited, seed=2), n=3).trials]
    assert others[0] == 6 and 1 in (first, others[1])


def test_where_trials_were_at_both_ends_it_begins_at_random():
    study = optuna.create_study(sampler=FrontSampler(surrogate(), seed=0, n_startup_trials=20))
    for size in (1, 10):
        study.enqueue_trial({"size": size, "kind": "b"})
    search(None, n=20, study=study)
    assert len({trial.params["size"] for trial in study.trials[2:]}) > 5


def test_equal_seeds_give_equal_studies_and_another_seed_another():
    one, same, other = (search(FrontSampler(surrogate(), seed=seed), n=12) for seed in (3, 3, 4))
    assert [trial.params for trial in one.trials] == [trial.params for trial in same.trials]
    assert [trial.params for trial in one.trials] != [trial.params for trial in other.trials]


def test_a_point_does_not_depend_on_which_process_drew_those_before_it():
    whole = search(FrontSampler(surrogate(), seed=5), n=14)
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    for _ in range(14):
        study.sampler = FrontSampler(surrogate(), seed=5)
        search(None, n=1, study=study)
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]


def test_points_asked_for_side_by_side_differ():
    study = search(FrontSampler(surrogate(), seed=0), n=8)
    together = [suggest(study.ask()) for _ in range(6)]
    assert len({tuple(sorted(point.items(), key=str)) for point in together}) == 6


def test_noise_is_no_reason_to_try_a_point_again():
    """Else a search ends as one of many trials of nearly the same point, whose best is a little better."""
    study = search(optuna.samplers.RandomSampler(seed=1), n=30)
    posterior = surrogate().posterior(study)
    found = posterior.candidates(np.random.default_rng(0), n_random=200, n_near=200, n_rounds=2)
    with_noise = posterior.front.expected_improvement(found.costs, found.means, found.deviations)
    known = found.deviations < 1.02 * found.deviations.min()
    assert known.sum() >= 3 and with_noise[known].max() > 0.0
    assert np.all(found.gains[known] < 0.5 * with_noise[known])


def test_the_order_in_which_trials_end_decides_nothing():
    def predicted(order):
        """Of trials that began one after the other and ended in some order: by number."""
        study = optuna.create_study()
        for trial, i in zip(trials, order, strict=True):
            end = trial.datetime_start + timedelta(minutes=i + 1)
            other = optuna.trial.create_trial(
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={RUNGS[0]: trial.intermediate_values[RUNGS[0]]},
            )
            other.datetime_complete = end
            study.add_trial(other)
        posterior = surrogate().posterior(study)
        return [posterior.means[i] for i in np.argsort([seen.number for seen in posterior.trials])]

    trials = search(optuna.samplers.RandomSampler(seed=3), n=11).trials
    orders = [range(11), reversed(range(11)), np.random.default_rng(0).permutation(11)]
    first, *others = [predicted([int(i) for i in order]) for order in orders]
    np.testing.assert_allclose(others, [first] * len(others), rtol=1e-9)


def test_beyond_what_a_model_can_take_it_keeps_the_front_and_knows_how_curves_go_on():
    study = optuna.create_study()
    generator = np.random.default_rng(0)
    for _ in range(1000):
        point, noise = {"size": int(generator.integers(1, 9)), "kind": "b"}, math.exp(0.3 * generator.standard_normal())
        study.add_trial(
            optuna.trial.create_trial(
                value=final_error(point) * noise,
                params=point,
                distributions={
                    "size": optuna.distributions.IntDistribution(1, 10),
                    "kind": optuna.distributions.CategoricalDistribution(KINDS),
                },
                intermediate_values={step: error_at(point, step) * noise for step in RUNGS},
            )
        )
    study.enqueue_trial({"size": 5, "kind": "b"})
    trial = study.ask()
    suggest(trial)
    trial.report(2.0, RUNGS[0])
    posterior = surrogate().posterior(study, measured_only=True)
    assert sum(len(seen.log_errors) for seen in posterior.trials) <= MOST_OBSERVATIONS
    complete = study.trials[:1000]
    front = non_dominated([(cost(trial.params), -trial.value) for trial in complete])
    assert {complete[i].number for i in front} <= {seen.number for seen in posterior.complete}
    predicted_error = math.exp(posterior.means[[seen.number for seen in posterior.trials].index(trial.number)])
    assert predicted_error == pytest.approx(2.0 / (1.0 + 0.5 * math.log(RUNGS[-1])), rel=0.15)


def test_a_trial_that_another_goes_on_with_counts_once():
    study = search(FrontSampler(surrogate(), seed=0), n=20)
    before = surrogate().posterior(study)
    assert 0.5 < before.r_squared() <= 1.0
    n_trials = len(study.trials)
    for trial in study.get_trials():
        first = min(trial.intermediate_values)
        begun = optuna.trial.create_trial(
            state=TrialState.FAIL,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values={first: trial.intermediate_values[first]},
        )
        study.add_trial(begun)

    class Continued(KnownCostProblem):
        def superseded(self, trials):
            return range(n_trials, 2 * n_trials)

    shared = Surrogate(Continued(rungs=RUNGS, cost=cost, active=active))
    after = shared.posterior(study)
    assert [trial.number for trial in after.trials] == [trial.number for trial in before.trials]
    np.testing.assert_allclose(after.means, before.means)
    np.testing.assert_allclose(after.deviations, before.deviations)
    assert after.r_squared() == pytest.approx(before.r_squared())


def test_the_value_of_a_complete_trial_is_its_last_report():
    told, reported = search(None, n=0, study=optuna.create_study()), optuna.create_study()
    for trial in search(optuna.samplers.RandomSampler(seed=0), n=8).trials:
        for study, values in ((told, RUNGS[:-1]), (reported, RUNGS)):
            study.add_trial(
                optuna.trial.create_trial(
                    value=trial.value,
                    params=trial.params,
                    distributions=trial.distributions,
                    intermediate_values={step: trial.intermediate_values[step] for step in values},
                )
            )
    one, other = surrogate().posterior(told), surrogate().posterior(reported)
    assert len(one.complete) == len(other.complete) == 8
    np.testing.assert_allclose(one.means, other.means)


def test_a_study_to_maximise_asks_for_its_error():
    study = optuna.create_study(direction="maximize", sampler=FrontSampler(surrogate(), n_startup_trials=1))
    with pytest.raises(ValueError, match="give `error`"):
        search(None, n=2, study=study)


def test_a_finite_space_is_not_proposed_from_twice():
    sized = Surrogate(KnownCostProblem(rungs=(1,), cost=lambda point: point["size"]))
    study = optuna.create_study(sampler=FrontSampler(sized, seed=0))
    sizes = []
    for _ in range(12):
        trial = study.ask()
        sizes.append(trial.suggest_int("size", 1, 12))
        trial.report(1.0 / sizes[-1], 1)
        study.tell(trial, 1.0 / sizes[-1])
    assert len(set(sizes[5:])) == 7
    assert not set(sizes[5:]) & set(sizes[:5])


def test_values_that_are_not_numbers_are_left_out():
    study = search(FrontSampler(surrogate(), seed=0), n=6)
    trial = study.ask()
    suggest(trial)
    trial.report(math.nan, 1)
    study.tell(trial, state=TrialState.FAIL)
    search(None, n=2, study=study)
    assert len(study.trials) == 9


def test_a_proposal_after_300_trials_takes_less_than_a_second():
    study = optuna.create_study(sampler=FrontSampler(surrogate(), seed=0))
    generator = np.random.default_rng(0)
    distributions = search(optuna.samplers.RandomSampler(seed=0), n=3).trials[0].distributions
    for _ in range(300):
        point = {"size": int(generator.integers(1, 11)), "kind": "a", "rate": float(10 ** generator.uniform(-4, 0))}
        study.add_trial(
            optuna.trial.create_trial(
                value=final_error(point),
                params=point,
                distributions={
                    **distributions,
                    "kind": optuna.distributions.CategoricalDistribution(KINDS),
                    "rate": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True),
                },
                intermediate_values={step: error_at(point, step) for step in RUNGS},
            )
        )
    study.ask()  # fits the scales, as it does whenever the trials have grown by half
    started = time.process_time()
    study.ask()
    assert time.process_time() - started < 1.0


def test_the_example_of_the_documents_searches_and_prunes():
    text = (Path(__file__).resolve().parents[3] / "docs" / "searcher.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "FrontSampler" in block)
    names = {}
    exec(example, names)
    states = [trial.state for trial in names["study"].trials]
    assert len(states) == 30
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)


@pytest.mark.parametrize("rungs", [(), (0, 1), (3, 3), (4, 2)])
def test_rungs_must_be_positive_and_rise(rungs):
    with pytest.raises(ValueError, match="rungs must be positive and rise"):
        KnownCostProblem(rungs=rungs, cost=cost)


def test_a_negative_number_of_startup_trials_is_refused():
    with pytest.raises(ValueError, match="n_startup_trials"):
        FrontSampler(surrogate(), n_startup_trials=-1)


def test_it_learns_where_trials_fail_and_looks_elsewhere():
    def n_failures(sampler):
        """Of 40 trials where the best of the front, all large sizes of kind `a` with a high rate, never ends."""
        study = optuna.create_study(sampler=sampler)
        for _ in range(40):
            trial = study.ask()
            point = suggest(trial)
            if point.get("rate", 0.0) > 5e-2:
                study.tell(trial, state=TrialState.FAIL)
                continue
            for step in RUNGS:
                trial.report(error_at(point, step), step)
            study.tell(trial, final_error(point))
        return sum(trial.state is TrialState.FAIL for trial in study.trials)

    ours = [n_failures(FrontSampler(surrogate(), seed=seed)) for seed in range(3)]

    class Blind(KnownCostProblem):
        def failed(self, trial):
            return False

    blind = Blind(rungs=RUNGS, cost=cost, active=active)
    others = [n_failures(FrontSampler(Surrogate(blind), seed=seed)) for seed in range(3)]
    assert sum(ours) < 0.6 * sum(others)
