# SPDX-License-Identifier: Apache-2.0
"""A node that dies under its trial, in a cluster of two. `benchmarks.survival` does it at random."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.records.outcomes import OutcomeKind
from search.records.trial import TrialState
from search.trials.journal import read_trials

# The node dies when a trial on it has measured its first rung: the other trial goes on, and another node comes.
SEARCH = """
import json, os, signal, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from search.trials.ray_tune import run_trials
from tests.search.toy_search import ToyWork, Witness, plan

two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = two.add_node(num_cpus=1)
raylet = second.all_processes["raylet"][0].process.pid

def on_second(pid):
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return parent == raylet

class Killer(Witness):
    done = False

    def rung_reached(self, record):
        pid = json.loads((record.checkpoint / "toy.json").read_text())["pid"]
        if not self.done and on_second(pid):
            self.done = True
            print("struck", record.name, file=sys.stderr, flush=True)
            os.kill(raylet, signal.SIGKILL)
            two.remove_node(second, allow_graceful=False)
            two.add_node(num_cpus=1)

run_trials(
    plan(Path(sys.argv[1]), n_trials=4), ToyWork(seconds_per_rung=1.0), n_workers=2, address=two.address,
    observers=[Killer()],
)
two.shutdown()
"""


@pytest.mark.slow
def test_a_trial_whose_node_dies_goes_on_in_the_same_search_from_its_last_rung(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "RAY_AUTH_TOKEN": "a" * 64}
    command = [sys.executable, "-c", SEARCH, str(tmp_path / "toy")]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    records = read_trials(tmp_path / "toy", "toy")
    [name] = [line.split()[1] for line in ended.stderr.splitlines() if line.startswith("struck")]
    [struck] = [record for record in records if record.name == name]
    assert struck.state is TrialState.INTERRUPTED
    assert struck.outcome_kind in (OutcomeKind.NODE_DIED, OutcomeKind.WORKER_UNREACHABLE)  # whichever Ray sees first
    [again] = [record for record in records if record.continues == struck.number]
    assert again.rungs[: len(struck.rungs)] == struck.rungs and len(struck.rungs) == 1
    assert sum(record.state in (TrialState.COMPLETE, TrialState.PRUNED) for record in records) == 4
