# SPDX-License-Identifier: Apache-2.0
"""A trial inside a Ray actor: one `step` is one rung, and an actor is used for one trial after another.

An exception is an answer like any other: the actor lives on, keeps its imports and its share of the data, and the
driver records why the trial failed. Only what kills the process (Ray's memory monitor, a signal) ends the actor.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune import Trainable

from search.records.outcomes import Outcome
from search.records.trial import RungRecord
from search.storage.error_files import append_error
from search.trials.work import TrialWork
from search.workers.failure import failure_of
from search.workers.memory_limit import GIB, limit_memory
from spaces.recipe import RecipeSpec
from spaces.student import StudentSpec
from trainers.distil.loop import LostCheckpointError

TASK = "task"
"""Key of a Tune configuration: its one entry, a `TrialTask`."""
MEASURED = "measured"
"""Key of a result: the `Measured` or the `Failed` of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """What an actor must know to work on a trial."""

    number: int
    """Of the trial."""
    spec: StudentSpec
    """The student."""
    recipe: RecipeSpec
    """How it is distilled."""
    seed: int
    """Of weights and batches."""
    rungs: tuple[int, ...]
    """Training tokens of the rungs that are left."""
    n_done: int
    """Rungs behind it, when it continues an interrupted trial."""
    folder: Path
    """Where its checkpoints go, one folder each."""
    restore: Path | None
    """The checkpoint to go on from; None to start from the teacher."""
    memory_gib: float | None
    """What the trial may take; None: no limit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A rung was reached."""

    rung: RungRecord
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Failed:
    """An exception ended the trial."""

    outcome: Outcome
    details: str


class TrialActor(Trainable):
    """Ray Tune's side of `TrialWork`."""

    _work: TrialWork
    _task: TrialTask
    _n_steps: int
    _started: bool

    def setup(self, config: dict[str, Any], *, work: TrialWork) -> None:  # type: ignore[override]
        """Takes the work and the first trial; more threads than CPUs would wait for each other."""
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        self._work = work
        self._take(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Takes the next trial."""
        self._take(config)
        return True

    def step(self) -> dict[str, Any]:
        """Distils to the next rung, measures and saves; a failure is a result too."""
        task = self._task
        try:
            if not self._started:
                self._work.drop()
                limit_memory(None if task.memory_gib is None else int(task.memory_gib * GIB))
                self._work.start(task.spec, task.recipe, seed=task.seed)
                if task.restore is not None:
                    self._restore(task, task.restore)
                self._started = True
            rung = self._work.advance(task.rungs[self._n_steps])
            self._n_steps += 1
            checkpoint = task.folder / f"rung-{task.n_done + self._n_steps}"
            self._work.save(checkpoint)
        except Exception as error:
            limit_memory(None)
            details = traceback.format_exc()
            return {MEASURED: Failed(failure_of(error, memory_gib=task.memory_gib), details)}
        return {MEASURED: Measured(rung, checkpoint)}

    def _restore(self, task: TrialTask, checkpoint: Path) -> None:
        """Goes on from a checkpoint, or, where a power failure has left none that is whole, from the beginning.

        The trial's file of errors says so. Any other error, such as a checkpoint of another run, ends the trial.
        """
        try:
            self._work.restore(checkpoint)
        except LostCheckpointError as error:
            line = f"trained again from the beginning, because its checkpoint is lost: {error}"
            append_error(task.folder.parents[1], task.folder.name, line)
            self._work.start(task.spec, task.recipe, seed=task.seed)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        """Nothing: Tune's state is disposable, and `step` saves what counts."""
        return None

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing, for the same reason."""

    def _take(self, config: dict[str, Any]) -> None:
        self._task = config[TASK]
        self._n_steps = 0
        self._started = False
