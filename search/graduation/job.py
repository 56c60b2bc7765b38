# SPDX-License-Identifier: Apache-2.0
"""One training job of Ray Train, watched from outside: whom each group trains, and since when it shows no life.

The first worker that dies ends the job, and so does the first student that hangs. Ray Train's own restarts are off:
they would train students again that are through, and give one who kills every worker all the tries there are. Whoever
began the job begins another for the students that are left. A group is watched once its first student has begun; until
then its workers wait for the cluster, and Ray Train for them.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.graduation.state import UNFINISHED, GraduationJob, GraduationState, GraduationTask, sign_of_life
from search.graduation.worker import graduate_students
from search.records.outcomes import Outcome
from search.workers.failure import failure_of
from search.workers.heartbeat import HangWatch
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
    """Students who showed no life for too long."""


def run_job(job: GraduationJob, data: DistillationData, *, scratch: Path, look: Callable[[], None]) -> JobEnd:
    """Runs the job and says how it ended; calls `look` twice a second. Its workers have ended when this returns.

    In a thread: in the main thread Ray Train takes over Ctrl-C for good and ends the process with it. Raises
    KeyboardInterrupt after a Ctrl-C, once the workers have saved.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # of a command that was killed
    job.stop_file.parent.mkdir(parents=True, exist_ok=True)
    job.stop_file.unlink(missing_ok=True)
    trainer, watch, errors = _trainer(job, data, scratch=scratch), _Watch(job), list[Exception]()
    ended = threading.Event()  # a thread counts as ended once a Ctrl-C has met its `join` (bpo-45274)

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    hung: tuple[str, ...] = ()
    threading.Thread(target=fit, name="graduation", daemon=True).start()
    try:
        while not hung and not ended.wait(LOOK_S):
            look()
            hung = watch.hung()
        if hung:
            trainer.end_workers()
            ended.wait(STOP_S)
    except KeyboardInterrupt:
        job.stop_file.touch()
        ended.wait(STOP_S)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if hung:
        return JobEnd(error=TimeoutError(f"no sign of life from {', '.join(hung)}"), deaths={}, hung=hung)
    error = errors[0] if errors else None
    return JobEnd(error=error, deaths={} if error is None else watch.deaths(error), hung=())


class _Watch:
    """What the files of a job's students tell of its workers."""

    def __init__(self, job: GraduationJob) -> None:
        self._job = job
        self._signs = {task.name: sign_of_life(task.folder) for group in job.groups for task in group}
        self._latest: dict[int, int] = {}  # of the students of each group, the last that has shown life
        self._hang_watch = HangWatch()  # of groups

    def hung(self) -> tuple[str, ...]:
        """Names of the students in work who have shown no life for too long; none while workers are told to stop."""
        self._look()
        if self._job.stop_file.exists():
            return ()
        in_work = {number: self._in_work(number) for number in self._latest}
        return tuple(
            task.name
            for number, task in in_work.items()
            if task is not None and self._hang_watch.silence_s(number) > task.silence_limit_s
        )

    def deaths(self, error: Exception) -> dict[str, Outcome]:
        """Why workers ended under students, by the student's name, from the error that ended the job."""
        if not isinstance(error, WorkerGroupError):
            return {}
        self._look()
        outcomes: dict[str, Outcome] = {}
        for rank, failure in error.worker_failures.items():
            task = self._in_work(rank // self._job.workers_per_student)
            if task is None:
                continue
            if isinstance(failure, RayTrainError):  # of the worker's process; another's is an exception in training
                outcomes[task.name] = outcome_of_death(failure)
            else:
                outcomes.setdefault(task.name, failure_of(failure))
        return outcomes

    def _look(self) -> None:
        for number, group in enumerate(self._job.groups):
            for i, task in enumerate(group):
                sign = sign_of_life(task.folder)
                if sign != self._signs[task.name]:
                    self._signs[task.name] = sign
                    self._latest[number] = max(i, self._latest.get(number, 0))
                    self._hang_watch.heard(number)

    def _in_work(self, number: int) -> GraduationTask | None:
        """The student that a group works on or turns to; None before its first and after its last."""
        if number not in self._latest:
            return None
        group, latest = self._job.groups[number], self._latest[number]
        state = GraduationState.read(group[latest].folder)
        if state is not None and state.status == UNFINISHED:
            return group[latest]
        return group[latest + 1] if latest + 1 < len(group) else None


class _LeanTrainer(TorchTrainer):
    """Without Ray Train's helpers for Ray Data and for crashes of its controller: two processes and seconds less.

    The placement group of a local Ray ends with it, that of a cluster with the driver's job.
    """

    _controller: Any = None

    def end_workers(self) -> None:
        """Ends the job and its workers, those that answer nobody included."""
        if self._controller is not None:
            with suppress(Exception):  # it ends itself, too
                ray.get(self._controller.abort.remote(), timeout=STOP_S / 2)
            ray.kill(self._controller)

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        defaults = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the older trainer
        return [callback for callback in defaults if not isinstance(callback, idle)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """As Ray Train does it, but the controller is remembered."""
        controller_class = ray.remote(TrainController).options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
            runtime_env={"env_vars": get_env_vars_to_propagate()},
        )
        self._controller = controller_class.remote(**arguments)
        ray.get(self._controller.run.remote())
        return ray.get(self._controller.get_result.remote())


def _trainer(job: GraduationJob, data: DistillationData, *, scratch: Path) -> _LeanTrainer:
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
            failure_config=ray.train.FailureConfig(
                max_failures=0,
                max_preemption_failures=0,  # type: ignore[call-arg]  # mypy sees the older class
            ),
        ),
    )
