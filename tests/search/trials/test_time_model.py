# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from search.records.trial import TrialRecord, TrialState
from search.trials.time_model import TrainingTimeModel
from tests.search.toy_search import rung, trial_record


def test_nothing_is_estimated_before_the_first_observation():
    assert TrainingTimeModel().estimate(1.0, n_tokens=100) is None


def test_a_line_is_recovered_exactly():
    pace = TrainingTimeModel()
    for latency in (1.0, 2.0, 5.0):
        pace.observe(latency, n_tokens=1000, seconds=1000 * (0.01 + 0.002 * latency))
    assert pace.estimate(10.0, n_tokens=500) == pytest.approx(500 * (0.01 + 0.02))


def test_one_observation_holds_for_all():
    pace = TrainingTimeModel()
    pace.observe(2.0, n_tokens=100, seconds=3.0)
    assert pace.estimate(7.0, n_tokens=200) == pytest.approx(6.0)


@pytest.mark.parametrize("costs", [(3.0, 1.0), (0.001, 5.0)])
def test_estimates_are_never_negative(costs):
    pace = TrainingTimeModel()
    for latency, cost in zip((1.0, 2.0), costs, strict=True):
        pace.observe(latency, n_tokens=1, seconds=cost)
    assert all(pace.estimate(latency, n_tokens=10) >= 0.0 for latency in (0.01, 1.0, 100.0))


def test_earlier_trials_are_taken_rung_by_rung():
    record = TrialRecord(
        number=0,
        point={},
        spec=None,
        recipe=None,
        seed=0,
        predicted_latency_ms=2.0,
        rungs=(rung(100, 0.8, seconds=1.0), rung(300, 0.9, seconds=2.0)),
    )
    assert TrainingTimeModel.of([record]).estimate(2.0, n_tokens=1000) == pytest.approx(10.0)


def test_rungs_that_a_trial_took_over_count_once():
    first = trial_record(0, 2.0, 0.8, 0.9, state=TrialState.INTERRUPTED)
    second = replace(first, number=1, rungs=(*first.rungs, rung(300, 0.95, seconds=40.0)), continues=0)
    assert TrainingTimeModel.of([first, second]).estimate(2.0, n_tokens=300) == pytest.approx(10.0 + 10.0 + 40.0)
