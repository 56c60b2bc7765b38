# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.optimiser.pareto import non_dominated
from search.optimiser.surrogate import Surrogate
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialState
from search.storage.lock import exclusive
from search.trials.journal import read_trials
from search.trials.manager import MOST_POSTPONED, TrialManager
from search.trials.problem import StudentProblem
from spaces.domain import Choice, Integer
from spaces.space import Space
from tests.search.toy_search import SPACE, TEACHER, ToyWork, Witness, fidelity_of, plan, predict, rung, train


def search(manager, n=10**6):
    """Asks and trains one trial after another; returns those that it began."""
    begun = []
    while len(begun) < n and (record := manager.ask()) is not None:
        begun.append(train(manager, record))
    return begun


def stored(folder, name="toy"):
    """The study as Optuna alone reads it."""
    backend = JournalFileBackend(str(folder / "trials.journal"))
    return optuna.load_study(study_name=name, storage=JournalStorage(backend))


@pytest.fixture(scope="module", autouse=True)
def without_fsync():
    """Two thirds of the time of these tests would be spent waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole search of 24 trials: (folder, records, events)."""
    folder = tmp_path_factory.mktemp("finished")
    witness = Witness()
    manager = TrialManager(plan(folder, n_trials=24), observers=[witness])
    search(manager)
    return folder, manager.records, witness.events


def test_optunas_own_tools_name_the_objectives(finished):
    study = stored(finished[0])
    assert study.metric_names == ["latency_ms", "cosine"]
    assert {"values_latency_ms", "values_cosine"} <= set(study.trials_dataframe())


def test_a_search_ends_after_its_trials(finished):
    _, records, _ = finished
    assert sum(record.state is not TrialState.REFUSED for record in records) == 24
    assert {record.state for record in records} >= {TrialState.COMPLETE, TrialState.PRUNED}


def test_only_full_budget_trials_are_complete_in_optuna(finished):
    folder, records, _ = finished
    for trial, record in zip(stored(folder).trials, records, strict=True):
        if record.state is TrialState.COMPLETE:
            assert record.n_tokens == 400
            assert trial.values == [record.predicted_latency_ms, record.fidelity.cosine]
        else:
            assert trial.state is optuna.trial.TrialState.PRUNED
            assert trial.values is None


def test_pruning_costs_no_point_of_the_front(finished):
    _, records, _ = finished
    work = ToyWork()
    final = []
    for record in records:
        work.start(record.spec, record.recipe, seed=0)
        final.append((record.predicted_latency_ms, work.advance(400).fidelity.cosine))
    front = [records[i] for i in non_dominated(final)]
    assert all(record.state is TrialState.COMPLETE for record in front if record.state is not TrialState.REFUSED)


def test_a_pruned_trial_names_one_or_two_no_slower_ones(finished):
    _, records, _ = finished
    for record in records:
        if record.state is TrialState.PRUNED:
            assert record.outcome_kind is OutcomeKind.DOMINATED
            rivals = [other for other in records if other.number in record.outcome.rivals]
            assert len(rivals) in (1, 2)
            for rival in rivals:
                assert rival.predicted_latency_ms <= record.predicted_latency_ms
                assert rival.rungs


def test_checkpoints_are_kept_of_complete_trials_alone(finished):
    folder, records, _ = finished
    kept = {record.name for record in records if record.state is TrialState.COMPLETE}
    assert {path.name for path in (folder / "trials").iterdir()} == kept
    for record in records:
        assert (record.checkpoint is not None) == (record.name in kept)
        assert record.checkpoint is None or record.checkpoint.name == "rung-3"


def test_observers_see_each_trial_begin_measure_and_end_in_order(finished):
    _, records, events = finished
    for record in records:
        seen = [(event, told) for event, told in events if told.number == record.number]
        if record.state is TrialState.REFUSED:
            assert [event for event, _ in seen] == ["ended"]
        else:
            assert [event for event, _ in seen] == ["started", *["rung"] * len(record.rungs), "ended"]
            assert [len(told.rungs) for _, told in seen[:-1]] == list(range(len(record.rungs) + 1))
        assert seen[-1][1] == record


def test_everything_is_read_back_from_the_storage(finished):
    folder, records, _ = finished
    assert read_trials(folder, "toy") == records
    assert read_trials(folder, "another") == ()
    assert read_trials(folder / "nowhere", "toy") == ()


