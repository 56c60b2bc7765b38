# SPDX-License-Identifier: Apache-2.0
"""Looks on while another process searches: reads the study's journal, shows its trials, and writes nothing.

The journal holds every change before anyone is told of it, so a watcher sees what the searching process shows, a moment
later. It may come and go at any time.
"""

from __future__ import annotations

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

LOOK_EVERY_S = 1.0


def watch(store: Store, name: str | None, *, say: Callable[[str], None]) -> None:
    """Shows the trials of study `name` (None: the one that was begun or continued last) as long as it is worked on.

    Raises ValueError if the store holds no such study.
    """
    name = latest_study(store) if name is None else name
    state = StudyState.of(store, name)
    study = state.read(STUDY)
    if study is None:
        raise UserError(f"a study can be watched once its search has begun, and {name} has not in {store.root}")
    holder, step = holder_of(state.folder), ""
    say(f"{name}: {f'{holder} works on it' if holder else 'nobody works on it'}")
    reader = TrialReader(state.folder, name)
    records: tuple[TrialRecord, ...] = ()
    objective = objective_of(study.objective)
    n_rungs, n_trials = len(study.search.rungs), study.search.n_trials
    with LiveTable(n_rungs=n_rungs, objective=objective, n_trials=n_trials) as table:
        while True:
            holder = holder_of(state.folder)
            before, records = records, reader.records()
            tell(before, records, [table])
            now = state.read(STEP) or ""
            if holder is not None and now != step:
                step = now
                table.say(step)
            if holder is None:
                break
            time.sleep(LOOK_EVERY_S)
    say(f"{name}: nobody works on it any more; `understudy front {name}` shows what was registered")


def tell(before: Sequence[TrialRecord], now: Iterable[TrialRecord], observers: Iterable[Observer]) -> None:
    """Tells observers what has happened to trials between two looks, as the search itself would have."""
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
