# SPDX-License-Identifier: Apache-2.0
"""How soon a search finds the front of our own problem, replayed on students that were measured once.

For every method and seed: the training tokens until 95% (and 99%) of the hypervolume of the whole table was reached, as
medians over the seeds; a search that does not get there counts as the whole table's tokens.

    python -m benchmarks.own_problem [--table benchmarks/curves/quickstart*.jsonl] [--seeds 20] [--workers 1]
        [--methods random tpe understudy] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.harness.replay import Finish, replay
from benchmarks.harness.searchers import methods
from benchmarks.harness.student_table import StudentTable

SHARES = (0.9, 0.95, 0.99)
METHODS = ("random", "nsga2", "tpe", "mo-asha", "tpe+mo-asha", "understudy")


def tokens_to(table: StudentTable, finished: Sequence[Finish], share: float) -> float | None:
    """Training tokens after which a share of the table's hypervolume was there; None if never."""
    wanted = share * table.hypervolume(table.points)
    for i, finish in enumerate(finished):
        if table.hypervolume([each.point for each in finished[: i + 1]]) >= wanted:
            return finish.steps
    return None


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    curves = Path(__file__).parent / "curves"
    parser.add_argument("--table", type=Path, nargs="+", default=sorted(curves.glob("quickstart*.jsonl")))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    table = StudentTable.read(arguments.table)
    budget = table.rungs[-1] * len(table.rows)
    print(f"{len(table.rows)} students, {budget:,} tokens", file=sys.stderr)
    found: dict[str, Any] = {}
    for name in arguments.methods:
        started = time.monotonic()
        runs = []
        for seed in range(arguments.seeds):
            finished, _ = replay(methods()[name](table, seed), table, n_workers=arguments.workers, budget=budget)
            runs.append([tokens_to(table, finished, share) for share in SHARES])
        medians = [float(np.median([budget if run[i] is None else run[i] for run in runs])) for i in range(len(SHARES))]
        never = [sum(run[i] is None for run in runs) for i in range(len(SHARES))]
        found[name] = {"tokens": dict(zip(map(str, SHARES), medians, strict=True)), "never": never}
        shown = ", ".join(f"{share:.0%}: {tokens:,.0f}" for share, tokens in zip(SHARES, medians, strict=True))
        print(f"{name:>12s}  {shown}; never {never}; {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"students": len(table.rows), "seeds": arguments.seeds, "methods": found}))


if __name__ == "__main__":
    main()
