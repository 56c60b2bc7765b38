# SPDX-License-Identifier: Apache-2.0
"""Runs the trials of a plan with Ray Tune, one CPU each, until their number or the time is used up.

Tune's own state is not used: it is written to a temporary folder and never read. The same command continues from the
manager's storage, after Ctrl-C, after a kill, or to search for longer.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from types import FrameType

import ray
from ray import tune
from threadpoolctl import threadpool_limits

from runtime.signals import ending_signals, without_repeats
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import Observer, TrialRecord
from search.storage.environ import environment
from search.storage.lock import exclusive
from search.trials.actor import TrialActor
from search.trials.manager import TrialManager
from search.trials.plan import TrialPlan
from search.trials.tune_adapters import ManagerScheduler, ManagerSearcher, SearchStopper
from search.trials.work import TrialWork
from search.workers.cluster import cluster, n_cpus_available

GRACE_S = 5.0  # a running rung may end this much after the deadline before it is stopped

_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see `_run_tune`
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one is silent at verbosity 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def run_trials(
    plan: TrialPlan,
    work: TrialWork,
    *,
    n_workers: int | None = None,
    address: str | None = None,
    deadline: float | None = None,
    observers: Sequence[Observer] = (),
    n_object_bytes: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrialRecord, ...]:
    """Runs a plan's trials; returns the records of all trials of the study, those of earlier searches included.

    `n_workers` None means one trial on every CPU; `address` is a Ray cluster's, None for a Ray on this machine;
    `deadline` is a time of `time.monotonic`; `n_object_bytes` is what Ray's object store must hold; `say` is told why a
    search ended before its trials or its time were used up. Raises
    KeyboardInterrupt after a Ctrl-C, once all running trials are recorded as interrupted.
    """
    with exclusive(plan.folder):
        manager = TrialManager(plan, deadline=deadline, observers=observers)
        if manager.exhausted:
            return manager.records
        outcome = Outcome(OutcomeKind.INTERRUPTED, "the search ended with an error")
        try:
            ray_session: AbstractContextManager[None] = nullcontext()
            if not ray.is_initialized():
                ray_session = cluster(address, n_cpus=n_workers, n_object_bytes=n_object_bytes)
            with environment(_TUNE_ENVIRONMENT), ray_session:
                _run_tune(manager, work, n_workers=n_workers or n_cpus_available())
            outcome = Outcome(OutcomeKind.TIME_BUDGET, "ended before the next rung")
            if manager.end_reason:
                say(manager.end_reason)
        except KeyboardInterrupt:
            outcome = Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C")
            raise
        finally:
            manager.close(outcome)
        return manager.records


def _run_tune(manager: TrialManager, work: TrialWork, *, n_workers: int) -> None:
    """Runs Tune until the manager begins no more trials and all have ended."""
    deadline = manager.deadline
    stopper = SearchStopper(manager, lambda: deadline is not None and time.monotonic() > deadline + GRACE_S)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stopper.interrupted.is_set():  # the second signal does not wait
            raise KeyboardInterrupt
        stopper.interrupted.set()

    with (
        tempfile.TemporaryDirectory(prefix="understudy-tune-") as scratch,
        ending_signals(without_repeats(interrupt)),
        _quiet(),
        threadpool_limits(limits=1, user_api="blas"),  # the driver's products are small; trials use the cores
    ):
        tune.run(
            tune.with_parameters(TrialActor, work=work),
            name="trials",
            search_alg=ManagerSearcher(manager, stopper),
            scheduler=ManagerScheduler(manager, stopper),
            stop=stopper,
            num_samples=-1,
            max_concurrent_trials=n_workers,
            resources_per_trial={"cpu": 1},
            reuse_actors=True,
            max_failures=0,
            raise_on_failed_trial=False,
            storage_path=scratch,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            verbose=0,
        )
    if stopper.interrupted.is_set():
        raise KeyboardInterrupt


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block Tune logs nothing, and what Ray prints goes to stderr."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
