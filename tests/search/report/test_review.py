# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from search.optimiser.pareto import non_dominated
from search.records.trial import TrialState
from search.report.load import read_search
from search.report.review import MIN_COMPLETE, review_search
from search.storage.store import Store
from search.storage.study_state import CALIBRATION, StudyState
from search.trials.journal import open_storage
from tests.search.toy_search import RUNGS, SPACE, TEACHER, predict, record_search, trial_record


@pytest.fixture(scope="module", autouse=True)
def without_fsync():
    """The disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one search of 30 trials."""
    store = Store(tmp_path_factory.mktemp("store"))
    record_search(store, n_trials=30)
    return store


@pytest.fixture(scope="module")
def recorded(store):
    return read_search(store, "toy")


@pytest.fixture(scope="module")
def review(recorded):
    return review_search(recorded)


def test_the_journal_tells_space_teacher_rungs_and_latencies(recorded):
    assert recorded.space == SPACE
    assert recorded.teacher == TEACHER
    assert recorded.rungs == RUNGS
    for record in recorded.records:
        if record.spec is not None:
            assert recorded.predictor.predict(record.spec) == pytest.approx(record.predicted_latency_ms)
            assert recorded.predictor.predict(record.spec) == pytest.approx(predict(record.spec), rel=0.1)


def test_the_history_ends_with_the_front_of_all_complete_trials(review):
    complete = [record for record in review.records if record.state is TrialState.COMPLETE]
    assert len(review.history.steps) == len(complete)
    assert review.history.n_tokens == sum(record.n_tokens for record in review.records)
    values = [step.hypervolume for step in review.history.steps]
    assert values == sorted(values)
    cost_limit, error_limit = review.history.reference
    assert values[-1] <= (cost_limit - review.ideal[0]) * math.log2(error_limit / review.ideal[1])
    assert review.ideal[1] == pytest.approx(min(1.0 - record.fidelity.cosine for record in complete))


def test_the_places_on_the_front_are_those_that_no_complete_trial_beats(review):
    complete = [record for record in review.records if record.state is TrialState.COMPLETE]
    points = [(record.predicted_latency_ms, record.fidelity.cosine) for record in complete]
    best = {points[i] for i in non_dominated(points)}
    found = [position.record for position in review.positions if position.on_front]
    assert {(record.predicted_latency_ms, record.fidelity.cosine) for record in found} == best


def test_every_pruned_trial_names_who_dominated_it_and_that_one_is_no_slower(review):
    assert review.pruned
    for each in review.pruned:
        assert each.rivals
        for rival in each.rivals:
            assert rival.record.predicted_latency_ms <= each.record.predicted_latency_ms
            assert rival.rung is not None


def test_depth_decides_fidelity_and_latency_and_the_heads_decide_nothing(review):
    """As the toy's closed forms say."""
    for shares in (review.fidelity, review.latency):
        found = {each.name: each for each in shares.dimensions}
        assert set(found) == set(SPACE.names)
        assert shares.dimensions[0].name == "n_layers"
        assert found["n_heads"].high < 0.1
    latency = {each.name: each for each in review.latency.dimensions}
    assert latency["learning_rate"].total_effect == 0.0
    assert latency["static_path"].total_effect < 0.001
    assert latency["units"].total_effect > 0.0
    assert review.fidelity.explained > 0.8


def test_gaps_hold_what_was_tried_there_and_nothing_of_the_front(review):
    front = {position.record.number: position for position in review.positions if position.on_front}
    costs = {position.record.number: position.cost for position in review.positions}
    for i, each in enumerate(review.gaps):
        assert not {tried.number for tried in each.tried} & set(front)
        assert all(each.gap.low_cost <= costs[tried.number] < each.gap.high_cost for tried in each.tried)
        assert [tried.error for tried in each.tried] == sorted(tried.error for tried in each.tried)
        assert (each.best is None) == (each.n_candidates == 0) == (i not in review.students)
        if each.best is not None:
            assert each.gap.contains(each.best.cost)
            assert each.best.low_error < each.best.error < each.best.high_error
            assert 0.0 <= each.best.probability <= 1.0