def test_a_finished_search_has_nothing_to_ask(finished):
    folder, records, _ = finished
    manager = TrialManager(plan(folder, n_trials=24))
    assert manager.exhausted
    assert manager.ask() is None
    assert manager.records == records


def test_equal_seeds_give_equal_searches(finished, tmp_path):
    _, records, _ = finished
    manager = TrialManager(plan(tmp_path, n_trials=24))
    search(manager)
    for one, other in zip(records, manager.records, strict=True):
        assert replace(one, checkpoint=None) == replace(other, checkpoint=None)


def test_another_seed_gives_another_search(finished, tmp_path):
    _, records, _ = finished
    manager = TrialManager(plan(tmp_path, n_trials=5, seed=1))
    search(manager)
    assert [record.point for record in manager.records] != [record.point for record in records[:5]]


def test_initial_points_come_first_each_once(tmp_path):
    initial = [{"n_layers": 3}, {"n_layers": 0}, {"n_layers": 3}]
    manager = TrialManager(plan(tmp_path, initial_points=initial))
    assert [record.point["n_layers"] for record in search(manager, 2)] == [3, 0]
    again = TrialManager(plan(tmp_path, initial_points=initial))
    assert len(again.records) == 2
    search(again, 3)
    assert sum(record.point == again.records[0].point for record in again.records) == 1


def test_a_point_no_faster_than_the_teacher_is_refused(tmp_path):
    space = Space(domains={"n_layers": Integer(3, 4)}, fixed={"units": 64})
    manager = TrialManager(plan(tmp_path, space=space, initial_points=[{"n_layers": 4}]))
    assert manager.ask().point == {"n_layers": 3}
    refused = manager.records[0]
    assert refused.state is TrialState.REFUSED
    assert refused.outcome_kind == "hopeless"
    assert refused.predicted_latency_ms == predict(TEACHER)


def test_a_point_that_cannot_be_built_is_refused_with_the_rule(tmp_path):
    space = Space(domains={"n_layers": Integer(1, 1), "n_heads": Choice((4, 5))})
    manager = TrialManager(plan(tmp_path, space=space, initial_points=[{"n_heads": 5}]))
    assert manager.ask().point["n_heads"] == 4
    refused = manager.records[0]
    assert refused.spec is None
    assert str(refused.outcome).startswith("cannot be built: n_heads must divide the width")


def test_a_finite_space_is_searched_once_and_then_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("search.trials.manager.MOST_REFUSALS", 30)
    space = Space(domains={"n_layers": Integer(0, 3)})
    manager = TrialManager(plan(tmp_path, space=space, n_startup_trials=100))
    begun = search(manager)
    assert sorted(record.point["n_layers"] for record in begun) == [0, 1, 2, 3]
    refused = [record for record in manager.records if record.state is TrialState.REFUSED]
    assert {record.outcome_kind for record in refused} == {"duplicate"}


def test_a_failed_trial_says_why_and_the_search_goes_on(tmp_path):
    manager = TrialManager(plan(tmp_path))
    record = manager.ask()
    (tmp_path / "trials" / record.name / "rung-1").mkdir(parents=True)
    manager.failed(record.number, Outcome(OutcomeKind.OUT_OF_MEMORY, "no room"), details="Traceback ...")
    manager.failed(record.number, Outcome(OutcomeKind.EXCEPTION, "told twice"))
    assert manager.records[0].state is TrialState.FAILED
    assert manager.records[0].outcome == Outcome(OutcomeKind.OUT_OF_MEMORY, "no room")
    assert (tmp_path / "errors" / "trial-0000.txt").read_text() == "Traceback ..."
    assert not (tmp_path / "trials" / record.name).exists()
    assert stored(tmp_path).trials[0].state is optuna.trial.TrialState.FAIL
    assert train(manager, manager.ask()).state is TrialState.COMPLETE


def test_a_fidelity_that_is_not_a_number_fails_the_trial(tmp_path):
    manager = TrialManager(plan(tmp_path))
    record = manager.ask()
    measured = replace(rung(100, 0.9), fidelity=replace(fidelity_of(0.9), cosine=math.nan))
    assert not manager.reached(record.number, measured, tmp_path / "trials" / record.name / "rung-1")
    assert manager.records[0].state is TrialState.FAILED
    assert manager.records[0].outcome_kind == "not finite"
    assert stored(tmp_path).trials[0].state is optuna.trial.TrialState.FAIL


