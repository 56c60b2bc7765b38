# SPDX-License-Identifier: Apache-2.0
"""Adapters from Ray Tune to the manager: a Searcher, a TrialScheduler and a Stopper.

Ray's own `OptunaSearch` does not prune, tells Optuna a stopped trial as complete, and leaves one whose result is NaN
running in the study. So the manager decides, and these classes translate. Tune passes each result to the scheduler
first, and to the searcher only if the trial goes on, so the scheduler reports all results to the manager.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import ray
from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord
from search.trials.actor import MEASURED, TASK, Failed, Measured, TrialTask
from search.trials.manager import TrialManager
from search.workers.heartbeat import HeartbeatMonitor
from search.workers.retries import MOST_TRIES, outcome_of_death


class ManagerSearcher(Searcher):
    """Begins the trials that the manager proposes."""

    def __init__(self, manager: TrialManager, stopper: SearchStopper) -> None:
        super().__init__(metric=None, mode=None)
        self._manager = manager
        self._stopper = stopper

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None if there is none but a running one may be lost; else FINISHED."""
        record = self._stopper.call_and_keep_error(self._manager.ask)
        if record is None:
            return None if self._manager.running else Searcher.FINISHED
        return {TASK: self._task(record)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the scheduler has told the manager."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the manager has stored everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, for the same reason."""

    def _task(self, record: TrialRecord) -> TrialTask:
        assert record.spec is not None and record.recipe is not None
        plan, n_done = self._manager.plan, len(record.rungs)
        return TrialTask(
            number=record.number,
            spec=record.spec,
            recipe=record.recipe,
            seed=record.seed,
            rungs=plan.rungs[n_done:],
            n_done=n_done,
            folder=plan.folder / "trials" / record.name,
            restore=record.checkpoint,
            memory_gib=plan.trial_memory_gib,
        )


class ManagerScheduler(TrialScheduler):
    """Passes results to the manager, stops the trials that it ended, and runs trials first in, first out."""

    _supports_buffered_results = False

    def __init__(self, manager: TrialManager, stopper: SearchStopper) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._manager = manager
        self._stopper = stopper

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP if the manager has ended the trial, else CONTINUE."""
        self._stopper.report(trial)
        goes_on = self._stopper.call_and_keep_error(lambda: self._record(_task_of(trial), result[MEASURED]))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tells the manager that the actor died; the error is read from the file that Tune wrote."""
        file = trial.error_file
        text = Path(file).read_text(encoding="utf-8") if file is not None and Path(file).exists() else ""
        outcome = outcome_of_death(RuntimeError(text))  # the exception itself is only in a pickle
        end = self._manager.lost if outcome.kind in MOST_TRIES else self._manager.failed
        self._stopper.call_and_keep_error(lambda: end(_task_of(trial).number, outcome, details=text))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Remembers the trial, so that its actor can be found."""
        self._stopper.watch(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Does nothing: the manager was told with the trial's last result."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Does nothing: trials are never paused."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first pending trial."""
        return next((trial for trial in tune_controller.get_trials() if trial.status == Trial.PENDING), None)

    def debug_string(self) -> str:
        """The class name, for Tune's own output, which is off."""
        return type(self).__name__

    def _record(self, task: TrialTask, measured: Measured | Failed) -> bool:
        match measured:
            case Failed(outcome, details):
                if outcome.kind is OutcomeKind.NO_SPACE:  # not the trial's fault: the search ends here
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(task.folder))
                self._manager.failed(task.number, outcome, details=details)
                return False
            case Measured(rung, checkpoint):
                if not checkpoint.is_dir():
                    details = f"{checkpoint}; the store must lie where all nodes of the cluster see it"
                    self._manager.failed(task.number, Outcome(OutcomeKind.CHECKPOINT_NOT_FOUND, details))
                    return False
                return self._manager.reached(task.number, rung, checkpoint)
            case _:
                assert_never(measured)


class SearchStopper(Stopper):
    """Called between two steps of Tune's loop: ends hung trials, and all trials on an error, Ctrl-C or the deadline."""

    def __init__(self, manager: TrialManager, past_deadline: Callable[[], bool]) -> None:
        self.interrupted = threading.Event()
        self._manager = manager
        self._past_deadline = past_deadline
        self._error: Exception | None = None
        self._trials: list[Trial] = []
        self._heartbeats = HeartbeatMonitor()

    def __reduce__(self) -> Any:
        """Pickled as `NoopStopper`: Tune saves its state, which is never read."""
        return (NoopStopper, ())

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """False: the scheduler stops single trials."""
        return False

    def call_and_keep_error(self, action: Callable[[], Any]) -> Any:
        """The action's result, or None if it raised: `stop_all` then raises the error, which Tune would wrap."""
        try:
            return action()
        except Exception as error:
            self._error = self._error or error
            return None

    def watch(self, trial: Trial) -> None:
        """Adds a trial, so that its actor can be killed."""
        self._trials.append(trial)

    def report(self, trial: Trial) -> None:
        """Records a heartbeat of a trial."""
        self._heartbeats.report(_task_of(trial).number)

    def stop_all(self) -> bool:
        """Whether the search ends now. Raises the first error that `call_and_keep_error` caught."""
        if self._error is not None:
            raise self._error
        for trial in self._trials:
            if trial.is_finished():
                _drop_statistics(trial)
        self._trials = [trial for trial in self._trials if not trial.is_finished()]
        if self.interrupted.is_set() or self._past_deadline():
            for trial in self._trials:
                _kill_actor(trial)
            return True
        for trial in self._trials:
            if trial.status == Trial.RUNNING:
                self.call_and_keep_error(functools.partial(self._end_if_hung, trial))
        return False

    def _end_if_hung(self, trial: Trial) -> None:
        number = _task_of(trial).number
        limit_s = self._manager.rung_limit_s(number)
        if limit_s is None:  # the manager has ended it, Tune will
            self._heartbeats.forget(number)
        elif self._heartbeats.seconds_since(number) > limit_s:
            details = f"no report within {limit_s:.0f} s (search.rung_time_limit)"
            self._manager.failed(number, Outcome(OutcomeKind.HUNG, details))
            _kill_actor(trial)


def _kill_actor(trial: Trial) -> None:
    """Kills the actor of a running trial: a rung in progress cannot be stopped otherwise; earlier rungs are stored."""
    actor = trial.temporary_state.ray_actor
    if trial.status == Trial.RUNNING and actor is not None:
        ray.kill(actor)


def _drop_statistics(trial: Trial) -> None:
    """Frees the running statistics that Tune keeps for every metric of every trial."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()


def _task_of(trial: Trial) -> TrialTask:
    task: TrialTask = trial.config[TASK]
    return task
