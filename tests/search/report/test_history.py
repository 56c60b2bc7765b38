# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optimiser.pareto import hypervolume
from search.records.objective import COSINE
from search.records.trial import TrialState
from search.report.history import TimedTrial, elapsed_clock, history_of
from tests.search.toy_search import trial_record

REFERENCE = (4.0, 0.5)


def timed(trial, started, told, *, before=None):
    return TimedTrial.of(trial, before, started=started, ended=told)


def test_two_workers_side_by_side_count_once():
    trials = [timed(trial_record(0, 2.0, 0.8, 0.9), 0.0, 20.0), timed(trial_record(1, 4.0, 0.9, 0.95), 0.0, 20.0)]
    history = history_of(trials, reference=REFERENCE, objective=COSINE)
    assert history.seconds == 20.0
    assert history.n_tokens == 400


def test_a_pause_between_commands_does_not_count():
    first, second = trial_record(0, 2.0, 0.8, 0.9), trial_record(1, 4.0, 0.9, 0.95)
    trials = [timed(first, 100.0, 120.0), timed(second, 9_000.0, 9_020.0)]
    history = history_of(trials, reference=REFERENCE, objective=COSINE)
    assert [step.seconds for step in history.steps] == [20.0, 40.0]
    assert [step.n_tokens for step in history.steps] == [200, 400]


def test_a_continued_trial_counts_once_whatever_ended_it():
    first = trial_record(0, 2.0, 0.8, state=TrialState.INTERRUPTED)
    second = replace(trial_record(1, 2.0, 0.8, 0.9, 0.95, continues=0))
    assert second.rungs[0] == first.rungs[0]
    # The driver was killed: its end was told by the next search, long after.
    history = history_of(
        [timed(first, 0.0, None), timed(second, 5_000.0, 5_020.0, before=first)], reference=REFERENCE, objective=COSINE
    )
    assert history.n_tokens == 300
    assert history.seconds == 10.0 + 20.0
    assert [step.record.number for step in history.steps] == [1]


def test_a_trial_that_lost_its_checkpoint_counts_what_it_trained_again():
    first = trial_record(0, 2.0, 0.8, state=TrialState.INTERRUPTED)
    second = trial_record(1, 2.0, 0.81, 0.9, continues=0)
    history = history_of(
        [timed(first, 0.0, 10.0), timed(second, 50.0, 70.0, before=first)], reference=REFERENCE, objective=COSINE
    )
    assert history.n_tokens == 300


def test_tokens_of_trials_that_still_run_count_when_they_have_reached_a_rung():
    slow = timed(trial_record(0, 4.0, 0.8, 0.9, 0.95), 0.0, 30.0)  # rungs after 10, 20 and 30 seconds
    fast = timed(trial_record(1, 1.0, 0.8), 5.0, 15.0)
    history = history_of([slow, fast], reference=REFERENCE, objective=COSINE)
    assert [(step.record.number, step.seconds, step.n_tokens) for step in history.steps] == [
        (1, 15.0, 200),
        (0, 30.0, 400),
    ]


@pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.COMPLETE])
def test_only_complete_trials_have_a_hypervolume(state):
    history = history_of(
        [timed(trial_record(0, 2.0, 0.9, state=state), 0.0, 10.0)], reference=REFERENCE, objective=COSINE
    )
    assert history.steps == ()
    assert history.n_tokens == 100


def test_no_trial_is_no_history():
    history = history_of([], reference=REFERENCE, objective=COSINE)
    assert (history.steps, history.seconds, history.n_tokens) == ((), 0.0, 0)


@given(st.lists(st.tuples(st.floats(0.5, 20.0), st.floats(0.4, 0.99)), min_size=1, max_size=8))
def test_each_step_is_the_hypervolume_of_all_that_was_complete(points):
    trials = [timed(trial_record(i, ms, cosine), 10.0 * i, 10.0 * (i + 1)) for i, (ms, cosine) in enumerate(points)]
    history = history_of(trials, reference=REFERENCE, objective=COSINE)
    for i, step in enumerate(history.steps):
        corners = [(math.log2(ms), -math.log2(1.0 - cosine)) for ms, cosine in points[: i + 1]]
        area = hypervolume(corners, (4.0, -math.log2(0.5)))
        assert step.hypervolume == pytest.approx(area, abs=1e-9)
    assert sum(step.gained for step in history.steps) == pytest.approx(history.steps[-1].hypervolume)


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda one: (one[0], one[0] + one[1])))


@given(intervals, st.integers(0, 90))
def test_the_busy_clock_counts_the_seconds_in_which_something_ran(spans, until):
    running = {second for start, end in spans for second in range(start, end) if second < until}
    assert elapsed_clock(spans)(until) == len(running)