def test_an_interrupted_search_goes_on_where_it_was(tmp_path, finished):
    _, whole, _ = finished
    manager = TrialManager(plan(tmp_path, n_trials=24))
    search(manager, 3)
    record = manager.ask()
    train(manager, record, rungs=2)
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    left = manager.records[3]
    assert (left.state, len(left.rungs)) == (TrialState.INTERRUPTED, 2)

    witness = Witness()
    again = TrialManager(plan(tmp_path, n_trials=24), observers=[witness])
    continued = again.ask()
    assert continued.continues == 3
    assert continued.point == left.point
    assert continued.rungs == left.rungs
    assert continued.checkpoint == left.checkpoint
    work = ToyWork()
    ended = train(again, continued, work=work)
    assert ended.state is TrialState.COMPLETE
    assert ended.rungs == whole[3].rungs
    assert not left.checkpoint.exists()
    assert [event for event, _ in witness.events] == ["started", "rung", "ended"]

    third = TrialManager(plan(tmp_path, n_trials=24))
    search(third)
    assert sum(record.continues == 3 for record in third.records) == 1
    assert sum(record.state not in (TrialState.REFUSED, TrialState.INTERRUPTED) for record in third.records) == 24


@pytest.mark.parametrize("n_rungs", [0, 1])
def test_what_a_killed_search_left_running_is_failed_and_tried_again(tmp_path, n_rungs):
    killed = TrialManager(plan(tmp_path, initial_points=[{"n_layers": 1}, {"n_layers": 2}]))
    train(killed, killed.ask(), rungs=n_rungs)  # and nothing more: neither told nor closed
    del killed

    again = TrialManager(plan(tmp_path, initial_points=[{"n_layers": 1}, {"n_layers": 2}]))
    assert again.records[0].state is TrialState.INTERRUPTED
    assert again.records[0].outcome == Outcome(OutcomeKind.DRIVER_ENDED)
    assert stored(tmp_path).trials[0].state is optuna.trial.TrialState.FAIL
    begun = search(again, 3)
    assert [record.point["n_layers"] for record in begun[:2]] == [1, 2]
    assert [record.continues for record in begun] == [0, None, None]
    assert len(begun[0].rungs) == 3


def test_a_trial_that_was_continued_is_seen_once(tmp_path):
    toy = plan(tmp_path, n_trials=1)
    for n_rungs in (1, 1, 3):
        killed = TrialManager(toy)
        train(killed, killed.ask(), rungs=n_rungs)
        del killed
    TrialManager(toy)
    limit_ms = predict(TEACHER)
    problem = StudentProblem(
        space=SPACE, teacher=TEACHER, rungs=toy.rungs, predict=predict, limit_ms=limit_ms, objective=COSINE
    )
    study = stored(tmp_path)
    posterior = Surrogate(problem).posterior(study)
    assert len(study.trials) == 3
    assert [(seen.number, len(seen.log_errors), seen.complete) for seen in posterior.trials] == [(2, 3, True)]


def test_a_search_killed_between_its_record_and_optuna_tells_the_rest(tmp_path, monkeypatch):
    manager = TrialManager(plan(tmp_path, n_trials=1))
    record = manager.ask()

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("search.trials.manager.tell", killed)  # the process ends when it would tell Optuna
        train(manager, record)
    assert stored(tmp_path).trials[0].state is optuna.trial.TrialState.RUNNING

    again = TrialManager(plan(tmp_path, n_trials=1))
    assert again.records[0].state is TrialState.COMPLETE
    assert stored(tmp_path).trials[0].values == [record.predicted_latency_ms, again.records[0].fidelity.cosine]
    assert again.exhausted


def test_a_trial_whose_search_was_killed_after_its_last_rung_is_complete(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    manager = TrialManager(plan(tmp_path, n_trials=2))
    record = manager.ask()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manager, "_end", killed)
        train(manager, record)
    assert len(manager.records[0].rungs) == len(manager.plan.rungs)
    again = TrialManager(plan(tmp_path, n_trials=2))
    assert again.records[0].state is TrialState.COMPLETE
    assert again.records[0].checkpoint.is_dir()
    assert stored(tmp_path).trials[0].values == [record.predicted_latency_ms, again.records[0].fidelity.cosine]
    search(again)
    assert [each.state for each in again.records if each.continues is not None] == []
    assert read_trials(tmp_path, "toy") == again.records


