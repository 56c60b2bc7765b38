# SPDX-License-Identifier: Apache-2.0
"""Claims about graduation under Ray Train, with real students of a tiny teacher."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.fault_injection.losses import Losses
from benchmarks.fault_injection.processes import descendants, is_alive, name_of
from search.graduation.graduate import Graduate, failures_of, graduate, graduates_of, unfinished_of
from search.graduation.state import DONE, UNFINISHED, GraduationJob, GraduationState, GraduationTask
from search.graduation.worker import Graduation
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState
from search.storage.store import Store
from search.study.budget import TimePlan
from search.study.prepare import Prepared, prepare
from search.trials.work import DistillationWork
from search.workers.cluster import cluster
from search.workers.retries import MOST_TRIES
from spaces.student import Dense
from spaces.study import GraduationSpec, StudySpec
from tests.search.reporters import Silent
from tests.search.tiny_study import tiny_study
from trainers.distil.replicas import Replica

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
    work, found = DistillationWork(prepared.inheritance, prepared.data, device=prepared.device), []
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
    records: list[TrialRecord],
    prepared: Prepared,
    folder: Path,
    *,
    deadline_s: float | None = None,
    memory_gib: float | None = None,
    rung_time_limit_s: float | None = None,
    **spec: int,
) -> dict[str, Graduate]:
    graduates = graduate(
        records,
        prepared.data,
        spec=GraduationSpec(**{"max_students": 3, **spec}),
        objective=COSINE,
        folder=folder,
        tokenizer_json=prepared.teacher.tokenizer_json,
        device=prepared.device,
        document={"study": "tiny", "tokenizer": {"max_tokens": 16}},
        deadline=None if deadline_s is None else time.monotonic() + deadline_s,
        memory_gib=memory_gib,
        rung_time_limit_s=rung_time_limit_s,
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
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(records[:1], prepared, folder, n_tokens=30_000, n_workers=1)
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
    assert 8.0 < time.monotonic() - start < 600.0  # a slow machine needs most of it to start Ray Train
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
    assert failures_of(with_relations, tmp_path)[records[1].name].kind is OutcomeKind.NOT_FINITE


def test_vectors_that_are_not_finite_fail_a_student_of_two_workers_at_once(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    poisoned, other = records[1], records[0]
    assert poisoned.checkpoint is not None
    checkpoint = Path(shutil.copytree(poisoned.checkpoint, tmp_path / "poisoned"))
    (file,) = checkpoint.glob("*.safetensors")
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith("average."):
            tensor[:] = np.nan
    save_file(tensors, file)
    both, folder = [replace(poisoned, checkpoint=checkpoint), other], tmp_path / "graduation"
    graduates = run(both, prepared, folder, n_tokens=4_000, n_workers=2, workers_per_student=2)
    assert set(graduates) == {other.name}
    assert failures_of(both, folder)[poisoned.name].kind is OutcomeKind.NOT_FINITE


def test_who_kills_every_worker_is_failed_in_the_end_and_nobody_is_trained_twice(
    records: list[TrialRecord],
    prepared: Prepared,
    ray_session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MOST_TRIES, OutcomeKind.WORKER_DIED, 2)
    first, victim, last = in_turn(records)
    losses = Losses()
    with striking(tmp_path / victim.name, signal.SIGKILL, look=lambda: losses.watch_graduates(tmp_path)) as strikes:
        graduates = run([first, victim, last], prepared, tmp_path, n_tokens=20_000, n_workers=1)
    assert len(strikes) == 2
    assert set(graduates) == {first.name, last.name}
    assert losses.counts["graduates_redone"] == 0
    assert unfinished_of(records, tmp_path) == ()
    assert list(failures_of(records, tmp_path)) == [victim.name]
    outcome = failures_of(records, tmp_path)[victim.name]
    assert outcome.kind is OutcomeKind.WORKER_DIED and outcome.details.endswith("; 2 times since its last save")


def test_who_hangs_is_failed_with_its_workers_ended_and_the_others_go_on_and_with_more_time_so_does_it(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    first, victim, last = in_turn(records)
    with striking(tmp_path / victim.name, signal.SIGSTOP) as strikes:
        graduates = run([first, victim, last], prepared, tmp_path, n_tokens=12_000, rung_time_limit_s=20.0, n_workers=1)
    assert set(graduates) == {first.name, last.name}
    outcome = Outcome(OutcomeKind.HUNG, "no heartbeat within 20 s (search.rung_time_limit)")
    assert failures_of(records, tmp_path) == {victim.name: outcome}
    assert len(strikes) == 1 and not any(map(is_alive, strikes))
    graduates = run([victim], prepared, tmp_path, n_tokens=12_000, rung_time_limit_s=60.0, n_workers=1)
    assert set(graduates) == {victim.name} and failures_of(records, tmp_path) == {}


def test_who_takes_more_memory_than_a_trial_may_is_failed_as_a_trial_is(
    records: list[TrialRecord], prepared: Prepared, ray_session: None, tmp_path: Path
) -> None:
    large, other = records[0], records[1]
    assert large.spec is not None and large.spec.encoder is not None
    encoder = replace(large.spec.encoder, n_layers=16, feed_forward=Dense(units=1 << 16))  # 256 MiB
    large = replace(large, spec=replace(large.spec, encoder=encoder))
    limited = run([large, other], prepared, tmp_path, memory_gib=0.125, n_tokens=4_000, n_workers=1)
    assert set(limited) == {other.name}
    outcome = Outcome(OutcomeKind.OUT_OF_MEMORY, "it takes more than 0.125 GiB (search.trial_memory_gib)")
    assert failures_of([large, other], tmp_path) == {large.name: outcome}


def test_a_longer_graduation_that_runs_out_of_time_leaves_the_student_that_there_is(
    alone: dict[str, Graduate], records: list[TrialRecord], prepared: Prepared, tmp_path: Path
) -> None:
    folder, record = copied(alone, tmp_path), records[0]
    [before] = graduates_of([record], folder)
    weights = (before.folder / "model.safetensors").read_bytes()
    assert record.spec is not None and record.recipe is not None and record.checkpoint is not None
    task = GraduationTask(
        name=record.name,
        spec=record.spec,
        recipe=record.recipe,
        seed=record.seed,
        checkpoint=record.checkpoint,
        folder=folder / record.name,
        weight=1.0,
        tokens_per_s=record.rungs[-1].tokens_per_s,
        max_tokens=None,
        document={},
        memory_gib=None,
        heartbeat_limit_s=60.0,
    )
    job = GraduationJob(
        groups=((task,),),
        workers_per_student=1,
        seconds=0.0,
        folder=tmp_path / "job",
        tokenizer_json="",
        device=prepared.device,
    )
    replica = Replica(rank=0, n_replicas=1, group=None)
    Graduation(task, prepared.data, job=job, replica=replica, slice_s=0.0).run(job.stop_file)
    state = GraduationState.read(task.folder)
    assert state is not None and state.status == DONE and state.decay is not None
    assert state.decay[1] < before.n_tokens
    [after] = graduates_of([record], folder)
    assert (after.n_tokens, after.fidelity) == (before.n_tokens, before.fidelity)
    assert (after.folder / "model.safetensors").read_bytes() == weights


def copied(graduates: dict[str, Graduate], to: Path) -> Path:
    """A copy of the folder of these graduates, to go on in."""
    (folder,) = {one.folder.parent.parent for one in graduates.values()}
    return Path(shutil.copytree(folder, to / "copy"))


def in_turn(records: list[TrialRecord]) -> list[TrialRecord]:
    """The records with speeds of which follows that one worker trains them in this order."""
    speeds = (4_000.0, 2_000.0, 1_000.0)
    return [
        replace(record, rungs=(replace(record.rungs[0], tokens_per_s=speed),))
        for record, speed in zip(records, speeds, strict=True)
    ]


@contextmanager
def striking(student: Path, number: signal.Signals, look: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Within the block every worker that works on this student gets a signal; yields those that did."""
    strikes: list[int] = []
    ended = threading.Event()

    def strike() -> None:
        seconds = 0.0
        while not ended.wait(0.01):
            look()
            state = GraduationState.read(student)
            if state is None or state.status != UNFINISHED or state.seconds == seconds:  # the driver writes, too
                continue
            for pid in descendants(os.getpid()):
                if name_of(pid).startswith("ray::RayTrainWorker"):
                    os.kill(pid, number)
                    strikes.append(pid)
            time.sleep(0.1)
            last = GraduationState.read(student)
            seconds = seconds if last is None else last.seconds

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield strikes
    finally:
        ended.set()
        thread.join()


def _with_nan(prepared: Prepared) -> np.ndarray:
    embeddings = np.array(prepared.data.targets.embeddings)
    embeddings[len(embeddings) // 2] = np.nan
    return embeddings
