# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

import pytest

from search.cli.watch import notify, watch
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialState
from search.storage.lock import COMMAND, exclusive, holder_of
from search.storage.store import Store
from search.storage.study_state import StudyState, latest_study
from search.study.clock import STEP
from search.trials.journal import TrialReader, read_trials
from search.trials.manager import TrialManager
from spaces.study import with_overrides
from tests.search.tiny_study import tiny_study
from tests.search.toy_search import ToyWork, Witness, plan

STUDY = "toy"


def train(manager, *, n_rungs=3):
    """One trial of the toy search, up to a rung."""
    record = manager.ask()
    work = ToyWork()
    work.start(record.spec, record.recipe, seed=0)
    for target in manager.plan.rungs[:n_rungs]:
        rung = work.advance(target)
        checkpoint = manager.plan.folder / "trials" / record.name / str(target)
        work.save(checkpoint)
        if not manager.reached(record.number, rung, checkpoint):
            break


def test_a_watcher_is_told_what_the_searchers_own_observers_are_told(tmp_path):
    own, watcher = Witness(), Witness()
    manager = TrialManager(plan(tmp_path, n_trials=6), observers=[own])
    reader = TrialReader(tmp_path, STUDY)
    before = ()
    for n_rungs in (3, 1, 3, 3):
        train(manager, n_rungs=n_rungs)
        now = reader.records()
        notify(before, now, [watcher])
        before = now
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    notify(before, reader.records(), [watcher])

    def facts(witness, event):
        return sorted((r.number, len(r.rungs), r.fidelity) for e, r in witness.events if e == event)

    for event in ("started", "rung", "ended"):
        assert facts(watcher, event) == facts(own, event)
    assert [r for e, r in watcher.events if e == "ended" and r.state is TrialState.INTERRUPTED]


def test_a_look_parses_only_what_has_changed(tmp_path):
    manager = TrialManager(plan(tmp_path, n_trials=6))
    reader = TrialReader(tmp_path, STUDY)
    for n_rungs in (3, 3):
        train(manager, n_rungs=n_rungs)
    before = {record.number: record for record in reader.records()}
    train(manager, n_rungs=1)
    now = {record.number: record for record in reader.records()}
    assert len(now) > len(before) >= 2
    assert all(now[number] is record for number, record in before.items())
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    assert reader.records() == read_trials(tmp_path, STUDY)


def test_watching_shows_another_process_search_and_ends_with_it(tmp_path, capfd):
    store = Store(tmp_path / "store")
    state = StudyState.of(store, STUDY)
    said = []
    watcher = threading.Thread(target=watch, args=(store, None), kwargs={"say": said.append})
    with exclusive(state.folder, lock=COMMAND):
        (tmp_path / "files").mkdir()
        state.claim(with_overrides(tiny_study(tmp_path / "files"), name=STUDY))
        manager = TrialManager(plan(state.folder, n_trials=6))
        watcher.start()
        train(manager)
        state.write(STEP, "graduating the front's students")
        time.sleep(2.5)
        assert watcher.is_alive()
    watcher.join(timeout=10.0)
    assert not watcher.is_alive()
    shown = capfd.readouterr().out
    assert "trial-0000 rung 3 of" in shown
    assert "trial-0000 complete" in shown
    assert "graduating the front's students" in shown
    assert "is running it" in said[0] and "no process is running it any more" in said[-1]


def test_asking_who_works_on_a_study_keeps_nobody_from_it(tmp_path):
    with exclusive(tmp_path, lock=COMMAND):
        pass
    ended = threading.Event()

    def ask():
        while not ended.is_set():
            holder_of(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            with exclusive(tmp_path, lock=COMMAND):
                pass
    finally:
        ended.set()
        asking.join()


def test_the_second_is_told_who_holds_the_study_and_how_to_look_on(tmp_path):
    assert holder_of(tmp_path) is None
    with exclusive(tmp_path, lock=COMMAND):
        assert "process " in holder_of(tmp_path)
        told = pytest.raises(ValueError, match=r"process \d+ on .* works on .*understudy watch")
        with told, exclusive(tmp_path, lock=COMMAND):
            pass
    assert holder_of(tmp_path) is None


def test_a_study_that_has_not_begun_cannot_be_watched(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="there is no study"):
        latest_study(store)
    with pytest.raises(ValueError, match="once its search has begun"):
        watch(store, "unknown", say=print)