def test_an_error_after_the_last_rung_leaves_a_complete_trial(tmp_path):
    class Deaf:
        """Cannot be told of the last rung."""

        def rung_reached(self, record):
            if len(record.rungs) == 3:
                raise OSError("the terminal is gone")

        trial_started = trial_ended = staticmethod(lambda record: None)

    manager = TrialManager(plan(tmp_path, n_trials=1), observers=[Deaf()])
    with pytest.raises(OSError, match="terminal"):
        search(manager)
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "the search ended with an error"))
    (record,) = manager.records
    assert (record.state, len(record.rungs)) == (TrialState.COMPLETE, 3)
    assert stored(tmp_path).trials[0].values == [record.predicted_latency_ms, record.fidelity.cosine]


def test_an_interrupted_trial_with_all_its_rungs_is_completed_by_the_next_search(tmp_path, monkeypatch):
    manager = TrialManager(plan(tmp_path, n_trials=2))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manager, "_is_complete", lambda record: (_ for _ in ()).throw(KeyboardInterrupt))
        train(manager, manager.ask())
    with monkeypatch.context() as patch:
        patch.setattr(manager, "_is_complete", lambda record: False)  # as earlier versions ended it
        manager.close(Outcome(OutcomeKind.INTERRUPTED, "the search ended with an error"))
    assert [record.state for record in manager.records] == [TrialState.INTERRUPTED]
    again = TrialManager(plan(tmp_path, n_trials=2))
    search(again)
    assert [(record.state, record.continues) for record in again.records[:2]] == [
        (TrialState.INTERRUPTED, None),
        (TrialState.COMPLETE, 0),
    ]
    assert sum(record.state in (TrialState.COMPLETE, TrialState.PRUNED) for record in again.records) == 2


def test_a_report_of_a_trial_that_was_given_up_is_not_taken(tmp_path):
    manager = TrialManager(plan(tmp_path))
    record = manager.ask()
    manager.failed(record.number, Outcome(OutcomeKind.HUNG, "no report within 3 s"))
    assert not manager.reached(record.number, rung(100, 0.9), tmp_path / "late")
    assert (manager.records[0].state, manager.records[0].rungs) == (TrialState.FAILED, ())


@pytest.mark.parametrize("how", ["the search ends", "its worker dies"])
def test_what_was_interrupted_goes_on_before_initial_points_that_wait(tmp_path, how):
    toy = plan(tmp_path, n_trials=2, initial_points=[{"n_layers": n} for n in (3, 2, 1, 0)])
    manager = TrialManager(toy)
    left = train(manager, manager.ask(), rungs=2)
    if how == "the search ends":
        manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
        manager = TrialManager(toy)
    else:
        manager.lost(left.number, Outcome(OutcomeKind.WORKER_DIED, "a signal ended it"))
    begun = search(manager)
    assert [record.continues for record in begun] == [left.number, None]
    assert [record.point["n_layers"] for record in begun] == [3, 2]
    assert TrialManager(toy).exhausted


def test_interrupted_trials_are_no_failures(tmp_path):
    manager = TrialManager(plan(tmp_path, n_trials=6))
    failed = []
    for n in itertools.count():
        if (record := manager.ask()) is None:
            break
        if n % 2:
            manager.failed(record.number, Outcome(OutcomeKind.OUT_OF_MEMORY, "it takes more than 1 GiB"))
            failed.append(record.number)
        elif n == 2:
            manager.lost(record.number, Outcome(OutcomeKind.WORKER_DIED, "a signal ended it"))
        else:
            train(manager, record)
    rungs = manager.plan.rungs
    problem = StudentProblem(space=SPACE, teacher=TEACHER, rungs=rungs, predict=predict, limit_ms=1e9, objective=COSINE)
    assert [trial.number for trial in stored(tmp_path).trials if problem.failed(trial)] == failed != []


@pytest.mark.parametrize("n_bytes", [1, 20, 200])
def test_a_journal_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path, n_bytes):
    search(TrialManager(plan(tmp_path)), 2)
    journal = tmp_path / "trials.journal"
    journal.write_bytes(journal.read_bytes()[:-n_bytes])
    manager = TrialManager(plan(tmp_path, n_trials=4))
    search(manager)
    assert sum(record.state in (TrialState.COMPLETE, TrialState.PRUNED) for record in manager.records) == 4


