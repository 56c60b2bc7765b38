# SPDX-License-Identifier: Apache-2.0
"""How much of the front a searcher finds for how much training, on learning curves of a surrogate of LCBench.

Two objectives are minimised: the validation error after 52 epochs and the logarithm of a network's weights, which is
known before training. Trials report at epochs 1, 3, 9, 27 and 52; only those that reach the last count. A search may
use 60 x 52 epochs. Reported: the share of the hypervolume that was found at a quarter, half and all of the budget, mean
and standard error over tasks x seeds. The whole is, task by task, the hypervolume of 3,000 random points and of all
that any method of this run fully trained with any seed; so shares of runs with other methods differ a little.

With several workers, time is simulated and the budget is that of all workers together: with 32, no trial is finished
before 52 x 32 epochs. `--budget` (in full trainings) makes room for them.

    python -m benchmarks.search_efficiency --surrogate FOLDER [--methods tpe understudy] [--tasks 3945] [--seeds 5]
        [--workers 1] [--budget 60] [--keep FOLDER] [--json]

With `--keep` every search that was replayed is written to a folder and not repeated by the next run with that folder:
for methods that did not change in between.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.harness.replay import Finish, fractions, replay
from benchmarks.harness.searchers import methods
from benchmarks.harness.surrogate import RUNGS, Surrogate, Task

DEVELOPMENT = (
    "167152", "167185", "189873", "3945", "34539", "126026", "146212", "167104", "168330", "189906",
)  # fmt: skip
Runs = dict[str, dict[tuple[str, int], dict[str, float]]]  # method, (task, seed), share of the budget


def say(text: str) -> None:
    """Print for people."""
    print(text, file=sys.stderr, flush=True)


def measure(
    surrogate: Surrogate,
    *,
    names: Sequence[str],
    tasks: Sequence[str],
    n_seeds: int,
    n_workers: int,
    budget: int,
    keep: Path | None = None,
) -> Runs:
    """Shares of the hypervolume for every method, task and seed; `keep` is a folder of earlier replays."""
    runs: Runs = {name: {} for name in names}
    for task_name in tasks:
        task = Task(surrogate, task_name)
        found: dict[tuple[str, int], list[Finish]] = {}
        started = time.monotonic()
        for name in names:
            for seed in range(n_seeds):
                file = None if keep is None else keep / f"{name}-{task_name}-{seed}-{n_workers}-{budget}.json"
                found[name, seed] = _replay(name, task, seed, n_workers=n_workers, budget=budget, file=file)
        everything = [each.point for finished in found.values() for each in finished]
        best = task.hypervolume([*task.random_points, *everything])
        for (name, seed), finished in found.items():
            runs[name][task_name, seed] = fractions(task, finished, budget=budget, best=best)
        say(
            f"{task_name:>7s} {time.monotonic() - started:6.1f} s "
            + "; ".join(
                f"{name} "
                + " ".join(
                    f"{np.mean([runs[name][task_name, seed][share] for seed in range(n_seeds)]):.3f}"
                    for share in ("0.25", "0.5", "1.0")
                )
                for name in names
            )
        )
    return runs


def _replay(name: str, task: Task, seed: int, *, n_workers: int, budget: int, file: Path | None) -> list[Finish]:
    if file is not None and file.exists():
        return [Finish(epochs, (cost, error)) for epochs, cost, error in json.loads(file.read_text())["finished"]]
    finished, ended = replay(methods()[name](task, seed), task, n_workers=n_workers, budget=budget)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [[each.steps, *each.point] for each in finished]
        file.write_text(json.dumps({"finished": rows, "ended_at_rungs": ended}))
    return finished


def summarise(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """Mean and standard error over tasks x seeds, by method and share of the budget."""
    return {
        name: {
            share: _mean_and_error([shares[share] for shares in by_run.values()]) for share in ("0.25", "0.5", "1.0")
        }
        for name, by_run in runs.items()
    }


def differences(runs: Runs, ours: str) -> dict[str, dict[str, list[float]]]:
    """Ours less each other method on the same tasks and seeds: mean and standard error."""
    return {
        name: {
            share: _mean_and_error([runs[ours][key][share] - shares[share] for key, shares in by_run.items()])
            for share in ("0.25", "0.5", "1.0")
        }
        for name, by_run in runs.items()
        if name != ours
    }


def main() -> None:
    """Replay, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surrogate", type=Path, required=True, help="folder with model.onnx and its descriptions")
    parser.add_argument(
        "--methods", nargs="+", choices=list(methods()), default=None, help="default: all that there are"
    )
    parser.add_argument(
        "--tasks", nargs="+", default=list(DEVELOPMENT), help="numbers, or `others`: all but the default"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=int, default=60, help="in full trainings, of all workers together")
    parser.add_argument("--keep", type=Path, default=None, help="folder of replays that are not repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if not (arguments.surrogate / "model.onnx").exists():
        parser.error(f"no model.onnx in {arguments.surrogate}; give the surrogate's folder with --surrogate")
    surrogate = Surrogate(arguments.surrogate)
    tasks = arguments.tasks
    if tasks == ["others"]:
        tasks = [task for task in surrogate.tasks if task not in DEVELOPMENT]
    runs = measure(
        surrogate,
        names=arguments.methods or _available(),
        tasks=tasks,
        n_seeds=arguments.seeds,
        n_workers=arguments.workers,
        budget=arguments.budget * RUNGS[-1],
        keep=arguments.keep,
    )
    summary = summarise(runs)
    for name, shares in summary.items():
        say(f"{name:>12s}" + _row(shares))
    ours = "understudy"
    if ours in runs:
        for name, shares in differences(runs, ours).items():
            say(f"{ours} - {name:>12s}" + _row(shares))
    if arguments.json:
        document = {"methods": summary, "tasks": tasks, "seeds": arguments.seeds, "workers": arguments.workers}
        print(json.dumps(document))


def _available() -> list[str]:
    names = list(methods())
    if find_spec("syne_tune") is None:
        say("syne-tune is left out: not installed")
        names.remove("syne-tune")
    return names


def _mean_and_error(values: Sequence[float]) -> list[float]:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return [float(np.mean(values)), float(error)]


def _row(shares: Mapping[str, Sequence[float]]) -> str:
    return "".join(f"   {share}: {mean:+.4f} ± {error:.4f}" for share, (mean, error) in shares.items())


if __name__ == "__main__":
    main()
