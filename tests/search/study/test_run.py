# SPDX-License-Identifier: Apache-2.0
"""Claims about a whole study: a real teacher, tiny; real trials, graduation and registry, command after command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from runtime.atomic import write_json
from runtime.loading import load
from search.optimiser.pareto import dominates
from search.records.front import Front
from search.records.objective import COSINE
from search.records.trial import TrialState
from search.report.load import read_search
from search.report.review import review_search
from search.storage.lock import exclusive
from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.clock import CLOCK
from search.study.limits import COMPLETE, RequestedLimits
from search.study.run import run_search
from search.tracking.client import activated, client_of
from search.tracking.registry import load_trials, resolve_model
from search.tracking.runs_page import runs_page
from search.trials.journal import read_trials
from search.workers.cluster import cluster
from spaces.study import StudySpec, with_overrides
from tests.search.reporters import Silent
from tests.search.tiny_study import longer, tiny_study, write_teacher

SENTENCES = ["ba del fim go lun mar", "nik pesh ra sel tim vo", "zun bar cik"]
TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)

# Ray Train 2.60 uses what Ray Data 2.60 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray.data.context")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return tiny_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def interrupted(study: StudySpec, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A signal in the midst of each phase, and the same command again: what each command said, by its last phase.

    All processes of the command get it, as from a terminal, systemd or SLURM.
    """
    scratch, folder = tmp_path_factory.mktemp("interrupted"), store.study_folder(study.name)
    path = scratch / "study.yaml"
    path.write_text(json.dumps(study.to_json()))
    command = [sys.executable, "-m", "search", "search", str(path), "--store", str(store.root)]
    moments = {
        "preparation": lambda: (folder / "study.json").exists(),
        "search": lambda: any(record.rungs for record in read_trials(folder, study.name)),
        "graduation": lambda: any(folder.glob("graduation/*/graduation.json")),
    }
    signals = {"preparation": signal.SIGINT, "search": signal.SIGTERM, "graduation": signal.SIGHUP}
    said: dict[str, str] = {}
    measured: dict[str, int] = {}
    for phase, has_come in moments.items():
        log = scratch / f"{phase}.log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        while not has_come():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signals[phase])
        assert process.wait(timeout=100) == 130, log.read_text()
        end = time.monotonic() + 60
        with pytest.raises(ProcessLookupError):  # nothing is left of the group
            while time.monotonic() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        said[phase] = log.read_text()
        assert "Traceback" not in said[phase] and "***" not in said[phase], said[phase]
        records = read_trials(folder, study.name)
        assert all(record.state is not TrialState.RUNNING for record in records)
        n_rungs = {record.name: len(record.rungs) for record in records}
        assert all(n_rungs[name] >= n for name, n in measured.items()), "a measured rung is lost"
        measured = n_rungs
    return said


@pytest.fixture(scope="module")
def front(study: StudySpec, store: Store, interrupted: dict[str, str]) -> Front:
    """What the fourth command, which nobody interrupts, returns."""
    before = read_trials(store.study_folder(study.name), study.name)
    document = run_search(study, store=store, progress=Silent())
    after = read_trials(store.study_folder(study.name), study.name)
    assert tuple(record for record in after if record in before) == before
    return document


def training_of(store: Store, study: str, trial: str) -> dict[str, float]:
    """What a graduate's folder says of its training."""
    path = store.study_folder(study) / "graduation" / trial / "student" / "student.json"
    training: dict[str, float] = json.loads(path.read_text())["training"]
    return training


def test_a_study_that_changed_its_meaning_is_refused_before_any_compute(study: StudySpec, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    StudyState.of(store, study.name).claim(study)
    changed = replace(study, corpus=replace(study.corpus, held_out=64))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"another corpus.*--name"):
        run_search(changed, store=store, progress=Silent())
    assert time.monotonic() - start < 2.0
    assert not store.exists()


def test_a_study_and_a_store_from_before_new_keys_of_the_search_go_on(study: StudySpec, tmp_path: Path) -> None:
    state, before = StudyState.of(Store(tmp_path / "store"), study.name), study.to_json()
    for key in ("device", "sampler", "pruner"):
        del before["search"][key]
    before["search"]["patience"] = before["search"].pop("prune_ratio")
    write_json(state.folder / "study.json", before, durable=False)
    limits = {"search": before["search"], "graduation": before["graduation"]}
    write_json(state.folder / "complete.json", limits, durable=False)
    state.claim(study)
    assert state.read(COMPLETE) == RequestedLimits.of(study)