def test_a_power_failure_costs_nothing_that_an_observer_was_told(tmp_path, monkeypatch):
    folder, survivor = tmp_path / "study", tmp_path / "survivor"
    journal, forced = folder / "trials.journal", []
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.append(journal.stat().st_size))

    class PowerFails:
        """Compares what it is told with what is on the disk for certain."""

        def compare(self, told):
            survivor.mkdir(exist_ok=True)
            (survivor / journal.name).write_bytes(journal.read_bytes()[: forced[-1]])
            record = read_trials(survivor, "toy")[told.number]
            assert (record.state, record.rungs, record.point) == (told.state, told.rungs, told.point)

        trial_started = rung_reached = trial_ended = compare

    manager = TrialManager(plan(folder, n_trials=9), observers=[PowerFails()])
    search(manager)
    states = [record.state for record in manager.records]
    assert TrialState.PRUNED in states and TrialState.COMPLETE in states
    n_told = sum(2 + len(record.rungs) for record in manager.records)
    assert len(forced) < n_told + 5  # once for each, and for the studies
    again = TrialManager(plan(survivor, n_trials=9))
    assert [record.state for record in again.records] == states


def test_a_lost_checkpoint_means_starting_again(tmp_path):
    manager = TrialManager(plan(tmp_path))
    left = train(manager, manager.ask(), rungs=1)
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    (left.checkpoint / "toy.json").unlink()
    left.checkpoint.rmdir()
    again = TrialManager(plan(tmp_path))
    assert (again.ask().rungs, again.records[-1].checkpoint) == ((), None)


def test_a_study_folder_can_be_moved(tmp_path):
    (tmp_path / "before").mkdir()
    search(TrialManager(plan(tmp_path / "before", n_trials=1)))
    (tmp_path / "before").rename(tmp_path / "after")
    (record,) = read_trials(tmp_path / "after", "toy")
    assert record.checkpoint == tmp_path / "after" / "trials" / "trial-0000" / "rung-3"
    assert record.checkpoint.is_dir()


def test_orphaned_checkpoints_are_deleted(tmp_path):
    manager = TrialManager(plan(tmp_path))
    search(manager, 1)
    (tmp_path / "trials" / "trial-0009" / "rung-1").mkdir(parents=True)
    TrialManager(plan(tmp_path))
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["trial-0000"]


def test_a_study_that_changed_is_not_continued(tmp_path):
    TrialManager(plan(tmp_path, identity={"rungs": [1, 2], "corpus": "a"}))
    TrialManager(plan(tmp_path, identity={"rungs": (1, 2), "corpus": "a"}))
    with pytest.raises(ValueError, match="corpus changed"):
        TrialManager(plan(tmp_path, identity={"rungs": [1, 2], "corpus": "b"}))


def test_one_search_at_a_time_writes_a_study(tmp_path):
    with exclusive(tmp_path / "study"):
        holder = f"one search at a time .* process {os.getpid()} on "
        with pytest.raises(ValueError, match=holder), exclusive(tmp_path / "study"):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "study"):
        pass


class FakeClock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_no_trial_begins_after_the_deadline(tmp_path):
    clock = FakeClock()
    manager = TrialManager(plan(tmp_path), deadline=10.0, clock=clock)
    assert manager.ask() is not None
    clock.now = 10.0
    assert manager.exhausted
    assert manager.ask() is None


def test_a_trial_that_cannot_reach_its_next_rung_in_time_ends_and_is_continued(tmp_path):
    clock = FakeClock()
    manager = TrialManager(plan(tmp_path), deadline=10.0, clock=clock)
    record = manager.ask()
    folder = tmp_path / "trials" / record.name / "rung-1"
    folder.mkdir(parents=True)
    clock.now = 6.0  # 6 s for 100 tokens: 100 more would end at 12
    assert not manager.reached(record.number, rung(100, 0.9, seconds=6.0), folder)
    ended = manager.records[0]
    assert ended.state is TrialState.INTERRUPTED
    assert ended.outcome == Outcome(OutcomeKind.TIME_BUDGET, "ended after 100 tokens")
    assert folder.is_dir()

    again = TrialManager(plan(tmp_path), clock=clock)
    assert again.ask().continues == 0


