# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.optimiser.pareto import non_dominated
from search.records.trial import TrialState
from search.storage.disk_space import is_disk_full
from search.trials.journal import read_trials
from search.trials.ray_tune import run_trials
from search.workers.cluster import cluster
from spaces.domain import Integer
from spaces.space import Space
from tests.search.toy_search import ToyWork, Witness, plan


@pytest.fixture(scope="module")
def ray_session():
    """One Ray for all tests of this file: two CPUs."""
    with cluster(n_cpus=2):
        yield


@pytest.mark.slow
def test_two_workers_search_prune_fail_and_tell_everything(ray_session, tmp_path, capfd):
    rates = [(0, 1e-3), (3, 1e-3), (3, 1.1e-3), (3, 9e-4), (2, 1e-3), (3, 1e-4)]  # the last one is clearly behind
    initial = [{"n_layers": depth, "learning_rate": rate} for depth, rate in rates]
    witness = Witness()
    records = run_trials(
        plan(tmp_path, n_trials=8, initial_points=initial),
        ToyWork(accident="MemoryError"),
        n_workers=2,
        observers=[witness],
    )
    states = [record.state for record in records]
    assert states[:2] == [TrialState.COMPLETE] * 2
    assert set(states[2:4]) <= {TrialState.COMPLETE, TrialState.PRUNED}  # no faster than one that is as good
    assert str(records[4].outcome) == "out of memory: no room for the student"
    assert len(records[4].rungs) == 1
    assert "MemoryError" in (tmp_path / "errors" / "trial-0004.txt").read_text()
    assert records[5].outcome_kind == "dominated"
    assert sum(state is not TrialState.REFUSED for state in states) == 8
    assert read_trials(tmp_path, "toy") == records
    ended = [record for event, record in witness.events if event == "ended"]
    assert sorted(ended, key=lambda record: record.number) == list(records)
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    assert all((record.checkpoint / "toy.json").is_file() for record in complete)
    assert len(non_dominated([(record.predicted_latency_ms, record.fidelity.cosine) for record in complete])) >= 2
    assert capfd.readouterr() == ("", "")


def test_a_finished_search_starts_no_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("search.trials.ray_tune.cluster", None)
    assert run_trials(plan(tmp_path), ToyWork(), deadline=time.monotonic() - 1.0) == ()


@pytest.mark.slow
def test_one_worker_searches_alike_twice(ray_session, tmp_path):
    first, second = (
        run_trials(plan(tmp_path / name, n_trials=7), ToyWork(), n_workers=1) for name in ("first", "second")
    )
    assert [record.point for record in first] == [record.point for record in second]
    assert [record.state for record in first] == [record.state for record in second]


