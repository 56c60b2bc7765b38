# SPDX-License-Identifier: Apache-2.0
"""A store that was written before its files had format numbers goes on: each file is as that version wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.graduation.state import DONE, GraduationState
from search.records.trial import TrialState
from search.storage.store import Store
from search.storage.study_state import CALIBRATION, STUDY, StudyState, latest_study
from search.study.clock import CLOCK, STEP, StudyClock
from search.study.limits import COMPLETE, SEARCHED, RequestedLimits
from search.study.measure import MEASUREMENT
from search.study.prepare import TABLE_SECONDS
from search.study.references import REFERENCES
from search.study.teacher_outputs import CACHED_TEXT, CachedText
from search.trials.journal import read_trials
from spaces.study import StudySpec, parse_study

FIDELITY = {
    "cosine": 0.9,
    "cosine_p5": 0.8,
    "cosine_centred": 0.85,
    "spearman": 0.7,
    "overlap_at_1": 0.5,
    "overlap_at_10": 0.6,
    "constant_baseline": 0.3,
}
SPEC = {
    "vocabulary_size": 100,
    "output_dim": 32,
    "encoder": {
        "n_layers": 2,
        "width": 32,
        "n_heads": 4,
        "head_width": 8,
        "feed_forward": {"units": 64, "kind": "dense"},
        "max_tokens": 16,
        "sparsity": 0.0,
        "embedding_dim": None,
        "pooling": "mean",
        "projection": None,
        "activation": "gelu",
        "layer_norm_epsilon": 1e-12,
    },
    "static": None,
    "normalise": True,
}
RECIPE = {
    "losses": {"cosine": 1.0, "query_key": 0.0, "value_value": 0.0, "hidden": 0.0, "similarity": 0.0},
    "learning_rate": 3e-4,
    "table_learning_rate": 1e-3,
    "temperature": 0.05,
    "n_relation_heads": 12,
    "balance_weight": 0.01,
    "batch_tokens": 1536,
    "warmup_tokens": 20000,
    "decay_share": 0.5,
    "average_decay": 0.99,
    "pruning_tokens": 50000,
    "precision": "bfloat16",
}
PROFILE = {"runtime": "engine", "batch_size": 1, "n_tokens": 8, "n_threads": 1}
SEARCH = {
    "rungs": [600, 1200],
    "n_trials": 4,
    "time_budget": "5m",
    "n_workers": 2,
    "n_startup_trials": 4,
    "patience": 4.0,
    "rung_time_limit": None,
    "trial_memory_gib": None,
    "seed": 0,
}
GRADUATION = {"n_tokens": 6000, "max_students": 3, "share": 0.45, "n_workers": 2, "workers_per_student": 1}
STUDY_JSON = {
    "name": "old",
    "teachers": [{"source": "package:some-teacher", "weight": 1.0, "sha256": None}],
    "corpus": {
        "sources": [{"source": "installed-docs", "column": None, "split": None, "configuration": None}],
        "min_characters": 20,
        "max_characters": 240,
        "min_words": 5,
        "held_out": 2000,
        "max_tokens": 64,
        "limit": None,
    },
    "profile": PROFILE,
    "search": SEARCH,
    "graduation": GRADUATION,
    "space": {
        "n_layers": {"low": 0, "high": 2, "log": False, "step": 1},
        "units": {"options": [32, 64]},
        "batch_tokens": {"value": 128},
    },
    "initial_points": [{"n_layers": 0}],
}
STUDY_FILE = """
name: old
teachers: [package:some-teacher]
corpus: {sources: [installed-docs]}
profile: {n_tokens: 8}
search: {rungs: [600, 1200], n_trials: 4, n_workers: 2, n_startup_trials: 4, time_budget: 300s}
graduation: {n_tokens: 6000, n_workers: 2, max_students: 3}
space: {n_layers: {low: 0, high: 2}, units: [32, 64], batch_tokens: 128}
initial_points: [{n_layers: 0}]
"""


def rung(n_tokens: int) -> dict[str, Any]:
    """Of a trial or a graduation."""
    return {"n_tokens": n_tokens, "fidelity": FIDELITY, "loss": 0.1, "seconds": 2.5, "tokens_per_s": 300.0}


def entry(name: str) -> dict[str, Any]:
    """Of the final measurement."""
    return {
        "name": name,
        "version": None,
        "aliases": [],
        "n_layers": 2,
        "spec": SPEC,
        "latency_ms": 1.5,
        "latency_interval_ms": [1.4, 1.6],
        "speedup": 2.0,
        "n_parameters": 1000,
        "n_bytes": 4000,
        "fidelity": FIDELITY,
        "uri": None,
        "dominated_by": None,
        "on_front": True,
    }


FILES: dict[str, dict[str, Any]] = {
    "study.json": STUDY_JSON,
    "clock.json": {"spent_s": 123.5},
    "step.json": {"step": "searching"},
    "preparation.json": {"n_sentences": 500, "cache_s": 39.0},
    "static-table.json": {"seconds": 9.0},
    "calibration.json": {
        "format": 1,
        "profile": PROFILE,
        "machine": "a machine",
        "points": [{"spec": SPEC, "latency_ms": 3.0}, {"spec": SPEC, "latency_ms": 1.5}],
    },
    "references.json": {"key": "abc", "fidelities": {"teacher": FIDELITY}},
    "measurement.json": {"key": "def", "references": [entry("teacher")], "students": [entry("trial-0000")]},
    "search.json": {"search": SEARCH},
    "complete.json": {"search": SEARCH, "graduation": GRADUATION},
    "graduation/trial-0000/graduation.json": {
        "status": "done",
        "outcome": "",
        "start_tokens": 1200,
        "decay": [3000, 6000],
        "seconds": 20.0,
        "curve": [rung(6000)],
        "n_deaths": 0,
        "limits": None,
    },
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The files of one complete study."""
    store = Store(tmp_path / "store")
    folder = store.study_folder("old")
    for name, document in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document, indent=1))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / "trials.journal")))
    journal = optuna.create_study(study_name="old", storage=storage, directions=["minimize", "maximize"])
    for n_rungs, state in ((2, "complete"), (1, "interrupted")):
        trial = journal.ask()
        checkpoint = f"trials/trial-{trial.number:04d}/rung-{n_rungs}"
        (folder / checkpoint).mkdir(parents=True)
        record = {
            "number": trial.number,
            "point": {"n_layers": 2, "units": 64},
            "spec": SPEC,
            "recipe": RECIPE,
            "seed": 3,
            "predicted_latency_ms": 1.5,
            "state": state,
            "outcome": state,
            "rungs": [rung(600), rung(1200)][:n_rungs],
            "checkpoint": checkpoint,
            "continues": None,
        }
        trial.set_user_attr("record", record)
        if state == "complete":
            journal.tell(trial, values=[1.5, 0.9])
        else:
            journal.tell(trial, state=optuna.trial.TrialState.FAIL)
    return store


