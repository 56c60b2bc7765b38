# SPDX-License-Identifier: Apache-2.0
"""Runs one training job of Ray Train and monitors, from the driver, the heartbeats of each group of workers.

The job ends when a worker dies or a student hangs. Ray Train's own restarts are off: they would train finished students
again, and a student that kills every worker would use up all retries. The caller starts another job for the remaining
students. A group is monitored once its first student has begun; before that, its workers may wait for the cluster.
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
"""Timeout of a collective operation: the other workers of a group wait while the first one evaluates and saves."""
STOP_S = 60.0
"""Seconds that workers have to save after a Ctrl-C, and that Ray has to end hung workers."""
POLL_S = 0.5
"""Seconds between two polls of the students' heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended."""

    error: Exception | None
    """The error that ended it; None if all workers returned."""
    deaths: Mapping[str, Outcome]
    """Students in training when their worker died, by name, with the outcome of the worker."""
    hung: tuple[str, ...]
    """Names of the students without a heartbeat for too long."""
    workers_left: bool = False
    """Whether hung workers could not be ended: they still hold their CPUs, so no other job can start."""


def run_job(job: GraduationJob, data: DistillationData, *, scratch: Path, on_poll: Callable[[], None]) -> JobResult:
    """Runs the job until its workers have ended; returns how it ended. Calls `on_poll` every `POLL_S` seconds.

    `scratch` is a folder for Ray Train's own files, deleted at the end. `TorchTrainer.fit` runs in a thread, because in
    the main thread Ray Train replaces the handler of Ctrl-C and does not restore it. Raises KeyboardInterrupt after a
    Ctrl-C, once the workers have saved.
    """
    start = time.monotonic()
    for folder in (scratch, job.folder):
        shutil.rmtree(folder, ignore_errors=True)  # left by a command that was killed
    job.folder.mkdir(parents=True)
    trainer, monitor, errors = _make_trainer(job, data, scratch=scratch), _JobMonitor(job), list[Exception]()
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
        while not hung and not ended.wait(POLL_S):
            on_poll()
            if job.seconds is not None and not monitor.all_begun:
                job.write_seconds_left(job.seconds - (time.monotonic() - start))
            hung = monitor.hung()
        if hung:
            for number in hung:
                _kill_workers(job, number)
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
        return JobResult(error=error, deaths={}, hung=names, workers_left=not ended.is_set())
    failure = errors[0] if errors else None
    return JobResult(error=failure, deaths={} if failure is None else monitor.deaths(failure), hung=())


class _JobMonitor:
    """Finds hung and dead students of a job from the heartbeats in their state files."""

    def __init__(self, job: GraduationJob) -> None:
        self._job = job
        self._last_heartbeats = {task.name: last_heartbeat(task.folder) for group in job.groups for task in group}
        self._latest: dict[int, int] = {}  # by group: index of the last student that had a heartbeat
        self._heartbeats = HeartbeatMonitor()  # by group

    @property
    def all_begun(self) -> bool:
        """Whether every group has begun its first student."""
        return len(self._latest) == len(self._job.groups)

    def hung(self) -> dict[int, str]:
        """Name of the student in training by group, for groups without a heartbeat for too long; empty after a stop."""
        self._poll()
        if self._job.stop_file.exists():
            return {}
        current = {number: self._current_task(number) for number in self._latest}
        return {
            number: task.name
            for number, task in current.items()
            if task is not None and self._heartbeats.seconds_since(number) > task.heartbeat_limit_s
        }

    def deaths(self, error: Exception) -> dict[str, Outcome]:
        """Outcomes of dead workers by the student in training, from the error that ended the job."""
        if not isinstance(error, ray.train.WorkerGroupError):
            return {}
        self._poll()
        outcomes: dict[str, Outcome] = {}
        for rank, failure in error.worker_failures.items():
            task = self._current_task(rank // self._job.workers_per_student)
            if task is None:
                continue
            if isinstance(failure, WorkerError):
                outcomes.setdefault(task.name, failure.outcome)
            else:
                outcomes[task.name] = outcome_of_death(failure)
        return outcomes

    def _poll(self) -> None:
        for number, group in enumerate(self._job.groups):
            for i, task in enumerate(group):
                heartbeat = last_heartbeat(task.folder)
                if heartbeat != self._last_heartbeats[task.name]:
                    self._last_heartbeats[task.name] = heartbeat
                    self._latest[number] = max(i, self._latest.get(number, 0))
                    self._heartbeats.report(number)

    def _current_task(self, number: int) -> GraduationTask | None:
        """The student that a group trains or is about to train; None before its first and after its last."""
        if number not in self._latest:
            return None
        group, latest = self._job.groups[number], self._latest[number]
        state = GraduationState.read(group[latest].folder)
        if state is not None and state.status == UNFINISHED:
            return group[latest]
        return group[latest + 1] if latest + 1 < len(group) else None


def _kill_workers(job: GraduationJob, number: int) -> None:
    """Sends SIGKILL to the processes of a group, by a task on their node; Ray Train then ends the other workers."""
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


def _make_trainer(job: GraduationJob, data: DistillationData, *, scratch: Path) -> TorchTrainer:
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