def test_equal_searches_have_equal_reviews_and_none_changes_its_search(store, recorded, review):
    journal = store.study_folder("toy") / "trials.journal"
    before = journal.read_bytes()
    assert review_search(read_search(store, "toy")) == review
    assert journal.read_bytes() == before


@pytest.mark.slow
def test_a_calibration_is_found_in_the_cache_and_without_one_latencies_decide_nothing(store, review, tmp_path):
    moved = Store(tmp_path / "moved")
    shutil.copytree(store.root, moved.root)
    state = StudyState.of(moved, "toy")
    cached = moved.cache / "latency" / "latency-0123.json"
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(state.read(CALIBRATION).to_json()))
    state.path(CALIBRATION).unlink()
    assert review_search(read_search(moved, "toy")).latency == review.latency
    cached.write_text("{}")
    gone = read_search(moved, "toy", teacher=TEACHER)
    assert gone.predictor is None
    left = review_search(gone)
    assert left.latency.dimensions == ()
    assert "calibration" in left.latency.reason
    assert [step.record.number for step in left.history.steps] == [step.record.number for step in review.history.steps]
    assert read_search(moved, "toy").posterior() is None  # nobody knows the teacher


def test_another_predictor_than_the_one_that_predicted_is_not_used(store, tmp_path):
    moved = Store(tmp_path / "moved")
    shutil.copytree(store.root, moved.root)
    state = StudyState.of(moved, "toy")
    measured = state.read(CALIBRATION)
    slower = tuple(replace(point, latency_ms=1.5 * point.latency_ms) for point in measured.points)
    state.write(CALIBRATION, replace(measured, points=slower))
    assert read_search(moved, "toy").predictor is None


def test_few_trials_are_said_to_be_few(tmp_path):
    store = Store(tmp_path)
    record_search(store, n_trials=MIN_COMPLETE - 1)
    review = review_search(read_search(store, "toy"))
    assert review.fidelity.dimensions == ()
    assert "Too few trials" in review.fidelity.reason
    assert review.latency.dimensions  # which are known without any trial


def test_one_trial_is_a_review_too(tmp_path):
    store = Store(tmp_path)
    record_search(store, n_trials=1)
    review = review_search(read_search(store, "toy"))
    assert [count.arrived for count in review.rungs] == [1, 1, 1]
    assert len(review.history.steps) == 1
    assert review.pruned == ()
    assert len([position for position in review.positions if position.on_front]) == 1


def test_no_search_is_none_and_one_without_a_rung_shows_no_more_than_that(tmp_path):
    store = Store(tmp_path)
    assert read_search(store, "toy") is None
    record_search(store, n_trials=2, stop_after=0)
    review = review_search(read_search(store, "toy"))
    assert (review.records, review.history, review.gaps) == ((), None, ())


def test_an_interrupted_trial_that_is_continued_counts_once(tmp_path):
    store = Store(tmp_path)
    record_search(store, n_trials=3, stop_after=4)
    before = review_search(read_search(store, "toy"))
    assert [record.state for record in before.records] == [TrialState.COMPLETE, TrialState.INTERRUPTED]
    record_search(store, n_trials=3)
    after = review_search(read_search(store, "toy"))
    continued = [record for record in after.records if record.continues is not None]
    assert len(continued) == 1
    assert all(record.state is not TrialState.INTERRUPTED for record in after.records)
    assert after.history.n_tokens == sum(record.n_tokens for record in after.records)


def test_the_end_of_a_killed_trial_is_its_last_rung_and_not_when_the_next_search_noticed(tmp_path):
    store = Store(tmp_path)
    record_search(store, n_trials=1)
    storage = open_storage(store.study_folder("toy"))
    study = optuna.load_study(study_name="toy", storage=storage)
    killed = trial_record(1, 3.0, 0.8, 0.85, state=TrialState.RUNNING)  # two rungs of ten seconds
    trial = study.ask()
    trial.set_user_attr("record", killed.to_json())
    study.tell(trial, state=OptunaState.FAIL)
    (timed,) = (each for each in read_search(store, "toy").trials if each.record.number == 1)
    assert timed.record.state is TrialState.INTERRUPTED
    assert timed.ended - timed.started == pytest.approx(20.0)
