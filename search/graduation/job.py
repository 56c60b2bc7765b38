# SPDX-License-Identifier: Apache-2.0
"""One training job of Ray Train, watched from outside: which student each group trains, and its heartbeats.

The first worker that dies ends the job, and so does the first student that hangs. Ray Train's own restarts are off:
they would train finished students again, and give a student that kills every worker all the tries there are. Whoever
began the job begins another for the students that are left. A group is watched once its first student has begun; until
then its workers wait for the cluster, and Ray Train for them.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.graduation.state import (
    UNFINISHED,
    GraduationJob,
    GraduationState,
    GraduationTask,
    WorkerProcess,
    last_heartbeat,
)
from search.graduation.worker import WorkerError, graduate_students
from search.records.outcomes import Outcome
from search.workers.heartbeat import HeartbeatMonitor
from search.workers.retries import outcome_of_death
from trainers.distil.loop import DistillationData

COLLECTIVE_S = 600
"""Seconds that a group waits for its first worker, which evaluates and saves alone."""
STOP_S = 60.0
"""Seconds that workers get to save after a Ctrl-C, and Ray to end workers that hang."""
LOOK_S = 0.5
"""Seconds between two looks at the students."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a job ended."""

    error: Exception | None
    """What ended it; None if all its workers returned."""
    deaths: Mapping[str, Outcome]
    """Students whose worker ended under them, by name, and what ended it."""
    hung: tuple[str, ...]
    """Students without a heartbeat for too long."""
    workers_left: bool = False
    """Whether workers that hang could not be ended: they hold their CPUs, and no other job can begin."""


def run_job(job: GraduationJob, data: DistillationData, *, scratch: Path, look: Callable[[], None]) -> JobEnd:
    """Runs the job and says how it ended; calls `look` twice a second. Its workers have ended when this returns.

    In a thread: in the main thread Ray Train takes over Ctrl-C for good and ends the process with it. Raises
    KeyboardInterrupt after a Ctrl-C, once the workers have saved.
    """
    start = time.monotonic()
    for folder in (scratch, job.folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
    job.folder.mkdir(parents=True)
    trainer, watch, errors = _trainer(job, data, scratch=scratch), _Watch(job), list[Exception]()
    ended = threading.Event()  # a thread counts as ended once a Ctrl-C has met its `join` (bpo-45274)

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    hung: dict[int, str] = {}
    threading.Thread(target=fit, name="graduation", daemon=True).start()
    try:
        while not hung and not ended.wait(LOOK_S):
            look()
            if job.seconds is not None and not watch.all_begun:
                job.write_seconds_left(job.seconds - (time.monotonic() - start))
            hung = watch.hung()
        if hung:
            for number in hung:
                _end_workers(job, number)
            ended.wait(STOP_S)
    except KeyboardInterrupt:
        job.stop_file.touch()
        ended.wait(STOP_S)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if ended.is_set():  # else a worker may still have to find the stop file
            shutil.rmtree(job.folder, ignore_errors=True)
    if hung:
        names = tuple(hung.values())
        error = TimeoutError(f"no heartbeat from {', '.join(names)}")
        return JobEnd(error=error, deaths={}, hung=names, workers_left=not ended.is_set())
    failure = errors[0] if errors else None
    return JobEnd(error=failure, deaths={} if failure is None else watch.deaths(failure), hung=())


class _Watch:
    """What the files of a job's students say of its workers."""

    def __init__(self, job: GraduationJob) -> None:
        self._job = job
        self._seen = {task.name: last_heartbeat(task.folder) for group in job.groups for task in group}
        self._latest: dict[int, int] = {}  # of the students of each group, the last with a heartbeat
        self._heartbeats = HeartbeatMonitor()  # of groups

    @property
    def all_begun(self) -> bool:
        """Whether every group has begun its first student."""
        return len(self._latest) == len(self._job.groups)

    def hung(self) -> dict[int, str]:
        """Groups without a heartbeat for too long, with the student in work; none while workers are told to stop."""
        self._look()
        if self._job.stop_file.exists():
            return {}
        in_work = {number: self._in_work(number) for number in self._latest}
        return {
            number: task.name
            for number, task in in_work.items()
            if task is not None and self._heartbeats.seconds_since(number) > task.heartbeat_limit_s
        }

    def deaths(self, error: Exception) -> dict[str, Outcome]:
        """Why workers ended under students, by the student's name, from the error that ended the job."""
        if not isinstance(error, ray.train.WorkerGroupError):
            return {}
        self._look()
        outcomes: dict[str, Outcome] = {}
        for rank, failure in error.worker_failures.items():
            task = self._in_work(rank // self._job.workers_per_student)
            if task is None:
                continue
            if isinstance(failure, WorkerError):
                outcomes.setdefault(task.name, failure.outcome)
            else:
                outcomes[task.name] = outcome_of_death(failure)
        return outcomes

    def _look(self) -> None:
        for number, group in enumerate(self._job.groups):
            for i, task in enumerate(group):
                heartbeat = last_heartbeat(task.folder)
                if heartbeat != self._seen[task.name]:
                    self._seen[task.name] = heartbeat
                    self._latest[number] = max(i, self._latest.get(number, 0))
                    self._heartbeats.heard(number)

    def _in_work(self, number: int) -> GraduationTask | None:
        """The student that a group works on or turns to; None before its first and after its last."""
        if number not in self._latest:
            return None
        group, latest = self._job.groups[number], self._latest[number]
        state = GraduationState.read(group[latest].folder)
        if state is not None and state.status == UNFINISHED:
            return group[latest]
        return group[latest + 1] if latest + 1 < len(group) else None


def _end_workers(job: GraduationJob, number: int) -> None:
    """Ends the processes of a group, from their own nodes: they answer nobody. Ray Train then ends all others."""
    kills = []
    for rank in range(number * job.workers_per_student, (number + 1) * job.workers_per_student):
        worker = WorkerProcess.read(job.folder, rank)
        if worker is not None:
            on_its_node = NodeAffinitySchedulingStrategy(worker.node_id, soft=False)
            kill = ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=on_its_node)
            kills.append(kill.remote(worker.pid))
    ray.wait(kills, num_returns=len(kills), timeout=STOP_S / 2)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _trainer(job: GraduationJob, data: DistillationData, *, scratch: Path) -> TorchTrainer:
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return TorchTrainer(
        graduate_students,
        train_loop_config={"job": job, "data": ray.put(data)},
        torch_config=TorchConfig(backend="gloo", timeout_s=COLLECTIVE_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=len(job.groups) * job.workers_per_student, resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(
            name="graduation",
            storage_path=str(scratch),
            failure_config=ray.train.FailureConfig(
                max_failures=0,
                max_preemption_failures=0,  # type: ignore[call-arg]  # mypy sees the older class
            ),
        ),
    )
