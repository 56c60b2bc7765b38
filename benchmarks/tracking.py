# SPDX-License-Identifier: Apache-2.0
"""What MLflow costs a search: how long trials wait for it, and how long its thread writes, for each trial.

The same trials, with a rung for every third of their budget, are told to the observer of a search as fast as it takes
them: to the store's own database, and to an MLflow server on loopback with a database of its own. From both follows
how short a trial may be before its share exceeds 2%.

    python -m benchmarks.tracking [--trials 40] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.measuring.machine import describe_machine
from search.store import Store
from search.trial import TrialState
from search.trial_log import TrialLog
from search.trial_writer import TrialWriter
from tests.search.tiny_records import record
from tests.search.tracking_server import tracking_server

N_RUNGS = 3
MOST = 0.02  # of trial time that tracking may take


def measure(store: Store, *, n_trials: int) -> dict[str, float]:
    """Milliseconds for each trial."""
    log = TrialLog(store, "cost", facts={f"fact_{i}": "a value" for i in range(8)}, teacher_latency_ms=8.0)
    log.write(record(10**4, state=TrialState.REFUSED))  # the first looks the study up
    cosines = [0.7 + 0.05 * i for i in range(N_RUNGS)]
    with TrialWriter(log, address=store.tracking_uri, say=print) as writer:
        waited, began = 0.0, time.process_time()
        for number in range(n_trials):
            running = [record(number, rungs=cosines[:n]) for n in range(N_RUNGS + 1)]
            ended = record(number, rungs=cosines, state=TrialState.COMPLETE, outcome="complete")
            for told, tell in (
                (running[0], writer.trial_started),
                *((one, writer.rung_reached) for one in running[1:]),
                (ended, writer.trial_ended),
            ):
                start = time.perf_counter()
                tell(told)
                waited += time.perf_counter() - start
                writer.settle(60.0)  # a search tells so slowly that every event is written by itself
        processor = time.process_time() - began
        seconds = writer.seconds
    return {
        "waits_ms": 1e3 * waited / n_trials,
        "writes_ms": 1e3 * seconds / n_trials,
        "processor_ms": 1e3 * processor / n_trials,
        "shortest_trial_s": seconds / n_trials / MOST,
    }


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="understudy-tracking-") as name:
        folder = Path(name)
        found = {"database": measure(Store(folder / "own").create(), n_trials=arguments.trials)}
        with tracking_server(folder / "server") as server:
            found["server"] = measure(Store(folder / "served", server.uri).create(), n_trials=arguments.trials)
    for where, costs in found.items():
        print(
            f"{where}: a trial waits {costs['waits_ms']:.2f} ms, its thread writes {costs['writes_ms']:.0f} ms "
            f"({costs['processor_ms']:.0f} ms of processor): under {MOST:.0%} of trials of "
            f"{costs['shortest_trial_s']:.1f} s and more",
            file=sys.stderr,
        )
    document = {"trials": arguments.trials, "rungs": N_RUNGS, **found, "machine": describe_machine()}
    if arguments.json:
        print(json.dumps(document))


if __name__ == "__main__":
    main()
