# SPDX-License-Identifier: Apache-2.0
"""The Ray Tune Trainable of a trial: one `step` is one rung, and an actor is reused for one trial after another.

An exception of a trial is returned as a result: the actor stays alive, with its imports and data, and the driver
records why the trial failed. Only what kills the process (Ray's memory monitor, a signal) ends the actor.
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
"""Key of the one entry of a Tune configuration, a `TrialTask`."""
MEASURED = "measured"
"""Key of a result's entry, the `Measured` or the `Failed` of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """What an actor needs to run a trial."""

    number: int
    """Number of the trial."""
    spec: StudentSpec
    """The student."""
    recipe: RecipeSpec
    """How it is distilled."""
    seed: int
    """Seed of weights and batches."""
    rungs: tuple[int, ...]
    """Training tokens at which the remaining rungs are reached."""
    n_done: int
    """Rungs that are done already, if it continues an interrupted trial."""
    folder: Path
    """Folder of its checkpoints, which are folders too."""
    restore: Path | None
    """The checkpoint to continue from; None: start from the teacher."""
    memory_gib: float | None
    """Memory limit of the trial; None: no limit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of a step that reached a rung."""

    rung: RungRecord
    """What was measured."""
    checkpoint: Path
    """Folder of the checkpoint at this rung."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Result of a step in which an exception ended the trial."""

    outcome: Outcome
    """The kind of failure."""
    details: str
    """The traceback."""


class TrialActor(Trainable):
    """Runs `TrialWork` as a Trainable of Ray Tune."""

    _work: TrialWork
    _task: TrialTask
    _n_steps: int
    _started: bool

    def setup(self, config: dict[str, Any], *, work: TrialWork) -> None:  # type: ignore[override]
        """Stores the work and the first trial, and limits torch's threads to the CPUs of the actor."""
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        self._work = work
        self._set_task(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Replaces the trial by the next one; True: the actor can be reused."""
        self._set_task(config)
        return True

    def step(self) -> dict[str, Any]:
        """Distils to the next rung, measures and saves; returns {MEASURED: `Measured` or `Failed`}."""
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
        """Continues from a checkpoint, or starts from the beginning if a power failure has damaged it.

        The trial's error file then says so. Any other error, such as a checkpoint of another run, ends the trial.
        """
        try:
            self._work.restore(checkpoint)
        except LostCheckpointError as error:
            line = f"trained again from the beginning, because its checkpoint is lost: {error}"
            append_error(task.folder.parents[1], task.folder.name, line)
            self._work.start(task.spec, task.recipe, seed=task.seed)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        """Does nothing: Tune's state is not used, and `step` saves checkpoints."""
        return None

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Does nothing, for the same reason."""

    def _set_task(self, config: dict[str, Any]) -> None:
        self._task = config[TASK]
        self._n_steps = 0
        self._started = False