def test_no_trial_begins_that_cannot_end_in_time_and_an_initial_one_waits_for_the_next_run(tmp_path):
    clock = FakeClock()
    initial = [{"n_layers": 0}, {"n_layers": 3}]
    manager = TrialManager(plan(tmp_path, initial_points=initial), deadline=20.0, clock=clock)
    record = manager.ask()
    for n_done, n_tokens in enumerate((100, 200, 400)):
        folder = tmp_path / "trials" / record.name / f"rung-{n_done}"
        folder.mkdir(parents=True)
        manager.reached(record.number, rung(n_tokens, 0.9, seconds=4.0), folder)
    clock.now = 12.0
    assert manager.ask() is None
    begun = [record for record in manager.records if record.state is not TrialState.REFUSED]
    assert [record.number for record in begun] == [0]
    postponed = [trial for trial in stored(tmp_path).trials if trial.state is optuna.trial.TrialState.FAIL]
    assert len(postponed) == MOST_POSTPONED

    again = TrialManager(plan(tmp_path, initial_points=initial), clock=clock)
    assert again.ask().point["n_layers"] == 3


def test_the_sampler_learns_where_the_front_is(tmp_path):
    """With the learning rate alone free, proposals come twice as near to the best one as random ones (0.5)."""
    space = Space(domains={"learning_rate": SPACE.domains["learning_rate"]}, fixed={"n_layers": 1, "units": 16})
    manager = TrialManager(plan(tmp_path, space=space, n_startup_trials=8, n_trials=40, rungs=(400,)))
    distances = [abs(math.log10(record.point["learning_rate"] / 1e-3)) for record in search(manager)]
    assert sum(distances[20:]) / 20 < 0.25


def test_trials_that_run_side_by_side_are_told_apart(tmp_path):
    manager = TrialManager(plan(tmp_path, n_trials=6))
    running = [manager.ask() for _ in range(3)]
    for record, n_done in itertools.product(running, range(3)):
        if manager.records[record.number].state is TrialState.RUNNING:
            work = ToyWork()
            work.start(record.spec, record.recipe, seed=0)
            folder = tmp_path / "trials" / record.name / f"rung-{n_done + 1}"
            folder.mkdir(parents=True)
            manager.reached(record.number, work.advance(manager.plan.rungs[n_done]), folder)
    assert all(manager.records[record.number].state is TrialState.COMPLETE for record in running)


def test_a_space_that_holds_nothing_new_ends_the_search_and_says_so(tmp_path):
    two = Space(domains={"n_layers": Integer(0, 1), "n_heads": Choice((4,)), "units": Choice((64,))})
    manager = TrialManager(plan(tmp_path, n_trials=24, space=two))
    assert len(search(manager)) == 2
    assert "100 duplicate" in manager.end_reason and "widen it" in manager.end_reason


def test_a_search_that_used_up_its_trials_has_no_other_reason(tmp_path):
    manager = TrialManager(plan(tmp_path, n_trials=3))
    search(manager)
    assert manager.end_reason == ""


def test_a_continued_trial_keeps_its_own_seed(tmp_path):
    first = TrialManager(plan(tmp_path, n_trials=4, seed=1))
    train(first, first.ask(), rungs=1)
    first.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))
    again = TrialManager(plan(tmp_path, n_trials=4, seed=2))
    continued, new = again.ask(), again.ask()
    assert (continued.continues, continued.seed, new.seed) == (0, 1, 2)


def test_one_study_holds_every_trial(finished):
    folder, records, _ = finished
    names = optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(folder / "trials.journal"))))
    assert names == ["toy"]
    study = stored(folder)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    best = {trial.number for trial in study.best_trials}  # the front that optuna-dashboard draws
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    front = non_dominated([(record.predicted_latency_ms, COSINE.of(record.fidelity)) for record in complete])
    assert {complete[i].number for i in front} <= best


def test_a_journal_with_a_second_study_of_an_earlier_version_goes_on(tmp_path):
    manager = TrialManager(plan(tmp_path, n_trials=3))
    search(manager)
    backend = JournalFileBackend(str(tmp_path / "trials.journal"))
    twins = optuna.create_study(study_name="toy/rungs", storage=JournalStorage(backend), direction="maximize")
    trial = twins.ask({"n_layers": optuna.distributions.IntDistribution(0, 3)})
    trial.report(0.5, 100)  # left running by a killed driver
    again = TrialManager(plan(tmp_path, n_trials=5))
    assert [record.number for record in again.records] == [record.number for record in manager.records]
    assert len(search(again)) == 2
