# SPDX-License-Identifier: Apache-2.0
"""Claims about trials whose worker ended under them. What Ray says of deaths is asked of Ray in test_tune.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialState
from search.trials.journal import read_trials
from search.trials.manager import TrialManager
from search.workers.retries import MOST_TRIES, outcome_of_death
from tests.search.toy_search import Witness, plan, train


@pytest.fixture
def manager(tmp_path):
    """A search of three trials."""
    return TrialManager(plan(tmp_path, n_trials=3), observers=[Witness()])


# What Ray 2.60 said of workers and nodes that were killed, frozen or could not be set up.
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tactor_id: 04e0\n\tpid: 25546\n"
KILLED = (
    DIED + "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker "
    "crashed unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM "
    "killer (verifiable by checking for OOM in dmesg of the OOMing node), consider enabling resource isolation via "
    "--enable-resource-isolation to prevent node deaths by resource contention and significant loss of progress."
)
BY_RAY = DIED + "The actor is dead because it was killed by `ray.kill`."
NODE = (
    DIED + "The actor died because its node has died. Node Id: 2751\n\tthe actor's node was terminated unexpectedly: "
    "health check failed due to missing too many heartbeats"
)
REMOVED = (
    DIED + "The actor died because its node has died. Node Id: 9600\n\tthe actor's node was terminated expectedly: "
    "received SIGTERM"
)
CLOSED = "The actor is temporarily unavailable: RpcError: RPC error: Socket closed rpc_code: 14"
MEMORY = "ActorDiedError: worker process has died. Task was killed due to the node running low on memory."
SET_UP = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::A.__init__()\x1b[39m (pid=1)\n"
    '  File "a.py", line 1, in __init__\nValueError: the folder is unavailable, its node has died'
)
TRAIN = "A worker health check failed.\nWorker info: Worker(actor=Actor(RayTrainWorker, 04e0), metadata=...)\n"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RayActorError("04e0", KILLED), OutcomeKind.WORKER_DIED),
        (RayActorError("04e0", BY_RAY), OutcomeKind.WORKER_DIED),
        (RayActorError("04e0", NODE), OutcomeKind.NODE_DIED),
        (RayActorError("04e0", REMOVED), OutcomeKind.NODE_DIED),
        (RayActorError("04e0", DIED, preempted=True), OutcomeKind.NODE_DIED),
        (NodeDiedError("gone"), OutcomeKind.NODE_DIED),
        (ActorUnavailableError(CLOSED, None), OutcomeKind.WORKER_UNREACHABLE),
        (ActorUnavailableError(CLOSED, bytes(16)), OutcomeKind.WORKER_UNREACHABLE),
        (RayActorError("04e0", MEMORY), OutcomeKind.OUT_OF_MEMORY),
        (OutOfMemoryError("the node is full"), OutcomeKind.OUT_OF_MEMORY),
        (RayActorError("04e0", SET_UP, actor_init_failed=True), OutcomeKind.EXCEPTION),
        (RuntimeError(TRAIN + KILLED), OutcomeKind.WORKER_DIED),
        (RuntimeError(TRAIN + NODE), OutcomeKind.NODE_DIED),
        (RuntimeError(TRAIN + str(ActorUnavailableError(CLOSED, bytes(16)))), OutcomeKind.WORKER_UNREACHABLE),
        (RuntimeError(TRAIN + SET_UP), OutcomeKind.EXCEPTION),
        (RuntimeError("the server is unavailable"), OutcomeKind.WORKER_DIED),
        (RuntimeError(""), OutcomeKind.WORKER_DIED),
    ],
)
def test_a_death_is_what_ray_says_of_it_and_no_word_in_passing(error: Exception, kind: OutcomeKind) -> None:
    assert outcome_of_death(error).kind is kind


def test_a_worker_that_cannot_be_set_up_says_why() -> None:
    outcome = outcome_of_death(RayActorError("04e0", SET_UP, actor_init_failed=True))
    assert outcome.details.endswith("ValueError: the folder is unavailable, its node has died")


def test_a_lost_trial_goes_on_from_its_last_rung_before_any_other_begins(manager) -> None:
    record = train(manager, manager.ask(), rungs=1)
    half = manager.plan.folder / "trials" / record.name / "rung-2"
    half.mkdir()
    manager.lost(record.number, Outcome(OutcomeKind.WORKER_DIED, "by a signal"), details="what Ray says")
    again = manager.ask()
    assert (again.continues, again.point) == (record.number, record.point)
    assert again.rungs == record.rungs
    assert again.checkpoint == record.checkpoint
    assert again.checkpoint.is_dir() and not half.exists()
    assert (manager.plan.folder / "errors" / f"{record.name}.txt").read_text() == "what Ray says"
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    assert [each.state for each in read_trials(manager.plan.folder, "toy")] == [TrialState.INTERRUPTED] * 2


def test_a_lost_trial_does_not_count_twice(manager) -> None:
    manager.lost(manager.ask().number, Outcome(OutcomeKind.NODE_DIED, "it is gone"))
    begun = []
    while (record := manager.ask()) is not None:
        begun.append(train(manager, record))
    assert len(begun) == 3
    assert begun[0].continues == 0


def test_a_search_that_has_begun_its_last_trial_still_goes_on_with_a_lost_one(manager) -> None:
    running = [manager.ask() for _ in range(3)]
    assert manager.ask() is None and manager.running
    manager.lost(running[1].number, Outcome(OutcomeKind.NODE_DIED, "it is gone"))
    assert manager.ask().continues == running[1].number
    assert manager.ask() is None


@pytest.mark.parametrize("kind", [OutcomeKind.WORKER_DIED, OutcomeKind.NODE_DIED, OutcomeKind.WORKER_UNREACHABLE])
def test_a_trial_lost_too_often_at_one_rung_is_failed(manager, kind: OutcomeKind) -> None:
    record = manager.ask()
    for _ in range(MOST_TRIES[kind] - 1):
        manager.lost(record.number, Outcome(kind))
        record = manager.ask()
        assert record.continues is not None
    manager.lost(record.number, Outcome(kind))
    assert manager.records[-1].state is TrialState.FAILED
    assert manager.records[-1].outcome == Outcome(kind, f"{MOST_TRIES[kind]} times at this rung")
    assert manager.ask().continues is None


def test_a_new_rung_gives_all_tries_back(manager) -> None:
    record = manager.ask()
    for n_rungs in (1, 2):
        for _ in range(MOST_TRIES[OutcomeKind.WORKER_DIED] - 1):
            manager.lost(record.number, Outcome(OutcomeKind.WORKER_DIED))
            record = manager.ask()
            assert record.continues is not None
        record = train(manager, record, rungs=n_rungs)
        assert record.state is TrialState.RUNNING


def test_a_trial_that_has_ended_cannot_be_lost(manager) -> None:
    record = train(manager, manager.ask())
    before = manager.records
    manager.lost(record.number, Outcome(OutcomeKind.WORKER_DIED))
    assert manager.records == before


def test_a_killed_driver_in_between_changes_nothing_about_who_continues_whom(manager) -> None:
    record = train(manager, manager.ask(), rungs=1)
    manager.lost(record.number, Outcome(OutcomeKind.NODE_DIED, "it is gone"))
    again = TrialManager(replace(manager.plan))
    continued = [again.ask() for _ in range(2)]
    assert [each.continues for each in continued] == [record.number, None]
