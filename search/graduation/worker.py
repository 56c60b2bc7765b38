# SPDX-License-Identifier: Apache-2.0
"""The training function of graduation's Ray Train workers, which report through files (`search.graduation.state`).

Workers form groups. The workers of a group train one student at a time, data-parallel: each computes its share of every
batch. The first worker of a group makes the decisions, evaluates, and writes the files.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import ray
import ray.train
import torch
import torch.distributed as distributed

from runtime.atomic import read_json
from search.graduation.schedule import Advance, Decay, Decision, Finish, Limits, decide
from search.graduation.state import DONE, GraduationJob, GraduationState, GraduationTask, WorkerProcess, touch_heartbeat
from search.records.outcomes import Outcome
from search.records.trial import RungRecord
from search.storage.disk_space import is_disk_full
from search.storage.error_files import append_error
from search.workers.failure import failure_of
from search.workers.memory_limit import is_out_of_memory, limited_memory
from trainers.distil.checkpoint import save_student
from trainers.distil.loop import Distillation, DistillationData, LostCheckpointError, NotFiniteError, Progress
from trainers.distil.replicas import Replica
from trainers.modules.build import build
from trainers.modules.device import CPU
from trainers.modules.freed_memory import return_freed_memory

SAVE_EVERY_S = 30.0
FREE_MEMORY_EVERY_S = 10.0  # batches of varying sizes fragment the heap: half a gigabyte in half a minute
EVALUATE_EVERY_S = 120.0  # an evaluation costs seconds: short graduations have one, at their end


class WorkerError(RuntimeError):
    """An exception in a worker, as an outcome that can be pickled."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)  # pickle makes the exception from `args`
        self.outcome = outcome
        """The outcome of the exception."""


