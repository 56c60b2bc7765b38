# SPDX-License-Identifier: Apache-2.0
"""Graduation: the front's students are distilled for longer, all in one training job of Ray Train.

There is one job for all students, because starting a job takes more than ten seconds. The students are distributed over
groups of workers, each group trains its students one after another, and workers report through files in the study's
folder, which all nodes must see. An interrupted graduation continues from its last checkpoints. A finished one is
extended, from the checkpoint before its decay, if a later command has enough time or tokens for it.

If a worker dies or a student hangs, the job ends, and another job is started for the remaining students. Deaths of
workers are counted for each student as for trials (`search.workers.retries`), with the same limits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.atomic import read_json
from search.graduation.job import JobResult, run_job
from search.graduation.schedule import balance, time_weights
from search.graduation.select import choose_graduates
from search.graduation.state import FAILED, UNFINISHED, GraduationJob, GraduationState, GraduationTask
from search.records.objective import Objective
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import RungRecord, TrialRecord
from search.storage.disk_space import is_disk_full
from search.workers.cluster import n_cpus_available
from search.workers.heartbeat import rung_limit_s
from spaces.errors import UserError
from spaces.study.spec import Device, GraduationSpec
from trainers.distil.loop import DistillationData
from trainers.measure.fidelity import Fidelity

MIN_EXTENSION = 1.25
"""A finished student is extended only if it can reach this multiple of its training tokens."""
START_S = 12.0
"""Seconds that Ray Train takes to start: subtracted when the training that fits into a command is estimated."""
MAX_RESTARTS = 3
"""Restarts in one command after jobs that failed without a dead worker or a hung student; each costs the training since
the last checkpoints."""


class GraduationError(UserError):
    """No student finished its graduation, because the cluster failed or the disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduate:
    """A student that was distilled for longer."""

    record: TrialRecord
    """The trial that it comes from."""
    folder: Path
    """The student folder."""
    fidelity: Fidelity
    """Measured by the training worker at the end."""
    n_tokens: int
    """Training tokens, including those of its trial."""
    seconds: float
    """Time spent on its graduation."""
    curve: tuple[RungRecord, ...]
    """Evaluations during graduation, by rising training tokens."""

    def is_below_untrained(self, objective: Objective) -> bool:
        """Whether it ended less like its teacher than it was before training."""
        return objective.worsened(self.record.untrained, self.fidelity)


def graduate(
    records: Sequence[TrialRecord],
    data: DistillationData,
    *,
    spec: GraduationSpec,
    objective: Objective,
    folder: Path,
    tokenizer_json: str,
    device: Device,
    document: Mapping[str, Any],
    connect: Callable[[], None] = lambda: None,
    deadline: float | None = None,
    memory_gib: float | None = None,
    rung_time_limit_s: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Graduate, ...]:
    """Chooses trials that graduate and distils them for longer; returns all graduates of the study, earlier ones too.

    `connect` is called before Ray is used, and not at all if nothing is trained. `deadline` is a time of
    `time.monotonic`; a student that is untrained by then still gets a few steps. `document` is merged into every
    student.json. `memory_gib` limits the memory of a student, None for no limit; `rung_time_limit_s` limits the seconds
    between two heartbeats, None for the limit of trials (`search.workers.heartbeat`). `progress` is called with
    (seconds passed, seconds in all) if there is a deadline, else with (students ended, students in all).

    Raises KeyboardInterrupt after a Ctrl-C, once all checkpoints are saved, and GraduationError if Ray Train fails and
    there is no graduate, or if a disk is full. If some students are unfinished, `failures_of` names them, and the next
    command continues them.
    """
    chosen = choose_graduates(records, max_students=spec.max_students, objective=objective)
    weights = time_weights([record.tokens_per_s for record in chosen])
    tasks = [
        _task(
            record,
            spec=spec,
            folder=folder,
            weight=weight,
            document=document,
            memory_gib=memory_gib,
            heartbeat_limit_s=rung_limit_s(rung_time_limit_s, expected_s=_evaluation_s(record, data)),
        )
        for record, weight in zip(chosen, weights, strict=True)
    ]
    tasks = _select_worth_training(tasks, seconds=_seconds_to(deadline), n_groups=_n_groups(spec))
    if tasks:
        error = _train(
            tasks,
            data,
            spec=spec,
            folder=folder,
            tokenizer_json=tokenizer_json,
            device=device,
            connect=connect,
            deadline=deadline,
            progress=progress,
        )
        if error is not None and (is_disk_full(error) or not graduates_of(records, folder)):
            raise GraduationError(
                f"the workers of graduation ended before any student was finished: {_one_line(error)}; their "
                "checkpoints are kept, and the same command continues from them"
            ) from error
        if error is not None:
            _write_unfinished(tasks, error)
    return graduates_of(records, folder)


def graduates_of(records: Sequence[TrialRecord], folder: Path) -> tuple[Graduate, ...]:
    """The graduates in a study's graduation folder, in the order of `records`."""
    graduates = (_graduate_of(record, folder / record.name) for record in records)
    return tuple(graduate for graduate in graduates if graduate is not None)


def failures_of(records: Sequence[TrialRecord], folder: Path) -> dict[str, Outcome]:
    """Outcomes of the students whose graduation failed or is unfinished, by trial name."""
    states = {record.name: GraduationState.read(folder / record.name) for record in records}
    return {name: state.outcome for name, state in states.items() if state is not None and state.outcome is not None}