DEPTHS = Space(domains={"n_layers": Integer(1, 3)})
INITIAL = [{"n_layers": 2}, {"n_layers": 1}, {"n_layers": 3}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accident", "limits", "outcome"),
    [
        ("ZeroDivisionError", {}, "ZeroDivisionError: division by zero"),
        ("memory", {"trial_memory_gib": 0.5}, "out of memory: it takes more than 0.5 GiB (search.trial_memory_gib)"),
        ("hang", {"rung_time_limit_s": 4.0}, "hung: no report within 4 s (search.rung_time_limit)"),
    ],
)
def test_an_accident_fails_its_trial_and_not_the_search(ray_session, tmp_path, accident, limits, outcome):
    plan_ = plan(tmp_path, space=DEPTHS, initial_points=INITIAL, n_trials=3, **limits)
    two, one, three = run_trials(plan_, ToyWork(accident=accident), n_workers=1)
    assert two.state is TrialState.FAILED
    assert str(two.outcome).startswith(outcome)
    assert len(two.rungs) == 1
    assert accident == "hang" or (tmp_path / "errors" / "trial-0000.txt").read_text()
    assert one.state is three.state is TrialState.COMPLETE


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_goes_on_in_the_same_search(ray_session, tmp_path):
    witness = Witness()
    plan_ = plan(tmp_path, space=DEPTHS, initial_points=INITIAL[:1], n_trials=1)
    killed, again = run_trials(plan_, ToyWork(accident="kill once"), n_workers=1, observers=[witness])
    assert killed.state is TrialState.INTERRUPTED
    assert killed.outcome_kind == "worker died"
    assert (tmp_path / "errors" / "trial-0000.txt").read_text()
    assert again.state is TrialState.COMPLETE
    assert again.continues == killed.number
    assert again.rungs[:1] == killed.rungs
    assert [(event, record.number) for event, record in witness.events if event != "rung"] == [
        ("started", 0), ("ended", 0), ("started", 1), ("ended", 1)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_student_that_kills_every_worker_is_failed_in_the_end(ray_session, tmp_path):
    plan_ = plan(tmp_path, space=DEPTHS, initial_points=INITIAL, n_trials=3)
    records = run_trials(plan_, ToyWork(accident="kill"), n_workers=1)
    tries = [record for record in records if record.point["n_layers"] == 2]
    assert [record.state for record in tries] == [TrialState.INTERRUPTED] * 2 + [TrialState.FAILED]
    assert [record.continues for record in tries] == [None, *[record.number for record in tries[:2]]]
    assert all(len(record.rungs) == 1 for record in tries)
    assert tries[-1].outcome_kind == "worker died" and tries[-1].outcome.details.endswith("; 3 times at this rung")
    others = [record for record in records if record.point["n_layers"] != 2]
    assert [record.state for record in others] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
def test_a_full_disk_ends_the_search_and_fails_no_trial(ray_session, tmp_path):
    plan_ = plan(tmp_path, space=DEPTHS, initial_points=INITIAL[:1], n_trials=1)
    with pytest.raises(OSError, match="No space left on device") as raised:
        run_trials(plan_, ToyWork(accident="ENOSPC"), n_workers=1)
    assert is_disk_full(raised.value)
    [left] = read_trials(tmp_path, "toy")
    assert left.state is TrialState.INTERRUPTED
    _, again = run_trials(plan_, ToyWork(), n_workers=1)
    assert again.state is TrialState.COMPLETE
    assert again.rungs[:1] == left.rungs


@pytest.mark.slow
def test_ctrl_c_ends_in_order_and_the_same_call_goes_on(ray_session, tmp_path):
    class Impatient(Witness):
        n_rungs = 0

        def rung_reached(self, record):
            self.n_rungs += 1
            if self.n_rungs == 5:
                os.kill(os.getpid(), signal.SIGINT)

    impatient = Impatient()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_trials(plan(tmp_path, n_trials=8), ToyWork(seconds_per_rung=0.4), n_workers=2, observers=[impatient])
    assert signal.getsignal(signal.SIGINT) is handler
    left = read_trials(tmp_path, "toy")
    interrupted = [record for record in left if record.state is TrialState.INTERRUPTED]
    assert {str(record.outcome) for record in interrupted} == {"interrupted: Ctrl-C"}
    assert sum(len(record.rungs) for record in left) == impatient.n_rungs

    records = run_trials(plan(tmp_path, n_trials=8), ToyWork(), n_workers=2)
    done = [record for record in records if record.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == 8
    continued = {record.continues: record for record in records if record.continues is not None}
    for record in interrupted:
        assert continued[record.number].rungs[: len(record.rungs)] == record.rungs


@pytest.mark.slow
def test_the_deadline_ends_the_search_soon_and_in_order(ray_session, tmp_path):
    start = time.monotonic()
    records = run_trials(plan(tmp_path), ToyWork(seconds_per_rung=0.3), n_workers=2, deadline=start + 20.0)
    assert time.monotonic() - start < 35
    assert any(record.state is TrialState.COMPLETE for record in records)
    assert {record.outcome_kind for record in records if record.state is TrialState.INTERRUPTED} <= {"time budget"}
    assert all(record.state is not TrialState.RUNNING for record in records)


@pytest.mark.slow
def test_a_rung_that_overruns_the_deadline_is_given_up_and_tried_again(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr("search.trials.ray_tune.GRACE_S", 0.5)
    start = time.monotonic()
    records = run_trials(plan(tmp_path), ToyWork(seconds_per_rung=100.0), n_workers=2, deadline=start + 3.0)
    assert time.monotonic() - start < 50
    assert {record.state for record in records} == {TrialState.INTERRUPTED}
    again = run_trials(plan(tmp_path, n_trials=1), ToyWork(), n_workers=1)
    assert any(record.continues == 0 and record.state is TrialState.COMPLETE for record in again)


@pytest.mark.slow
def test_an_observers_error_ends_the_search_as_it_is(ray_session, tmp_path):
    class Broken(Witness):
        def trial_ended(self, record):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_trials(plan(tmp_path), ToyWork(), n_workers=1, observers=[Broken()])
    assert all(record.state is not TrialState.RUNNING for record in read_trials(tmp_path, "toy"))


KILLED = """
import sys
from pathlib import Path
from search.trials.ray_tune import run_trials
from tests.search.toy_search import ToyWork, Witness, plan

class Loud(Witness):
    def rung_reached(self, record):
        print("rung", record.name, len(record.rungs), file=sys.stderr, flush=True)

run_trials(plan(Path(sys.argv[1]), n_trials=8), ToyWork(seconds_per_rung=0.4), n_workers=2, observers=[Loud()])
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_no_rung_and_no_trial(tmp_path):
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as driver:
        seen = []
        while len(seen) < 7:
            line = driver.stderr.readline()
            assert line, "the driver ended before it was killed"
            if line.startswith("rung"):
                seen.append(line.split()[1:])
        driver.kill()
        driver.stderr.close()

    left = {record.name: record for record in read_trials(tmp_path, "toy")}
    for name, n_rungs in seen:
        assert len(left[name].rungs) >= int(n_rungs)
    running = [record for record in left.values() if record.state is TrialState.RUNNING]
    assert running

    records = run_trials(plan(tmp_path, n_trials=8), ToyWork(), n_workers=2)
    assert sum(record.state in (TrialState.COMPLETE, TrialState.PRUNED) for record in records) == 8
    continued = {record.continues: record for record in records if record.continues is not None}
    for record in running:
        if len(record.rungs) == 3:  # killed between its last rung and its end
            assert records[record.number].state is TrialState.COMPLETE
            continue
        assert records[record.number].state is TrialState.INTERRUPTED
        assert continued[record.number].rungs[: len(record.rungs)] == record.rungs
        assert continued[record.number].point == record.point
