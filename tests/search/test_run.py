# SPDX-License-Identifier: Apache-2.0
"""Claims about a whole study, run as a user runs it: in a process of its own, with a real teacher, tiny."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.encoder import load
from search.cluster import connect
from search.entry import FrontDocument
from search.front import dominates
from search.progress import Silent
from search.registry import load_trials, resolve_model
from search.run import run_search
from search.store import Store
from search.study_state import StudyState
from search.trial_storage import exclusive, read_trials
from spaces.study import StudySpec, with_overrides
from tests.search.tiny_study import longer, tiny_study

SENTENCES = ["ba del fim go lun mar", "nik pesh ra sel tim vo", "zun bar cik"]


def test_a_study_that_changed_its_meaning_is_refused_before_any_compute(tmp_path: Path) -> None:
    study, store = tiny_study(tmp_path), Store(tmp_path / "store")
    StudyState.of(store, study.name).claim(study)
    from dataclasses import replace

    changed = replace(study, corpus=replace(study.corpus, held_out=64))
    start = time.monotonic()
    with pytest.raises(ValueError, match="another corpus.*--name"):
        run_search(changed, store=store, progress=Silent())
    assert time.monotonic() - start < 2.0
    assert not store.exists()


def test_one_command_at_a_time_runs_a_study(tmp_path: Path) -> None:
    study, store = tiny_study(tmp_path), Store(tmp_path / "store")
    with (
        exclusive(store.study_folder(study.name), lock="run.lock"),
        pytest.raises(ValueError, match="one search at a time"),
    ):
        run_search(study, store=store, progress=Silent())


@pytest.mark.slow
class TestWholeStudy:
    """One study in one store, command after command."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("study")

    @pytest.fixture(scope="class")
    def study(self, folder: Path) -> StudySpec:
        return tiny_study(folder)

    @pytest.fixture(scope="class")
    def store(self, folder: Path) -> Store:
        return Store(folder / "store")

    @pytest.fixture(scope="class")
    def front(self, study: StudySpec, store: Store) -> FrontDocument:
        return run_search(study, store=store, progress=Silent())

    def test_it_ends_with_a_registered_front_and_all_references(self, front: FrontDocument) -> None:
        assert [entry.name for entry in front.references] == ["teacher", "teacher-first-1-layer", "static-table"]
        assert front.references[0].fidelity.cosine == pytest.approx(1.0, abs=1e-5)
        assert front.students
        for student in front.students:
            assert student.version is not None
            low_ms, high_ms = student.latency_interval_ms
            assert low_ms <= student.latency_ms <= high_ms
            assert not any(dominates(reference.point, student.point) for reference in front.references)
        assert {alias for student in front.students for alias in student.aliases} >= {"fastest", "most-faithful"}
        json.dumps(front.to_json(), allow_nan=False)

    def test_every_trial_is_a_run_and_the_trials_ended(self, front: FrontDocument, study: StudySpec, store: Store) -> None:
        records = read_trials(store.study_folder(study.name), study.name)
        trained = [record for record in records if record.state in ("complete", "pruned")]
        assert len(trained) == study.search.n_trials
        assert {trial.name for trial in load_trials(store, study.name)} == {record.name for record in records}

    def test_graduates_were_trained_to_the_end_and_beat_their_trials(
        self, front: FrontDocument, study: StudySpec, store: Store
    ) -> None:
        folder = store.study_folder(study.name)
        for record in read_trials(folder, study.name):
            path = folder / "graduation" / record.name / "student" / "student.json"
            if path.exists():
                training = json.loads(path.read_text())["training"]
                assert study.graduation.n_tokens <= training["n_tokens"] < study.graduation.n_tokens + 256
                assert record.fidelity is not None
                assert training["fidelity"]["cosine"] > record.fidelity.cosine

    def test_a_registered_student_embeds_as_its_folder_does(self, front: FrontDocument, store: Store) -> None:
        import mlflow

        for student in front.students:
            with store.activated():
                model = mlflow.pyfunc.load_model(student.uri)
                vectors = np.asarray(model.predict(SENTENCES))
            expected = load(resolve_model(store, f"{front.study}/{student.version}")).encode(SENTENCES)
            np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def test_the_same_command_ends_at_once_with_the_same_front(
        self, front: FrontDocument, study: StudySpec, store: Store
    ) -> None:
        start = time.monotonic()
        again = run_search(study, store=store, progress=Silent())
        assert time.monotonic() - start < 5.0
        assert again.students == front.students
        assert again.references == front.references

    def test_more_trials_and_a_longer_graduation_go_on_from_there(
        self, front: FrontDocument, study: StudySpec, store: Store
    ) -> None:
        folder = store.study_folder(study.name)
        before = read_trials(folder, study.name)
        assert study.search.n_trials is not None
        more = longer(with_overrides(study, trials=study.search.n_trials + 2), n_tokens=12_000)
        document = run_search(more, store=store, progress=Silent())
        after = read_trials(folder, study.name)
        assert after[: len(before)] == before
        assert len([r for r in after if r.state in ("complete", "pruned")]) == study.search.n_trials + 2
        for student in document.students:
            training = json.loads((folder / "graduation" / student.name / "student" / "student.json").read_text())
            assert training["training"]["n_tokens"] >= 12_000
        best = max(student.fidelity.cosine for student in document.students)
        assert best > max(student.fidelity.cosine for student in front.students)


@pytest.mark.slow
def test_ctrl_c_in_any_phase_keeps_what_is_measured_and_the_same_command_goes_on(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    script = (
        "import sys, json; from pathlib import Path;"
        "from search.run import run_search; from search.store import Store; from spaces.study import load_study;"
        "front = run_search(load_study(sys.argv[1]), store=Store(Path(sys.argv[2])));"
        "print(json.dumps(front.to_json()))"
    )
    (tmp_path / "study.yaml").write_text(json.dumps(study.to_json()))
    store = Store(tmp_path / "store")
    folder = store.study_folder(study.name)
    command = [sys.executable, "-c", script, str(tmp_path / "study.yaml"), str(store.root)]
    moments = {
        "preparation": lambda: (folder / "study.json").exists(),
        "search": lambda: any(record.rungs for record in read_trials(folder, study.name)),
        "graduation": lambda: any(folder.glob("graduation/*/graduation.json")),
    }
    seen: list[tuple[str, int]] = []
    for phase, has_come in moments.items():
        with (tmp_path / f"{phase}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not has_come():
            assert process.poll() is None, (tmp_path / f"{phase}.log").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the driver and all its workers
        assert process.wait(timeout=60) != 0
        assert "KeyboardInterrupt" in (tmp_path / f"{phase}.log").read_text()
        records = read_trials(folder, study.name)
        assert all(record.state != "running" for record in records)
        assert records[: len(seen)] == tuple(seen) or phase != "graduation"
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    front = json.loads(finished.stdout.splitlines()[-1])
    assert front["students"]
    connect  # noqa: B018