def graduate_students(config: Mapping[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`; `config` holds the `job` and a Ray reference to the `data`.

    Raises WorkerError for any exception, so that any other error in the driver means that the process died.
    """
    job: GraduationJob = config["job"]
    rank = ray.train.get_context().get_world_rank()
    try:
        WorkerProcess(node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid()).write(job.folder, rank)
        torch.set_num_threads(1)
        replica, number = _replica_of(rank, job)
        if number < len(job.groups):
            _graduate_one_by_one(job, job.groups[number], ray.get(config["data"]), replica)
    except Exception as error:
        raise WorkerError(failure_of(error)) from error


def _graduate_one_by_one(
    job: GraduationJob, tasks: Sequence[GraduationTask], data: DistillationData, replica: Replica
) -> None:
    seconds = job.seconds_left()
    deadline = None if seconds is None else time.monotonic() + seconds
    for i, task in enumerate(tasks):
        if job.stop_file.exists():
            return
        slice_s = None
        if deadline is not None:
            share = task.weight / sum(other.weight for other in tasks[i:])
            slice_s = max(0.0, deadline - time.monotonic()) * share
        Graduation(task, data, job=job, replica=replica, slice_s=slice_s).run(job.stop_file)
        return_freed_memory()


def _replica_of(rank: int, job: GraduationJob) -> tuple[Replica, int]:
    """A worker's replica in its group, and the group's number.

    torch.distributed requires that every worker makes every group, in the same order.
    """
    n = job.workers_per_student
    if n == 1:
        return Replica(rank=0, n_replicas=1, group=None), rank
    groups = [distributed.new_group(list(range(i * n, (i + 1) * n))) for i in range(distributed.get_world_size() // n)]
    return Replica(rank=rank % n, n_replicas=n, group=groups[rank // n]), rank // n


class Graduation:
    """One student's graduation by one group of workers."""

    def __init__(
        self,
        task: GraduationTask,
        data: DistillationData,
        *,
        job: GraduationJob,
        replica: Replica,
        slice_s: float | None,
    ) -> None:
        self._task, self._data, self._replica = task, data, replica
        self._slice_s, self._tokenizer_json = slice_s, job.tokenizer_json
        self._device = torch.device(job.device)
        self._state = (GraduationState.read(task.folder) or GraduationState()).begun()
        self._start = self._saved = self._evaluated = self._counted = self._freed = time.monotonic()
        self._leads = replica.rank == 0
        self._speed = task.tokens_per_s
        self._losses: list[float] = []
        self._failure: Outcome | None = None

    def run(self, stop_file: Path) -> None:
        """Trains until the limits, a failure or the stop file, and writes the state.

        With several workers, an exception in one is raised, because the others wait for it in a collective operation;
        the job then ends, and the driver counts a death. Exceptions are a loss that is not finite, which all workers
        see, and a lack of memory, which the worker writes into the state itself. If the disk is full the error is
        raised: the student did not cause it, and its graduation continues from the last checkpoint.
        """
        memory_gib = self._task.memory_gib
        try:
            self._write()
            with limited_memory(memory_gib):
                self._begin()
                if self._train(stop_file):
                    self._finish()
        except Exception as error:
            if is_disk_full(error):
                raise
            outcome = failure_of(error, memory_gib=memory_gib)
            if self._replica.n_replicas == 1 or isinstance(error, NotFiniteError):
                self._fail(outcome)
                return
            if is_out_of_memory(error):  # in this worker, which need not be the one that writes
                state = GraduationState.read(self._task.folder) or self._state
                state.failed(outcome, self._task).write(self._task.folder)
            raise

    def _begin(self) -> None:
        task = self._task
        spec, folder = task.spec, task.folder
        self._distillation = Distillation(
            build(spec, seed=task.seed, device=self._device),
            task.recipe,
            self._data,
            seed=task.seed,
            sparsity=0.0 if spec.encoder is None else spec.encoder.sparsity,
            replica=self._replica,
        )
        self._restore((folder / "state", folder / "stable", task.checkpoint))
        if not self._state.start_tokens:
            self._state = replace(self._state, start_tokens=self._distillation.n_tokens)
        if self._state.decay is not None and self._distillation.decay is None:
            self._distillation.begin_decay(*self._state.decay)
        self._write()
        return_freed_memory()

    def _restore(self, checkpoints: Sequence[Path]) -> None:
        """Continues from the first of the checkpoints that exists and is whole.

        One that a power failure cut off is named in the trial's file of errors, and what the graduation had measured
        beyond the checkpoint that is used is measured again. Raises LostCheckpointError if no checkpoint is whole.
        """
        lost: list[str] = []
        for checkpoint in checkpoints:
            if not checkpoint.is_dir():
                continue
            try:
                self._distillation.restore(checkpoint)
            except LostCheckpointError as error:
                lost.append(str(error))
                continue
            if lost:
                self._state = self._state.rewound(self._distillation.n_tokens)
                self._append_error(f"continued from {checkpoint}, because a later save is lost: {'; '.join(lost)}")
            return
        missing = f"no checkpoint in {', '.join(map(str, checkpoints))}"
        raise LostCheckpointError("; ".join(lost) or missing)

    def _append_error(self, line: str) -> None:
        if self._leads:
            append_error(self._task.folder.parents[1], self._task.name, line)

    def _train(self, stop_file: Path) -> bool:
        """Trains until the graduation is complete; False if it was stopped or its fidelity is not finite."""
        while True:
            decision = self._broadcast_decision(None if self._failure or stop_file.exists() else self._decide())
            match decision:
                case None:
                    if self._failure:
                        self._fail(self._failure)
                    else:
                        self._save("state")
                    return False
                case Finish():
                    return True
                case Decay(to_tokens):
                    if self._slice_s is None or self._slice_s > EVALUATE_EVERY_S:
                        self._evaluate()
                    self._save("stable")
                    self._state = replace(self._state, decay=(self._distillation.n_tokens, to_tokens))
                    self._write()
                    if self._leads:
                        shutil.rmtree(self._task.folder / "state", ignore_errors=True)
                    self._distillation.begin_decay(self._distillation.n_tokens, to_tokens)
                case Advance(to_tokens):
                    self._record_progress(self._distillation.advance(to_tokens))
                    if self._leads:
                        touch_heartbeat(self._task.folder)
                    if time.monotonic() - self._freed > FREE_MEMORY_EVERY_S:
                        return_freed_memory()
                        self._freed = time.monotonic()
                    if time.monotonic() - self._saved > SAVE_EVERY_S:
                        self._save("state")
                    if time.monotonic() - self._evaluated > EVALUATE_EVERY_S:
                        self._evaluate()
                case _:
                    assert_never(decision)

    def _decide(self) -> Decision:
        task, distillation = self._task, self._distillation
        limits = Limits(
            start_tokens=self._state.start_tokens,
            max_tokens=task.max_tokens,
            slice_s=None if self._slice_s is None else max(0.0, self._slice_s - self._seconds_to_finish()),
            decay_share=task.recipe.decay_share,
            batch_tokens=task.recipe.batch_tokens,
        )
        return decide(
            limits,
            n_tokens=distillation.n_tokens,
            decay_to=None if distillation.decay is None else distillation.decay[1],
            used_s=time.monotonic() - self._start,
            tokens_per_s=self._speed,
        )

    def _seconds_to_finish(self) -> float:
        """Estimated seconds for saving and the last evaluation: a forward pass takes less than half a training step."""
        return 2.0 + len(self._data.held_out_token_ids) / (2.0 * self._speed)

    def _broadcast_decision(self, decision: Decision | None) -> Decision | None:
        """The decision of the group's first worker, broadcast to all: their clocks differ, so their decisions might."""
        if self._replica.n_replicas == 1:
            return decision
        codes: dict[type, int] = {type(None): 0, Finish: 1, Decay: 2, Advance: 3}
        message = torch.tensor(
            [codes[type(decision)], getattr(decision, "to_tokens", 0)], dtype=torch.int64, device=CPU
        )
        distributed.broadcast(message, group=self._replica.group, group_src=0)
        code, to_tokens = message.tolist()
        return (None, Finish(), Decay(to_tokens), Advance(to_tokens))[code]

    def _record_progress(self, progress: Progress) -> None:
        if progress.seconds > 0.2:
            self._speed = progress.tokens_per_s
        self._losses.append(progress.loss)

    def _evaluate(self) -> None:
        """Evaluates in the first worker; a result that is not finite fails the student at the next decision."""
        if self._leads:
            try:
                rung = self._measure_rung()
            except NotFiniteError as error:
                self._failure = failure_of(error)
            else:
                if not self._state.curve or self._state.n_tokens < rung.n_tokens:
                    self._state = replace(self._state, curve=(*self._state.curve, rung))
            self._write()
        self._losses.clear()
        return_freed_memory()
        self._evaluated = time.monotonic()

    def _measure_rung(self) -> RungRecord:
        fidelity = self._distillation.evaluate()
        if not fidelity.is_finite:
            raise NotFiniteError(f"the fidelity after {self._distillation.n_tokens:,} tokens is {fidelity}")
        losses = [loss for loss in self._losses if math.isfinite(loss)]
        return RungRecord(
            n_tokens=self._distillation.n_tokens,
            fidelity=fidelity,
            loss=sum(losses) / len(losses) if losses else 0.0,
            seconds=time.monotonic() - self._evaluated,
            tokens_per_s=self._speed,
        )

    def _save(self, name: str) -> None:
        if self._leads:
            self._distillation.save(self._task.folder / name)
            self._state = replace(self._state, n_deaths=0)
            self._write()
        self._saved = time.monotonic()

    def _finish(self) -> None:
        """Evaluates and saves the student, unless a saved one has at least as many training tokens.

        There is one if the time was too short to extend it, or if the worker was killed just after saving it.
        """
        if not self._leads:
            return
        graduate = read_json(self._task.folder / "student" / "student.json")
        if graduate is None or graduate["training"]["n_tokens"] < self._distillation.n_tokens:
            self._evaluate()
            if self._failure:
                self._fail(self._failure)
                return
            self._save_student()
        self._state = replace(self._state, status=DONE, n_deaths=0)
        self._write()
        shutil.rmtree(self._task.folder / "state", ignore_errors=True)

    def _save_student(self) -> None:
        task, state = self._task, self._state
        training = {
            "n_tokens": self._distillation.n_tokens,
            "seconds": state.seconds,
            "seed": task.seed,
            "fidelity": state.curve[-1].fidelity.to_json(),
        }
        save_student(
            self._distillation.averaged(),
            task.folder / "student",
            spec=task.spec,
            tokenizer_json=self._tokenizer_json,
            document={**task.document, "training": training},
        )

    def _fail(self, outcome: Outcome) -> None:
        self._state = self._state.failed(outcome, self._task)
        self._write()

    def _write(self) -> None:
        if self._leads:
            now = time.monotonic()
            self._state = replace(self._state, seconds=self._state.seconds + now - self._counted)
            self._counted = now
            self._state.write(self._task.folder)
