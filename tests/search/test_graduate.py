# SPDX-License-Identifier: Apache-2.0
"""Claims about graduation under Ray Train, with real students of a tiny teacher."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.measuring.processes import descendants, name_of
from search.cluster import cluster
from search.graduate import Graduate, failures_of, graduate, unfinished_of
from search.graduation_state import DONE, GraduationState
from search.preparation import Prepared, prepare
from search.progress import Silent
from search.store import Store
from search.time_plan import TimePlan
from search.trial import TrialRecord, TrialState
from search.trial_work import DistillationWork
from spaces.study import GraduationSpec, StudySpec
from tests.search.tiny_study import tiny_study

# Ray Train 2.60 uses what Ray Data 2.60 deprecates.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray.data.context")]

POINTS = (
    {"n_layers": 1, "static_path": True, "precision": "float32", "learning_rate": 1e-3},
    {"n_layers": 0, "precision": "float32"},
    {"n_layers": 1, "static_path": False, "precision": "float32", "similarity": 0.5},
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return tiny_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def prepared(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    plan = TimePlan(budget_s=60.0, graduation_share=0.5, max_students=3)
    return prepare(study, store=Store(tmp_path_factory.mktemp("store")), plan=plan, reporter=Silent())


@pytest.fixture(scope="module")
def records(study: StudySpec, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """Three complete trials of 1,000 tokens."""
    work, found = DistillationWork(prepared.inheritance, prepared.data), []
    for number, point in enumerate(POINTS):
        spec, recipe = study.space.decode(point, prepared.teacher.spec)
        work.start(spec, recipe, seed=7)
        rung = work.advance(1_000)
        checkpoint = tmp_path_factory.mktemp("trial")
        work.save(checkpoint)
        record = TrialRecord(
            number=number,
            point=dict(point),
            spec=spec,
            recipe=recipe,
            seed=7,
            predicted_latency_ms=prepared.predictor.predict(spec),
            state=TrialState.COMPLETE,
            rungs=(rung,),
            checkpoint=checkpoint,
        )
        found.append(record)
    return found


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with cluster(n_cpus=2):
        yield


def run(
    records: list[TrialRecord], prepared: Prepared, folder: Path, *, deadline_s: float | None = None, **spec: int
) -> dict[str, Graduate]:
    graduates = graduate(
        records,
        prepared.data,
        spec=GraduationSpec(**{"max_students": 3, **spec}),
        folder=folder,
        tokenizer_json=prepared.teacher.tokenizer_json,
        document={"study": "tiny", "tokenizer": {"max_tokens": 16}},
        deadline=None if deadline_s is None else time.monotonic() + deadline_s,
    )
    return {one.record.name: one for one in graduates}


@pytest.fixture(scope="module")
def alone(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Graduate]:
    """What one worker makes of all students; the tests that go on from there do so in a copy of the folder."""
    graduates = run(records, prepared, tmp_path_factory.mktemp("alone"), n_tokens=4_000, n_workers=1)
    assert set(graduates) == {record.name for record in records}
    assert all(one.n_tokens >= 4_000 for one in graduates.values())
    return graduates


def test_two_workers_of_one_student_equal_one_up_to_rounding(
    alone: dict[str, Graduate], records: list[TrialRecord], prepared: Prepared, tmp_path: Path
) -> None:
    together = run(records, prepared, tmp_path, n_tokens=4_000, n_workers=2, workers_per_student=2)
    assert set(together) == set(alone)
    for name, one in alone.items():
        assert one.n_tokens == together[name].n_tokens
        expected = load_file(one.folder / "model.safetensors")
        for tensor, value in load_file(together[name].folder / "model.safetensors").items():
            # Adam divides by the root of squared gradients, so rounding is enlarged where they are tiny.
            np.testing.assert_allclose(value, expected[tensor], atol=2e-3, err_msg=f"{name} {tensor}")
        assert one.fidelity.cosine == pytest.approx(together[name].fidelity.cosine, abs=1e-4)


def test_two_groups_train_what_one_trains(
    alone: dict[str, Graduate], records: list[TrialRecord], prepared: Prepared, tmp_path: Path
) -> None:
    two = run(records, prepared, tmp_path, n_tokens=4_000, n_workers=2)
    for name, one in alone.items():
        expected = load_file(one.folder / "model.safetensors")
        for tensor, value in load_file(two[name].folder / "model.safetensors").items():
            np.testing.assert_array_equal(value, expected[tensor])


def test_an_interrupted_graduation_saves_and_the_same_call_finishes_it_as_if_it_had_not_been(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    whole = run(records[:1], prepared, tmp_path / "whole", n_tokens=30_000, n_workers=1)
    folder = tmp_path / "parts"

    def stop_soon() -> None:
        while GraduationState.read(folder / records[0].name) is None:
            time.sleep(0.01)
        (folder / "stop").touch()

    threading.Thread(target=stop_soon, daemon=True).start()
    assert run(records[:1], prepared, folder, n_tokens=30_000, n_workers=1) == {}
    assert (folder / records[0].name / "state").is_dir()
    parts = run(records[:1], prepared, folder, n_tokens=30_000, n_workers=1)
    name = records[0].name
    expected = load_file(whole[name].folder / "model.safetensors")
    for tensor, value in load_file(parts[name].folder / "model.safetensors").items():
        np.testing.assert_array_equal(value, expected[tensor])


def test_a_finished_graduation_starts_nothing_until_it_may_be_much_longer(
    alone: dict[str, Graduate], records: list[TrialRecord], prepared: Prepared, tmp_path: Path
) -> None:
    folder = copied(alone, tmp_path)
    start = time.monotonic()
    again = run(records, prepared, folder, n_tokens=4_400, n_workers=1)
    assert time.monotonic() - start < 1.0
    assert {name: one.fidelity for name, one in again.items()} == {name: one.fidelity for name, one in alone.items()}
    longer = run(records[:1], prepared, folder, n_tokens=8_000, n_workers=1)
    name = records[0].name
    assert longer[name].n_tokens >= 8_000
    assert longer[name].fidelity.cosine > alone[name].fidelity.cosine
    curve = [rung.n_tokens for rung in longer[name].curve]
    assert curve == sorted(set(curve))


def test_under_a_deadline_all_students_are_through_soon_after_it(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    start = time.monotonic()
    graduates = run(records, prepared, tmp_path, deadline_s=16.0, n_workers=2)
    assert 8.0 < time.monotonic() - start < 40.0
    assert len(graduates) == 3
    for one in graduates.values():
        state = GraduationState.read(one.folder.parent)
        assert state is not None and state.status == DONE and state.decay is not None
        assert one.n_tokens > one.record.n_tokens


def test_a_student_that_diverges_is_dropped_with_its_outcome(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    data = replace(prepared.data, targets=replace(prepared.data.targets, embeddings=_with_nan(prepared)))
    with_relations = [records[1]]
    assert run(with_relations, replace(prepared, data=data), tmp_path, n_tokens=20_000, n_workers=1) == {}
    assert failures_of(with_relations, tmp_path)[records[1].name].startswith("not finite")


def test_a_student_whose_workers_are_killed_is_said_not_to_be_through_and_goes_on_later(
    alone: dict[str, Graduate],
    records: list[TrialRecord],
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.graduate.MOST_RESTARTS", 0)
    folder, first, second = copied(alone, tmp_path), records[0].name, records[1].name
    shutil.rmtree(folder / second)
    killer = threading.Thread(target=_kill_what_graduates, args=(folder / second / "graduation.json",))
    killer.start()
    assert set(run(records[:2], prepared, folder, n_tokens=100_000, n_workers=1)) == {first}
    killer.join()
    assert failures_of(records, folder)[second].startswith("its workers ended before it was through, ")
    assert unfinished_of(records[:2], folder) == (second,)
    assert set(run(records[:2], prepared, folder, n_tokens=4_000, n_workers=1)) == {first, second}
    assert unfinished_of(records[:2], folder) == () and second not in failures_of(records, folder)


def copied(graduates: dict[str, Graduate], to: Path) -> Path:
    """A copy of the folder of these graduates, to go on in."""
    (folder,) = {one.folder.parent.parent for one in graduates.values()}
    return Path(shutil.copytree(folder, to / "copy"))


def _kill_what_graduates(begun: Path) -> None:
    """As soon as the student has begun, and not before."""
    while not begun.exists():
        time.sleep(0.05)
    for pid in descendants(os.getpid()):
        if name_of(pid).startswith("ray::RayTrainWorker"):
            os.kill(pid, signal.SIGKILL)


def _with_nan(prepared: Prepared) -> np.ndarray:
    embeddings = np.array(prepared.data.targets.embeddings)
    embeddings[len(embeddings) // 2] = np.nan
    return embeddings
