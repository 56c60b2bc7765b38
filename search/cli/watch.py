# SPDX-License-Identifier: Apache-2.0
"""Shows the trials of a study that another process searches: polls its journal, read-only.

The search writes every change to the journal before it notifies its observers, so this shows what the search shows, at
most one polling interval later. It may be started and stopped at any time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from search.console.live_table import LiveTable
from search.records.objective import objective_of
from search.records.trial import Observer, TrialRecord, TrialState
from search.storage.lock import holder_of
from search.storage.store import Store
from search.storage.study_state import STUDY, StudyState, latest_study
from search.study.clock import STEP
from search.trials.journal import TrialReader
from spaces.errors import UserError

POLL_INTERVAL_S = 1.0


def watch(store: Store, name: str | None, *, say: Callable[[str], None]) -> None:
    """Shows the trials of study `name` (None: the one that was run last) until no process runs it any more.

    Raises ValueError if the store holds no such study.
    """
    name = latest_study(store) if name is None else name
    state = StudyState.of(store, name)
    study = state.read(STUDY)
    if study is None:
        raise UserError(
            f"a study can be watched once its search has begun, but {name} has not begun in "
            f"{store.root}; start it with `understudy search`, or check --store"
        )
    holder, step = holder_of(state.folder), ""
    say(f"{name}: {holder or 'no process'} is running it")
    reader = TrialReader(state.folder, name)
    records: tuple[TrialRecord, ...] = ()
    objective = objective_of(study.objective)
    n_rungs, n_trials = len(study.search.rungs), study.search.n_trials
    with LiveTable(n_rungs=n_rungs, objective=objective, n_trials=n_trials, file=sys.stdout) as table:
        while True:
            holder = holder_of(state.folder)
            before, records = records, reader.records()
            notify(before, records, [table])
            now = state.read(STEP) or ""
            if holder is not None and now != step:
                step = now
                table.say(step)
            if holder is None:
                break
            time.sleep(POLL_INTERVAL_S)
    say(f"{name}: no process is running it any more; `understudy front {name}` shows what was registered")


def notify(before: Sequence[TrialRecord], now: Iterable[TrialRecord], observers: Iterable[Observer]) -> None:
    """Calls the observers for every change of trials from `before` to `now`, as the search itself does."""
    observers = tuple(observers)
    known = {record.number: record for record in before}
    for record in now:
        earlier = known.get(record.number)
        if earlier == record:
            continue
        running = replace(record, state=TrialState.RUNNING, outcome=None)
        if earlier is None and record.state is not TrialState.REFUSED:
            for observer in observers:
                observer.trial_started(replace(running, rungs=()))
        for n_rungs in range(0 if earlier is None else len(earlier.rungs), len(record.rungs)):
            for observer in observers:
                observer.rung_reached(replace(running, rungs=record.rungs[: n_rungs + 1]))
        if record.state is not TrialState.RUNNING:
            for observer in observers:
                observer.trial_ended(record)
