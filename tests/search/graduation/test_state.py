# SPDX-License-Identifier: Apache-2.0
"""Claims about how far a graduation is, and what a death or a longer one makes of it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from search.graduation.state import (
    DONE,
    FAILED,
    UNFINISHED,
    GraduationJob,
    GraduationState,
    GraduationTask,
    WorkerProcess,
    last_heartbeat,
    touch_heartbeat,
)
from search.graduation.worker import WorkerError
from search.records.outcomes import Outcome, OutcomeKind
from search.storage.disk_space import is_disk_full
from search.workers.retries import MOST_TRIES
from spaces.recipe import RecipeSpec
from spaces.student import StaticSpec, StudentSpec
from spaces.study.spec import Device
from tests.search.toy_search import rung

DIED = Outcome(OutcomeKind.WORKER_DIED, "a signal ended it")
GONE = Outcome(OutcomeKind.NODE_DIED, "gone")
ERROR = Outcome(OutcomeKind.EXCEPTION, "no", exception="ValueError")
MEMORY = Outcome(OutcomeKind.OUT_OF_MEMORY, "it takes more")
HUNG = Outcome(OutcomeKind.HUNG, "no heartbeat")


@pytest.mark.parametrize(
    ("outcome", "most"),
    [(DIED, MOST_TRIES[DIED.kind]), (GONE, MOST_TRIES[GONE.kind]), (ERROR, 3)],
)
def test_only_deaths_without_a_save_between_fail_a_student(outcome: Outcome, most: int) -> None:
    state = GraduationState(start_tokens=100)
    for n in range(1, most):
        state = state.died(outcome)
        assert (state.status, state.n_deaths, state.outcome) == (UNFINISHED, n, None)
    saved = replace(state, n_deaths=0)
    assert saved.died(outcome).status == UNFINISHED
    state = state.died(outcome)
    assert (state.status, state.outcome) == (FAILED, outcome.repeated(f"{most} times since its last save"))


def test_a_finished_graduation_goes_on_from_before_its_decay_and_another_where_it_is() -> None:
    curve = (rung(200, 0.5), rung(300, 0.6), rung(400, 0.7))
    done = GraduationState(status=DONE, start_tokens=100, decay=(300, 400), curve=curve)
    begun = done.begun()
    assert (begun.status, begun.decay, begun.curve) == (UNFINISHED, None, curve[:2])
    half = replace(done, status=UNFINISHED, outcome=Outcome(OutcomeKind.WORKERS_ENDED))
    assert half.begun() == replace(half, outcome=None)


def test_every_last_heartbeat_is_another_and_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    assert last_heartbeat(tmp_path) is None
    state = GraduationState(start_tokens=100, curve=(rung(200, 0.5),), n_deaths=1)
    state.write(tmp_path)
    first = last_heartbeat(tmp_path)
    while last_heartbeat(tmp_path) == first:  # clocks of file systems tick some hundred times a second
        touch_heartbeat(tmp_path)
    assert GraduationState.read(tmp_path) == state


def test_a_state_of_another_version_is_read_with_defaults_and_without_what_is_not_known(tmp_path: Path) -> None:
    state = GraduationState(start_tokens=100, decay=(1, 2), curve=(rung(200, 0.5),), n_deaths=1)
    state.write(tmp_path)
    path = tmp_path / "graduation.json"
    document = json.loads(path.read_text())
    assert document.pop("format") == 1 and document.pop("n_deaths") == 1
    path.write_text(json.dumps({**document, "mood": "good"}))
    assert GraduationState.read(tmp_path) == replace(state, n_deaths=0)
    path.write_text(json.dumps({**document, "format": 2}))
    with pytest.raises(ValueError, match=r"graduation\.json is read up to format 1, got format 2; use the version"):
        GraduationState.read(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "limits", "may"),
    [
        (MEMORY, (1.0, 60.0), False),
        (MEMORY, (1.0, 90.0), False),
        (MEMORY, (2.0, 60.0), True),
        (MEMORY, (None, 60.0), True),
        (HUNG, (2.0, 60.0), False),
        (HUNG, (0.5, 90.0), True),
        (Outcome(OutcomeKind.NOT_FINITE, "loss is nan"), (None, 90.0), False),
    ],
)
def test_who_failed_at_a_limit_may_try_again_when_it_is_raised(
    outcome: Outcome, limits: tuple[float | None, float], may: bool, tmp_path: Path
) -> None:
    GraduationState(start_tokens=100).failed(outcome, task(tmp_path, 1.0, 60.0)).write(tmp_path)
    failed = GraduationState.read(tmp_path)
    assert failed is not None and failed.status == FAILED
    assert failed.may_try_again(task(tmp_path, *limits)) is may
    assert not failed.begun().may_try_again(task(tmp_path, None, 1e9))


def test_workers_are_told_how_long_and_not_until_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path / "job", seconds=100.0)
    assert "deadline" not in job.__dataclass_fields__
    assert job.seconds_left() == 100.0  # as at the submission, as long as the driver has said nothing
    job.write_seconds_left(60.0)
    monkeypatch.setattr("time.time", lambda: 0.0)  # the clock of another node
    assert job.seconds_left() == 60.0
    job.write_seconds_left(-3.0)
    assert job.seconds_left() == 0.0
    assert replace(job, seconds=None).seconds_left() is None


def test_a_worker_says_where_it_runs(tmp_path: Path) -> None:
    assert WorkerProcess.read(tmp_path, 3) is None
    worker = WorkerProcess(node_id="2751", pid=25546)
    worker.write(tmp_path, 3)
    assert WorkerProcess.read(tmp_path, 3) == worker and WorkerProcess.read(tmp_path, 2) is None


def test_an_error_of_training_travels_with_its_outcome() -> None:
    outcome = Outcome(OutcomeKind.NO_SPACE, "[Errno 28] No space left on device")
    error = pickle.loads(pickle.dumps(WorkerError(outcome)))
    assert error.outcome == outcome and is_disk_full(error)


def job_of(folder: Path, *, seconds: float | None) -> GraduationJob:
    """Of no student."""
    return GraduationJob(
        groups=(), workers_per_student=1, seconds=seconds, folder=folder, tokenizer_json="", device=Device.CPU
    )


def task(folder: Path, memory_gib: float | None, heartbeat_limit_s: float) -> GraduationTask:
    """Of any student, under these limits."""
    return GraduationTask(
        name="trial-0000",
        spec=StudentSpec(vocabulary_size=10, output_dim=4, static=StaticSpec()),
        recipe=RecipeSpec(),
        seed=0,
        checkpoint=folder,
        folder=folder,
        weight=1.0,
        tokens_per_s=1.0,
        max_tokens=None,
        document={},
        memory_gib=memory_gib,
        heartbeat_limit_s=heartbeat_limit_s,
    )