def unfinished_of(records: Sequence[TrialRecord], folder: Path) -> tuple[str, ...]:
    """Names of the trials whose graduation began and is unfinished."""
    states = {record.name: GraduationState.read(folder / record.name) for record in records}
    return tuple(name for name, state in states.items() if state is not None and state.status == UNFINISHED)


def _train(
    tasks: list[GraduationTask],
    data: DistillationData,
    *,
    spec: GraduationSpec,
    folder: Path,
    tokenizer_json: str,
    device: Device,
    connect: Callable[[], None],
    deadline: float | None,
    progress: Callable[[int, int], None],
) -> Exception | None:
    """Runs one job after another until all students have ended; returns the error that prevented it, else None."""
    before = {task.name: GraduationState.read(task.folder) for task in tasks}
    begin, n_restarts, left = time.monotonic(), 0, tasks

    def is_complete(task: GraduationTask) -> bool:
        state = GraduationState.read(task.folder)
        return state is not None and state.status != UNFINISHED and state != before[task.name]

    def report_progress() -> None:
        if deadline is None:
            progress(sum(map(is_complete, tasks)), len(tasks))
        else:
            progress(int(time.monotonic() - begin), int(deadline - begin) + 1)

    while left:
        connect()
        seconds = _seconds_to(deadline)
        job = _job(left, spec=spec, folder=folder, tokenizer_json=tokenizer_json, device=device, seconds=seconds)
        end = run_job(job, data, scratch=folder / "ray", on_poll=report_progress)
        if end.error is None or is_disk_full(end.error):
            return end.error
        _write_failures(left, end)
        if end.workers_left:
            return end.error
        n_restarts += not (end.deaths or end.hung)
        if n_restarts > MAX_RESTARTS:
            return end.error
        left = [task for task in left if not is_complete(task)]
        left = _select_worth_training(left, seconds=_seconds_to(deadline), n_groups=_n_groups(spec))
    return None


def _job(
    tasks: Sequence[GraduationTask],
    *,
    spec: GraduationSpec,
    folder: Path,
    tokenizer_json: str,
    device: Device,
    seconds: float | None,
) -> GraduationJob:
    """A job for these students, sized for the CPUs that the cluster has now."""
    n_workers = min(spec.n_workers, n_cpus_available())
    n_per_student = min(spec.workers_per_student, n_workers)
    groups = balance([task.weight for task in tasks], max(1, min(n_workers // n_per_student, len(tasks))))
    return GraduationJob(
        groups=tuple(tuple(tasks[i] for i in group) for group in groups),
        workers_per_student=n_per_student,
        seconds=seconds,
        folder=folder / "job",
        tokenizer_json=tokenizer_json,
        device=device,
    )


def _write_failures(tasks: Sequence[GraduationTask], end: JobResult) -> None:
    """Updates the states of the students whose worker died or that hung."""
    for task in tasks:
        state = GraduationState.read(task.folder) or GraduationState()
        if task.name in end.deaths:
            state.died(end.deaths[task.name]).write(task.folder)
        elif task.name in end.hung:
            details = f"no heartbeat within {task.heartbeat_limit_s:.0f} s (search.rung_time_limit)"
            state.failed(Outcome(OutcomeKind.HUNG, details), task).write(task.folder)


def _write_unfinished(tasks: Sequence[GraduationTask], error: Exception) -> None:
    """Sets the outcome of all unfinished students, because their jobs failed too often."""
    outcome = Outcome(OutcomeKind.WORKERS_ENDED, f"the same command continues it ({_one_line(error)})")
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
    record: TrialRecord,
    *,
    spec: GraduationSpec,
    folder: Path,
    weight: float,
    document: Mapping[str, Any],
    memory_gib: float | None,
    heartbeat_limit_s: float,
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
        tokens_per_s=record.tokens_per_s,
        max_tokens=spec.n_tokens,
        document={**document, "trial": record.name, "recipe": record.recipe.to_json()},
        memory_gib=memory_gib,
        heartbeat_limit_s=heartbeat_limit_s,
    )


def _evaluation_s(record: TrialRecord, data: DistillationData) -> float:
    """Upper estimate of the seconds of an evaluation, the longest time between two heartbeats: at training speed."""
    return len(data.held_out_token_ids) / record.tokens_per_s


def _seconds_to(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _n_groups(spec: GraduationSpec) -> int:
    return spec.n_workers // spec.workers_per_student


def _select_worth_training(
    tasks: list[GraduationTask], *, seconds: float | None, n_groups: int
) -> list[GraduationTask]:
    """The tasks that are unfinished, that failed at a limit which is higher now, or that can reach `MIN_EXTENSION`.

    `seconds` is the time for training on each of `n_groups` groups, None for no limit.
    """

    def is_worth_training(task: GraduationTask, slice_s: float) -> bool:
        state = GraduationState.read(task.folder)
        if state is None or state.status == UNFINISHED:
            return True
        if state.status == FAILED:
            return state.may_try_again(task)
        begin, end = state.decay or (state.n_tokens, state.n_tokens)
        reached = begin + slice_s * task.tokens_per_s
        return min(reached, task.max_tokens or math.inf) >= MIN_EXTENSION * end

    while True:
        total = sum(task.weight for task in tasks)
        available_s = math.inf if seconds is None else max(0.0, seconds - START_S) * n_groups
        kept = [task for task in tasks if is_worth_training(task, available_s * task.weight / total)]
        if len(kept) == len(tasks):
            return kept
        tasks = kept