@pytest.fixture
def study() -> StudySpec:
    """The same study, as today's version reads its file."""
    return parse_study(STUDY_FILE)


def test_the_facts_are_read(store: Store, study: StudySpec) -> None:
    assert latest_study(store) == "old"
    state = StudyState.of(store, "old")
    assert state.read(STUDY) == study
    assert state.read(CLOCK) == 123.5 and state.read(STEP) == "searching"
    assert state.read(CACHED_TEXT) == CachedText(n_sentences=500, cache_s=39.0)
    assert state.read(TABLE_SECONDS) == 9.0
    calibration = state.read(CALIBRATION)
    assert calibration is not None and [point.latency_ms for point in calibration.points] == [3.0, 1.5]
    references, measured = state.read(REFERENCES), state.read(MEASUREMENT)
    assert references is not None and references.fidelities["teacher"].cosine == 0.9
    assert measured is not None and [one.name for one in measured.students] == ["trial-0000"]


def test_the_study_is_the_same_and_complete(store: Store, study: StudySpec) -> None:
    state = StudyState.of(store, "old")
    state.claim(study)
    assert state.read(SEARCHED) == study.search
    assert state.read(COMPLETE) == RequestedLimits.of(study)
    assert StudyClock(state, now=lambda: 0.0).spent_s() == 123.5


def test_the_trials_and_the_graduation_are_read(store: Store) -> None:
    folder = store.study_folder("old")
    complete, interrupted = read_trials(folder, "old")
    assert (complete.state, complete.n_tokens, complete.seed) == (TrialState.COMPLETE, 1200, 3)
    assert (interrupted.state, interrupted.n_tokens) == (TrialState.INTERRUPTED, 600)
    assert interrupted.checkpoint == folder / "trials" / "trial-0001" / "rung-1"
    state = GraduationState.read(folder / "graduation" / "trial-0000")
    assert state is not None
    assert (state.status, state.decay, state.n_tokens) == (DONE, (3000, 6000), 6000)


def test_what_is_written_over_it_is_read_again(store: Store, study: StudySpec) -> None:
    state = StudyState.of(store, "old")
    for fact in (STUDY, CLOCK, STEP, CACHED_TEXT, TABLE_SECONDS, CALIBRATION, REFERENCES, MEASUREMENT, COMPLETE):
        before = state.read(fact)
        assert before is not None
        state.write(fact, before)
        assert json.loads(state.path(fact).read_text())["format"] == 1
        assert state.read(fact) == before
