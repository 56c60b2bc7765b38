# SPDX-License-Identifier: Apache-2.0
"""Graduation: the front's students are distilled for longer, all in one training job of Ray Train.

One job, because starting one costs ten seconds and more. Its workers take students in turn from a balanced
assignment and answer through files in the study's folder, which must be where all nodes see it. An
interrupted graduation goes on from its last saves; a finished one is extended, from before its decay, when a later
command brings enough time or tokens to make a difference.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from search.cluster import n_cpus_available
from search.graduation_state import FAILED, UNFINISHED, GraduationJob, GraduationState, GraduationTask
from search.graduation_worker import graduate_students
from search.json_file import read_json
from search.room import is_no_room
from search.selection import choose_graduates
from search.time_plan import balance, time_weights
from search.trial import RungRecord, TrialRecord
from spaces.study_spec import GraduationSpec
from trainers.fidelity import Fidelity
from trainers.loop import DistillationData

WORTH_EXTENDING = 1.25
"""A finished student trains on if that brings it to this many times the tokens it has seen."""
START_S = 12.0
"""Seconds that Ray Train takes to start, for the estimate of what a command's time can bring."""
COLLECTIVE_S = 600
"""Seconds that a group waits for its first worker, which evaluates and saves alone."""
MOST_RESTARTS = 3
"""Deaths of workers in one job; each costs the work since the last saves."""
STOP_S = 60.0
"""Seconds that workers get to save after a Ctrl-C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduate:
    """A student that was distilled for longer."""

    record: TrialRecord
    """Its trial."""
    folder: Path
    """The student folder."""
    fidelity: Fidelity
    """At the end, as the training worker measured it."""
    n_tokens: int
    """Training tokens, its trial's included."""
    seconds: float
    """Spent on its graduation."""
    curve: tuple[RungRecord, ...]
    """Evaluations while it graduated, by rising tokens."""


