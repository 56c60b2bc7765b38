# SPDX-License-Identifier: Apache-2.0
"""What a search costs beyond its trials: time over the ideal, MLflow's share, and memory of the driver.

Trials do nothing but wait, with the learning curves of a formula over the quickstart's real space. Everything else is
real: Ray Tune, the sampler, the pruner, the journal, MLflow. The ideal is the time waited, shared among the workers.

    python -m benchmarks.search_overhead [--trials 200] [--seconds 1.0] [--workers 2] [--server] [--json]

MLflow's share is what the driver's loop spends on telling it. The processor time of the thread that writes to it is
given beside it; whatever of that slows the loop is in the time over the ideal. With `--server` MLflow is a server on
loopback instead of the store's database. For the driver's memory: `--trials 1000 --seconds 0.1`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from search.records.objective import COSINE
from search.records.trial import RungRecord, TrialRecord, TrialState
from search.storage.store import Store
from search.tracking.async_writer import TrialWriter
from search.tracking.client import create_store
from search.tracking.trial_runs import TrialLog
from search.trials.plan import TrialPlan
from search.trials.ray_tune import run_trials
from search.workers.cluster import cluster
from spaces.cost import cost
from spaces.recipe import RecipeSpec
from spaces.space import Space
from spaces.student import Dense, EncoderSpec, StudentSpec
from spaces.study import load_study
from tests.search.tracking_server import tracking_server
from trainers.measure.fidelity import Fidelity

TEACHER = StudentSpec(
    vocabulary_size=30_522,
    output_dim=384,
    encoder=EncoderSpec(
        n_layers=6, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=1536), max_tokens=512
    ),
)
MEMORY_EVERY = 100  # trials


@dataclass
class WaitingWork:
    """A trial's work that waits; fidelity rises with tokens, depth and units."""

    seconds: float
    """Seconds of a whole trial."""
    last_rung: int
    """Tokens at which it ends."""
    n_tokens: int = 0
    final: float = 0.0

    def drop(self) -> None:
        """Nothing is held."""

    def start(self, spec: StudentSpec, recipe: RecipeSpec, *, seed: int) -> None:
        """Decides what the student will reach."""
        self.n_tokens = 0
        size = cost(spec).flops / cost(TEACHER).flops
        self.final = 0.12 - 0.1 * size**0.3 + 0.02 * abs(math.log10(recipe.peak_learning_rate(0.15) / 3e-4))

    def advance(self, n_tokens: int) -> RungRecord:
        """Waits for the share of the trial that the rung is."""
        seconds = self.seconds * (n_tokens - self.n_tokens) / self.last_rung
        time.sleep(seconds)
        self.n_tokens = n_tokens
        cosine = 1.0 - self.final * (1.0 + 0.3 * math.log(self.last_rung / n_tokens))
        fidelity = Fidelity(
            cosine=cosine,
            cosine_p5=cosine,
            cosine_centred=cosine,
            spearman=cosine,
            overlap_at_1=0.5,
            overlap_at_10=0.5,
            constant_baseline=0.3,
        )
        return RungRecord(n_tokens=n_tokens, fidelity=fidelity, loss=0.1, seconds=seconds, tokens_per_s=1.0)

    def save(self, folder: Path) -> None:
        """A checkpoint of a few bytes."""
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps([self.n_tokens, self.final]))

    def restore(self, folder: Path) -> None:
        """Reads it."""
        self.n_tokens, self.final = json.loads((folder / "state.json").read_text())


@dataclass
class Timed:
    """Wraps an observer: records its total time, and the driver's memory as trials end."""

    inner: TrialWriter
    seconds: float = 0.0
    n_ended: int = 0
    memory_mb: dict[int, float] = field(default_factory=dict)

    def trial_started(self, record: TrialRecord) -> None:
        """Passed on."""
        self._time(self.inner.trial_started, record)

    def rung_reached(self, record: TrialRecord) -> None:
        """Passed on."""
        self._time(self.inner.rung_reached, record)

    def trial_ended(self, record: TrialRecord) -> None:
        """Passed on, and counted."""
        self._time(self.inner.trial_ended, record)
        self.n_ended += record.state is not TrialState.REFUSED
        if self.n_ended % MEMORY_EVERY == 0:
            self.memory_mb.setdefault(self.n_ended, round(_memory_mb(), 1))

    def _time(self, tell: Callable[[TrialRecord], None], record: TrialRecord) -> None:
        started = time.perf_counter()
        tell(record)
        self.seconds += time.perf_counter() - started


def plan_in(folder: Path, space: Space, *, n_trials: int) -> TrialPlan:
    """A search of the quickstart's space whose latencies are a formula."""
    study = load_study("quickstart")
    return TrialPlan(
        name="overhead",
        folder=folder,
        space=space,
        teacher=TEACHER,
        rungs=study.search.rungs,
        predict=lambda spec: 0.02 + cost(spec).flops / 3e9,
        objective=COSINE,
        n_trials=n_trials,
        n_startup_trials=study.search.n_startup_trials,
        initial_points=study.initial_points,
    )


def measure(*, n_trials: int, seconds: float, n_workers: int, on_server: bool) -> dict[str, Any]:
    """One search."""
    study = load_study("quickstart")
    work = WaitingWork(seconds, study.search.rungs[-1])
    with TemporaryDirectory(prefix="understudy-overhead-") as folder, ExitStack() as stack:
        uri = stack.enter_context(tracking_server(Path(folder) / "server")).uri if on_server else None
        stack.enter_context(cluster(n_cpus=n_workers))
        store = create_store(Store(Path(folder) / "store", uri))
        log = TrialLog(store, "overhead", params={}, objective=COSINE, teacher_latency_ms=1.0)
        writer = stack.enter_context(TrialWriter(log, address=store.tracking_uri, say=print))
        timed = Timed(writer)
        plan = plan_in(Path(folder) / "study", study.space, n_trials=n_trials)
        started = time.perf_counter()
        records = run_trials(plan, work, n_workers=n_workers, observers=[timed])
        wall_s = time.perf_counter() - started
        writer.finish(records)
    waited_s = sum(record.seconds for record in records)
    ideal_s = waited_s / n_workers
    states = [str(record.state) for record in records]
    return {
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "workers": n_workers,
        "wall_s": round(wall_s, 2),
        "ideal_s": round(ideal_s, 2),
        "overhead": round(wall_s / ideal_s - 1.0, 4),
        "mlflow": "server" if on_server else "database",
        "mlflow_share": round(timed.seconds / waited_s, 4),
        "mlflow_thread_share": round(writer.processor_s / waited_s, 4),
        "memory_mb": timed.memory_mb,
    }


def _memory_mb() -> float:
    """Resident memory of this process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else math.nan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial that is not stopped")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--server", action="store_true", help="MLflow is a server on loopback")
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    found = measure(
        n_trials=arguments.trials,
        seconds=arguments.seconds,
        n_workers=arguments.workers,
        on_server=arguments.server,
    )
    print(
        f"{found['trials']} in {found['wall_s']} s, ideal {found['ideal_s']} s: {found['overhead']:.1%} over it; "
        f"MLflow {found['mlflow_share']:.2%} of the trials' time, its thread {found['mlflow_thread_share']:.1%} beside "
        f"it; driver's memory, MB by trial: {found['memory_mb']}",
        file=sys.stderr,
    )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