def test_one_command_at_a_time_runs_a_study(study: StudySpec, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with (
        exclusive(store.study_folder(study.name), lock="run.lock"),
        pytest.raises(ValueError, match=f"one search at a time .* process {os.getpid()} on "),
    ):
        run_search(study, store=store, progress=Silent())


@pytest.mark.slow
def test_ctrl_c_in_any_phase_ends_in_order_and_the_same_command_goes_on(interrupted: dict[str, str]) -> None:
    for said in interrupted.values():
        assert "interrupted" in said and "Traceback" not in said
    assert "training the static table" in interrupted["search"]
    assert "training the static table" not in interrupted["graduation"]


@pytest.mark.slow
def test_a_study_ends_with_a_registered_front_and_all_references(front: Front) -> None:
    names = ["teacher", "teacher-on-engine", "teacher-first-1-layer", "static-table"]
    assert [entry.name for entry in front.references] == names
    assert front.references[0].fidelity.cosine == pytest.approx(1.0, abs=1e-5)
    assert front.students
    for student in front.students:
        assert student.version is not None
        low_ms, high_ms = student.latency_interval_ms
        assert low_ms <= student.latency_ms <= high_ms
        assert not any(dominates(front.point_of(reference), front.point_of(student)) for reference in front.references)
    assert {alias for student in front.students for alias in student.aliases} >= {"fastest", "most-faithful"}
    for entry in front.competing_references():
        assert (entry.aliases, entry.uri) == ((entry.name,), f"models:/{front.study}/{entry.version}")
    json.dumps(front.to_json(), allow_nan=False)


@pytest.mark.slow
def test_every_trial_ends_and_is_a_run(front: Front, study: StudySpec, store: Store) -> None:
    records = read_trials(store.study_folder(study.name), study.name)
    assert len([record for record in records if record.state in TRAINED]) == study.search.n_trials
    continued = {record.continues for record in records}  # whoever continues a trial takes over its run
    own = {record.name for record in records if record.number not in continued}
    assert {trial.name for trial in load_trials(store, study.name, COSINE)} == own


@pytest.mark.slow
def test_mlflow_holds_no_python_and_shows_the_runs(front: Front, study: StudySpec, store: Store) -> None:
    client = client_of(store)
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions(f"name='{study.name}'")
    texts = [
        experiment.tags,
        *(run.data.tags | run.data.params for run in runs),
        *(version.tags for version in versions),
    ]
    python = re.compile(r"\{'|\['|\('|\b(None|True|False)\b|<[a-z.]+ object")
    assert [text for texts_of_one in texts for text in texts_of_one.values() if python.search(text)] == []
    red = {run.data.tags.get("understudy.state") for run in runs if run.info.status != "FINISHED"}
    assert red <= {"failed", "interrupted"}
    assert runs_page(store).endswith("&viewStateShareKey=understudy")


@pytest.mark.slow
def test_the_search_in_review_is_the_one_that_was_made(front: Front, study: StudySpec, store: Store) -> None:
    search = read_search(store, study.name)
    assert search is not None and search.predictor is not None  # so it predicts what the records say
    assert search.records == read_trials(store.study_folder(study.name), study.name)
    review = review_search(search)
    assert review.history is not None
    assert review.history.n_tokens == sum(record.n_tokens for record in review.records)
    assert 0.0 < review.history.seconds < StudyState.of(store, study.name).read(CLOCK)
    assert len(review.history.steps) == sum(record.state is TrialState.COMPLETE for record in review.records)


@pytest.mark.slow
def test_graduates_see_all_their_tokens_and_beat_their_trials(front: Front, study: StudySpec, store: Store) -> None:
    folder = store.study_folder(study.name)
    graduated = [r for r in read_trials(folder, study.name) if (folder / "graduation" / r.name).is_dir()]
    assert len(graduated) >= 2
    assert study.graduation.n_tokens is not None
    for record in graduated:
        training = training_of(store, study.name, record.name)
        assert 0 <= training["n_tokens"] - study.graduation.n_tokens < 256
        assert record.fidelity is not None
        assert training["fidelity"]["cosine"] > record.fidelity.cosine  # type: ignore[index]
        assert not (folder / "graduation" / record.name / "state").exists()


@pytest.mark.slow
def test_a_registered_student_embeds_as_its_folder_does(front: Front, store: Store) -> None:
    import mlflow

    for student in (*front.students, *front.competing_references()):
        with activated(store):
            vectors = np.asarray(mlflow.pyfunc.load_model(student.uri).predict(SENTENCES))
        expected = load(resolve_model(store, f"{front.study}/{student.version}")).encode(SENTENCES)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.slow
def test_the_same_command_ends_at_once_with_the_same_front(front: Front, study: StudySpec, store: Store) -> None:
    start = time.monotonic()
    again = run_search(study, store=store, progress=Silent())
    assert time.monotonic() - start < 5.0
    assert again.students == front.students
    assert again.references == front.references


@pytest.mark.slow
def test_more_trials_and_a_longer_graduation_go_on_from_there(front: Front, study: StudySpec, store: Store) -> None:
    folder = store.study_folder(study.name)
    before = read_trials(folder, study.name)
    assert study.search.n_trials is not None
    more = with_overrides(study, trials=study.search.n_trials + 2, time_budget=500.0)
    document = run_search(longer(more, n_tokens=12_000), store=store, progress=Silent())
    after = read_trials(folder, study.name)
    assert after[: len(before)] == before
    assert len([record for record in after if record.state in TRAINED]) == study.search.n_trials + 2
    assert max(training_of(store, study.name, student.name)["n_tokens"] for student in document.students) >= 12_000
    best = max(student.fidelity.cosine for student in document.students)
    assert best >= max(student.fidelity.cosine for student in front.students)


@pytest.mark.slow
def test_a_teacher_that_has_changed_is_found_out_before_anything_more_graduates(
    front: Front, study: StudySpec, store: Store, tmp_path: Path
) -> None:
    folder, kept = Path(study.teachers[0].source), tmp_path / "teacher"
    shutil.copytree(folder, kept)
    graduations = {path: path.stat().st_mtime_ns for path in store.root.rglob("graduation.json")}
    try:
        write_teacher(folder, seed=1)
        with pytest.raises(ValueError, match=r"continued with what it began with: teachers changed .*--name"):
            run_search(longer(study, n_tokens=20_000), store=store, progress=Silent())
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("graduation.json")} == graduations


@pytest.mark.slow
def test_a_ray_that_was_there_before_is_there_after(study: StudySpec, tmp_path: Path) -> None:
    gone = replace(study, teachers=(replace(study.teachers[0], source=str(tmp_path / "gone")),))
    with cluster(n_cpus=1):
        with pytest.raises((ValueError, FileNotFoundError)):
            run_search(gone, store=Store(tmp_path / "store"), progress=Silent())
        assert ray.is_initialized()
