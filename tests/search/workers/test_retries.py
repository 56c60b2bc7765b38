# SPDX-License-Identifier: Apache-2.0
"""Claims about trials whose worker ended under them. What Ray says of deaths is asked of Ray in test_tune.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.records.trial import TrialState
from search.trials.journal import read_trials
from search.trials.manager import TrialManager
from search.workers.retries import MOST_TRIES, NODE_DIED, WORKER_DIED, outcome_of_death
from tests.search.toy_search import Witness, plan, train


@pytest.fixture
def ledger(tmp_path):
    """A search of three trials."""
    return TrialManager(plan(tmp_path, n_trials=3), observers=[Witness()])


def test_what_ray_says_of_memory_comes_before_the_death_that_follows_from_it() -> None:
    text = "ActorDiedError: worker process has died. Task was killed due to the node running low on memory."
    assert outcome_of_death(text).startswith("out of memory: ")


def test_a_lost_trial_goes_on_from_its_last_rung_before_any_other_begins(ledger) -> None:
    record = train(ledger, ledger.ask(), rungs=1)
    half = ledger.plan.folder / "trials" / record.name / "rung-2"
    half.mkdir()
    ledger.lost(record.number, "worker died: by a signal", details="what Ray says")
    again = ledger.ask()
    assert (again.continues, again.point) == (record.number, record.point)
    assert again.rungs == record.rungs
    assert again.checkpoint == record.checkpoint
    assert again.checkpoint.is_dir() and not half.exists()
    assert (ledger.plan.folder / "errors" / f"{record.name}.txt").read_text() == "what Ray says"
    ledger.close("interrupted: Ctrl-C")
    assert [each.state for each in read_trials(ledger.plan.folder, "toy")] == [TrialState.INTERRUPTED] * 2


def test_a_lost_trial_does_not_count_twice(ledger) -> None:
    ledger.lost(ledger.ask().number, "node died: it is gone")
    begun = []
    while (record := ledger.ask()) is not None:
        begun.append(train(ledger, record))
    assert len(begun) == 3
    assert begun[0].continues == 0


def test_a_search_that_has_begun_its_last_trial_still_goes_on_with_a_lost_one(ledger) -> None:
    running = [ledger.ask() for _ in range(3)]
    assert ledger.ask() is None and ledger.running
    ledger.lost(running[1].number, "node died: it is gone")
    assert ledger.ask().continues == running[1].number
    assert ledger.ask() is None


@pytest.mark.parametrize("kind", [WORKER_DIED, NODE_DIED])
def test_a_trial_lost_too_often_at_one_rung_is_failed(ledger, kind: str) -> None:
    record = ledger.ask()
    for _ in range(MOST_TRIES[kind] - 1):
        ledger.lost(record.number, kind)
        record = ledger.ask()
        assert record.continues is not None
    ledger.lost(record.number, kind)
    assert ledger.records[-1].state is TrialState.FAILED
    assert ledger.records[-1].outcome == f"{kind}; {MOST_TRIES[kind]} times at this rung"
    assert ledger.ask().continues is None


def test_a_new_rung_gives_all_tries_back(ledger) -> None:
    record = ledger.ask()
    for n_rungs in (1, 2):
        for _ in range(MOST_TRIES[WORKER_DIED] - 1):
            ledger.lost(record.number, WORKER_DIED)
            record = ledger.ask()
            assert record.continues is not None
        record = train(ledger, record, rungs=n_rungs)
        assert record.state is TrialState.RUNNING


def test_a_trial_that_has_ended_cannot_be_lost(ledger) -> None:
    record = train(ledger, ledger.ask())
    before = ledger.records
    ledger.lost(record.number, WORKER_DIED)
    assert ledger.records == before


def test_a_killed_driver_in_between_changes_nothing_about_who_continues_whom(ledger) -> None:
    record = train(ledger, ledger.ask(), rungs=1)
    ledger.lost(record.number, "node died: it is gone")
    again = TrialManager(replace(ledger.plan))
    continued = [again.ask() for _ in range(2)]
    assert [each.continues for each in continued] == [record.number, None]
