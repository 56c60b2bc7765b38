# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialState, trials_once
from search.report.rung_counts import count_rungs, pruned_trials, unmeasured
from tests.search.toy_search import trial_record

RUNGS = (100, 200, 300)
ENDS = [state for state in TrialState if state not in (TrialState.COMPLETE, TrialState.REFUSED)]


def trial(number, n_rungs, state, *, outcome=None, continues=None):
    record = trial_record(number, 1.0 + number, *([0.9] * n_rungs), state=state, continues=continues)
    return replace(record, outcome=outcome)


def test_every_trial_is_counted_by_what_it_did_next():
    trials = [
        trial(0, 3, TrialState.COMPLETE),
        trial(1, 1, TrialState.PRUNED),
        trial(2, 2, TrialState.FAILED),
        trial(3, 2, TrialState.INTERRUPTED),
        trial(4, 1, TrialState.RUNNING),
        trial(5, 0, TrialState.FAILED),
        trial(6, 0, TrialState.REFUSED, outcome=Outcome(OutcomeKind.HOPELESS, "predicted 9 ms")),
    ]
    first, second, third = count_rungs(trials, RUNGS)
    assert (first.arrived, first.continued, first.pruned, first.running) == (5, 3, 1, 1)
    assert (second.arrived, second.continued, second.failed, second.interrupted) == (3, 1, 1, 1)
    assert (third.arrived, third.complete) == (1, 1)
    assert unmeasured(trials) == {"failed": 1, "refused: hopeless": 1}


states = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ENDS)))


@given(states, st.integers(0, 3))
def test_the_parts_add_up_and_those_that_continued_arrive(drawn, n_complete):
    trials = [trial(i, n, state) for i, (n, state) in enumerate(drawn)]
    trials += [trial(len(drawn) + i, 3, TrialState.COMPLETE) for i in range(n_complete)]
    counts = count_rungs(trials, RUNGS)
    for count in counts:
        parts = [getattr(count, part.name) for part in fields(count) if part.name not in ("n_tokens", "arrived")]
        assert sum(parts) == count.arrived
    assert [count.continued for count in counts[:-1]] == [count.arrived for count in counts[1:]]
    assert counts[-1].continued == 0


def test_a_continued_trial_counts_once():
    trials = [
        trial(0, 1, TrialState.INTERRUPTED),
        trial(1, 2, TrialState.INTERRUPTED, continues=0),
        trial(2, 3, TrialState.COMPLETE, continues=1),
    ]
    assert [one.number for one in trials_once(trials)] == [2]
    assert [count.arrived for count in count_rungs(trials, RUNGS)] == [1, 1, 1]
    assert count_rungs(trials, RUNGS)[2].complete == 1


def test_a_pruned_trial_names_its_rivals_as_they_are_called_now():
    details = "at 200 tokens, predicted to end behind trial-0000 (1 ms) and trial-0001 (2 ms)"
    outcome = Outcome(OutcomeKind.DOMINATED, details, (0, 1))
    trials = [
        trial(0, 2, TrialState.INTERRUPTED),
        trial(1, 1, TrialState.RUNNING),
        trial(2, 2, TrialState.PRUNED, outcome=outcome),
        trial(3, 3, TrialState.COMPLETE, continues=0),
    ]
    (pruned,) = pruned_trials(trials, RUNGS)
    assert (pruned.record.number, pruned.target) == (2, 200)
    assert [rival.name for rival in pruned.rivals] == ["trial-0003", "trial-0001"]
    assert pruned.rivals[0].rung == trials[3].rungs[1]
    assert pruned.rivals[1].rung is None  # it has not got there


def test_a_rival_that_the_study_does_not_hold_is_still_named():
    outcome = Outcome(OutcomeKind.DOMINATED, "behind trial-0099", (99,))
    (pruned,) = pruned_trials([trial(0, 1, TrialState.PRUNED, outcome=outcome)], RUNGS)
    assert [(rival.name, rival.record) for rival in pruned.rivals] == [("trial-0099", None)]
