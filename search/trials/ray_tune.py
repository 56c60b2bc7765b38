# SPDX-License-Identifier: Apache-2.0
"""The search: Ray Tune trains the trials that the ledger begins, one CPU each, until trials or time are used up.

Tune's own state is disposable: it lives in a temporary folder, is written once and never read. The ledger's storage
is what the same command goes on from, after Ctrl-C, after a kill, or to search for longer.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from threadpoolctl import threadpool_limits

from search.records.trial import Observer, TrialRecord
from search.storage.environ import environment
from search.storage.lock import exclusive
from search.trials.actor import TrialActor
from search.trials.manager import TrialLedger
from search.trials.plan import TrialPlan
from search.trials.tune_adapters import LedgerScheduler, LedgerSearcher, SearchStopper
from search.trials.work import DistillationWork, TrialWork
from search.workers.cluster import cluster, n_cpus_available
from spaces.study.spec import StudySpec, space_to_json

if TYPE_CHECKING:
    from search.storage.store import Store
    from search.study.prepare import Prepared

GRACE_S = 5.0  # a rung that was expected to end before the deadline may end so much later before it is given up

_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one is silent at verbosity 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def search_trials(
    study: StudySpec,
    prepared: Prepared,
    *,
    store: Store,
    address: str | None = None,
    deadline: float | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[TrialRecord, ...]:
    """Searches a prepared study and returns all its trials by number, those of earlier runs included.

    `address` is a Ray cluster's, None for this machine. `deadline` is a time of `time.monotonic`: no trial begins
    that cannot be expected to end before it, and running ones end at the last rung before it, to be continued by the
    next run. Raises KeyboardInterrupt after a Ctrl-C, once everything measured is stored; ValueError if the store
    holds a study of this name that is not comparable, or if another search is writing it.
    """
    plan = plan_of(study, prepared, store=store)
    work = DistillationWork(prepared.inheritance, prepared.data, device=prepared.device)
    return run_trials(
        plan,
        work,
        n_workers=study.search.n_workers,
        address=address,
        deadline=deadline,
        observers=observers,
        n_object_bytes=work.n_bytes,
    )


def plan_of(study: StudySpec, prepared: Prepared, *, store: Store) -> TrialPlan:
    """What decides which trials a study's search makes; the identity is what makes their numbers comparable."""
    return TrialPlan(
        name=study.name,
        folder=store.study_folder(study.name),
        space=study.space,
        teacher=prepared.teacher.spec,
        rungs=study.search.rungs,
        predict=prepared.predictor.predict,
        seed=study.search.seed,
        n_trials=study.search.n_trials,
        n_startup_trials=study.search.n_startup_trials,
        patience=study.search.patience,
        rung_time_limit_s=study.search.rung_time_limit_s,
        trial_memory_gib=study.search.trial_memory_gib,
        initial_points=study.initial_points,
        identity={
            "space": space_to_json(study.space),
            "rungs": list(study.search.rungs),
            "profile": study.profile.to_json(),
            "teacher_weights": [teacher.weight for teacher in study.teachers],
            **prepared.identity,
        },
    )


def run_trials(
    plan: TrialPlan,
    work: TrialWork,
    *,
    n_workers: int | None = None,
    address: str | None = None,
    deadline: float | None = None,
    observers: Sequence[Observer] = (),
    n_object_bytes: int = 0,
) -> tuple[TrialRecord, ...]:
    """Searches a plan with any work; see `search_trials`. `n_workers` None: one trial on every CPU."""
    with exclusive(plan.folder):
        ledger = TrialLedger(plan, deadline=deadline, observers=observers)
        if ledger.exhausted:
            return ledger.records
        outcome = "interrupted: the search ended with an error"
        try:
            ray_session: AbstractContextManager[None] = nullcontext()
            if not ray.is_initialized():
                ray_session = cluster(address, n_cpus=n_workers, n_object_bytes=n_object_bytes)
            with environment(_TUNE_ENVIRONMENT), ray_session:
                _run_tune(ledger, work, n_workers=n_workers or n_cpus_available())
            outcome = "time budget: ended before the next rung"
        except KeyboardInterrupt:
            outcome = "interrupted: Ctrl-C"
            raise
        finally:
            ledger.close(outcome)
        return ledger.records


def _run_tune(ledger: TrialLedger, work: TrialWork, *, n_workers: int) -> None:
    """Tune's loop, until the ledger begins no more trials and all have ended."""
    deadline = ledger.deadline
    stopper = SearchStopper(ledger, lambda: deadline is not None and time.monotonic() > deadline + GRACE_S)
    with (
        tempfile.TemporaryDirectory(prefix="understudy-tune-") as scratch,
        _interrupts(stopper.interrupted),
        _quiet(),
        threadpool_limits(limits=1, user_api="blas"),  # proposals are small products, and the cores are the trials'
    ):
        tune.run(
            tune.with_parameters(TrialActor, work=work),
            name="trials",
            search_alg=LedgerSearcher(ledger, stopper),
            scheduler=LedgerScheduler(ledger, stopper),
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
def _interrupts(interrupted: threading.Event) -> Iterator[None]:
    """Within the block the first Ctrl-C sets the event, the second raises KeyboardInterrupt where it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block Tune logs nothing, and what Ray prints goes to stderr: the ledger's observers report."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