def graduate(
    records: Sequence[TrialRecord],
    data: DistillationData,
    *,
    spec: GraduationSpec,
    folder: Path,
    tokenizer_json: str,
    document: Mapping[str, Any],
    connect: Callable[[], None] = lambda: None,
    deadline: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Graduate, ...]:
    """Distils the chosen of a search's records for longer; returns all graduates of the study, earlier ones included.

    `connect` is called before Ray is needed, if it is. `deadline` is a time of `time.monotonic`; a student that is
    behind by then still gets a few steps. `document` goes into every student.json. `progress` is told
    (seconds, seconds until the deadline), or without one (students ended, students in all). Raises
    KeyboardInterrupt after a Ctrl-C, once all states are saved, and RuntimeError if Ray Train fails and there is no
    graduate, or because a disk is full; else `failures_of` says who is not through, and the next command goes on.
    """
    chosen = choose_graduates(records, max_students=spec.max_students)
    seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
    weights = time_weights([record.rungs[-1].tokens_per_s for record in chosen])
    tasks = [
        _task(record, spec=spec, folder=folder, weight=weight, document=document)
        for record, weight in zip(chosen, weights, strict=True)
    ]
    tasks = _worth_training(tasks, seconds=seconds, n_groups=spec.n_workers // spec.workers_per_student)
    if tasks:
        connect()
        n_groups, n_per_student = _groups(spec, n_tasks=len(tasks))
        groups = balance([task.weight for task in tasks], n_groups)
        job = GraduationJob(
            groups=tuple(tuple(tasks[i] for i in group) for group in groups),
            workers_per_student=n_per_student,
            deadline=None if seconds is None else time.time() + seconds,
            stop_file=folder / "stop",
            tokenizer_json=tokenizer_json,
        )
        error = _run(job, data, scratch=folder / "ray", progress=progress)
        if error is not None and (is_no_room(error) or not graduates_of(records, folder)):
            raise RuntimeError(f"graduation ended before its students were through: {error}") from error
        if error is not None:
            _say_unfinished(tasks, error)
    return graduates_of(records, folder)


def graduates_of(records: Sequence[TrialRecord], folder: Path) -> tuple[Graduate, ...]:
    """The graduates that a study's graduation folder holds, by trial number."""
    graduates = (_graduate_of(record, folder / record.name) for record in records)
    return tuple(graduate for graduate in graduates if graduate is not None)


def failures_of(records: Sequence[TrialRecord], folder: Path) -> dict[str, str]:
    """Why students failed while graduating, or were not brought to an end, by trial name."""
    states = {record.name: GraduationState.read(folder / record.name) for record in records}
    return {name: state.outcome for name, state in states.items() if state is not None and state.outcome}


def unfinished_of(records: Sequence[TrialRecord], folder: Path) -> tuple[str, ...]:
    """Names of the trials whose graduation another command must bring to its end."""
    states = {record.name: GraduationState.read(folder / record.name) for record in records}
    return tuple(name for name, state in states.items() if state is not None and state.status == UNFINISHED)


def _say_unfinished(tasks: Sequence[GraduationTask], error: Exception) -> None:
    """Writes down of which students the workers ended too often."""
    outcome = f"its workers ended before it was through, the same command goes on with it ({_one_line(error)})"
    for task in tasks:
        state = GraduationState.read(task.folder) or GraduationState()
        if state.status == UNFINISHED:
            replace(state, outcome=outcome).write(task.folder)


def _one_line(error: Exception, *, longest: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def _graduate_of(record: TrialRecord, folder: Path) -> Graduate | None:
    state, document = GraduationState.read(folder), read_json(folder / "student" / "student.json")
    if state is None or document is None:
        return None
    training = document["training"]
    return Graduate(
        record=record,
        folder=folder / "student",
        fidelity=Fidelity.from_json(training["fidelity"]),
        n_tokens=training["n_tokens"],
        seconds=training["seconds"],
        curve=state.curve,
    )


def _task(
    record: TrialRecord, *, spec: GraduationSpec, folder: Path, weight: float, document: Mapping[str, Any]
) -> GraduationTask:
    assert record.spec is not None and record.recipe is not None and record.checkpoint is not None
    return GraduationTask(
        name=record.name,
        spec=record.spec,
        recipe=record.recipe,
        seed=record.seed,
        checkpoint=record.checkpoint,
        folder=folder / record.name,
        weight=weight,
        tokens_per_s=record.rungs[-1].tokens_per_s,
        max_tokens=spec.n_tokens,
        document={**document, "trial": record.name, "recipe": record.recipe.to_json()},
    )


def _groups(spec: GraduationSpec, *, n_tasks: int) -> tuple[int, int]:
    """Groups of workers, and workers of a group, on the CPUs that there are."""
    n_workers = min(spec.n_workers, n_cpus_available())
    n_per_student = min(spec.workers_per_student, n_workers)
    return max(1, min(n_workers // n_per_student, n_tasks)), n_per_student


def _worth_training(
    tasks: list[GraduationTask], *, seconds: float | None, n_groups: int
) -> list[GraduationTask]:
    """The unfinished ones, and the finished ones that time and tokens bring clearly further."""

    def is_worth(task: GraduationTask, slice_s: float) -> bool:
        state = GraduationState.read(task.folder)
        if state is None or state.status == UNFINISHED:
            return True
        if state.status == FAILED:
            return False
        begin, end = state.decay or (state.n_tokens, state.n_tokens)
        reached = begin + slice_s * task.tokens_per_s
        return min(reached, task.max_tokens or math.inf) >= WORTH_EXTENDING * end

    while True:
        total = sum(task.weight for task in tasks)
        available_s = math.inf if seconds is None else max(0.0, seconds - START_S) * n_groups
        kept = [task for task in tasks if is_worth(task, available_s * task.weight / total)]
        if len(kept) == len(tasks):
            return kept
        tasks = kept


def _run(
    job: GraduationJob, data: DistillationData, *, scratch: Path, progress: Callable[[int, int], None]
) -> Exception | None:
    """Runs the job and returns the error that ended it, if one did.

    In a thread: in the main thread Ray Train takes over Ctrl-C for good and ends the process with it.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # of a command that was killed
    job.stop_file.parent.mkdir(parents=True, exist_ok=True)
    job.stop_file.unlink(missing_ok=True)
    errors: list[Exception] = []

    def fit() -> None:
        try:
            _trainer(job, data, scratch=scratch).fit()
        except Exception as error:
            errors.append(error)

    tasks, start = [task for group in job.groups for task in group], time.time()
    thread = threading.Thread(target=fit, name="graduation", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
            if job.deadline is not None:
                progress(int(time.time() - start), int(job.deadline - start) + 1)
                continue
            states = [GraduationState.read(task.folder) for task in tasks]
            progress(sum(state is not None and state.status != UNFINISHED for state in states), len(tasks))
    except KeyboardInterrupt:
        job.stop_file.touch()
        thread.join(STOP_S)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return errors[0] if errors else None


class _LeanTrainer(TorchTrainer):
    """Without Ray Train's helpers for Ray Data and for crashes of its controller: two processes and seconds less.

    The placement group of a local Ray ends with it, that of a cluster with the driver's job.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        defaults = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the older trainer
        return [callback for callback in defaults if not isinstance(callback, idle)]


def _trainer(job: GraduationJob, data: DistillationData, *, scratch: Path) -> TorchTrainer:
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return _LeanTrainer(
        graduate_students,
        train_loop_config={"job": job, "data": ray.put(data)},
        torch_config=TorchConfig(backend="gloo", timeout_s=COLLECTIVE_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=len(job.groups) * job.workers_per_student, resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(
            name="graduation",
            storage_path=str(scratch),
            failure_config=ray.train.FailureConfig(max_failures=MOST_RESTARTS),
        ),
    )
