# SPDX-License-Identifier: Apache-2.0
"""Learning curves of random students, measured once, so that searches can be replayed on them.

Two tables, each a file of JSON lines in benchmarks/curves, a student a line after one line about the run:

    quickstart    random points of the quickstart's space, distilled to its last rung
    families      students of every family, distilled to the last rung and then ten times longer, with a decaying rate

    python -m benchmarks.student_curves quickstart --store STORE [--students 300] [--share 0/2]
    python -m benchmarks.student_curves families --store STORE [--students 40]

A student that the file has already is left out, so the command can be interrupted and given again; with `--share I/N`
processes on N cores measure different students into files of their own. Each takes one core. Points whose student is no
faster than the teacher are left out, as in a search.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import optuna
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from search.console.progress import ConsoleReporter
from search.storage.store import Store
from search.study.budget import TimePlan
from search.study.prepare import Prepared, prepare
from search.tracking.client import create_store
from search.tracking.trial_runs import provenance
from search.trials.points import suggest_point
from search.workers.failure import failure_of
from spaces.domain import Choice
from spaces.space import Space
from spaces.study import load_study
from spaces.study.spec import StudySpec
from trainers.distil.loop import Distillation
from trainers.inherit.inherit import inherit
from trainers.modules.freed_memory import return_freed_memory

CURVES = Path(__file__).parent / "curves"
LONGER = 10  # times the last rung
DENSE = {"feed_forward": ("dense",), "sparsity": (0,), "static_path": (False,), "width": (384,)}
FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "shallow": {**DENSE, "n_layers": (1, 2, 3)},
    "narrow": {**DENSE, "n_layers": (3, 4, 5, 6), "width": (192, 288)},
    "static path": {**DENSE, "n_layers": (1, 2, 3, 4), "static_path": (True,)},
    "sparse": {**DENSE, "n_layers": (3, 4, 5, 6), "sparsity": (0.5, 0.7, 0.8, 0.9)},
    "switch": {**DENSE, "n_layers": (1, 2, 3, 4), "feed_forward": ("switch",)},
}
Point = dict[str, Any]


def points_of(study: StudySpec, *, families: bool) -> Iterator[tuple[str, Point]]:
    """Random points without end, each with its family: one family after the other, or the whole space, without name."""
    spaces = {"": study.space}
    if families:
        spaces = {family: narrowed(study.space, options) for family, options in FAMILIES.items()}
    for seed, family in enumerate(cycle(spaces)):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        yield family, suggest_point(trial, spaces[family])


def narrowed(space: Space, options: Mapping[str, tuple[Any, ...]]) -> Space:
    """The space with fewer options in some dimensions."""
    return replace(space, domains={**space.domains, **{name: Choice(values) for name, values in options.items()}})


def measure(prepared: Prepared, study: StudySpec, point: Point, *, longer: bool) -> dict[str, Any]:
    """The measured curve of one point, or why there is none."""
    seed = study.search.seed
    try:
        spec, recipe = study.space.decode(point, prepared.teacher.spec)
    except ValueError as error:
        return {"refused": str(error)}
    latency_ms = prepared.predictor.predict(spec)
    if latency_ms >= prepared.predictor.predict(prepared.teacher.spec):
        return {"refused": "no faster than the teacher"}
    line: dict[str, Any] = {"latency_ms": round(latency_ms, 5)}
    started = time.perf_counter()
    try:
        student = inherit(prepared.inheritance, spec, seed=seed, device=torch.device(prepared.device))
        return_freed_memory()
        line["inherit_seconds"] = round(time.perf_counter() - started, 2)
        sparsity = 0.0 if spec.encoder is None else spec.encoder.sparsity
        distillation = Distillation(student, recipe, prepared.data, seed=seed, sparsity=sparsity)
        line["rungs"] = [_rung(distillation, rung) for rung in study.search.rungs]
        if longer:
            last = study.search.rungs[-1]
            end = LONGER * last
            begin = int(end - recipe.decay_share * (end - last))
            line["long"] = [_rung(distillation, 3 * last), _rung(distillation, begin)]
            distillation.begin_decay(distillation.n_tokens, end)
            line["long"].append(_rung(distillation, end))
    except Exception as error:  # as in a trial: what went wrong is an outcome
        line["failed"] = str(failure_of(error))
    return_freed_memory()
    return line


def _rung(distillation: Distillation, n_tokens: int) -> list[float]:
    """Tokens, mean cosine, seconds of training."""
    progress = distillation.advance(n_tokens)
    return [progress.n_tokens, round(distillation.evaluate().cosine, 6), round(progress.seconds, 2)]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["quickstart", "families"])
    parser.add_argument("--store", type=Path, required=True, help="of the study that is prepared for it")
    parser.add_argument("--students", type=int, default=None, help="default: 300 and 40")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th student, from the I-th")
    parser.add_argument("--prepare-only", action="store_true", help="measure latencies (on an idle machine) and end")
    arguments = parser.parse_args()
    share, n_shares = (int(part) for part in arguments.share.split("/"))
    families = arguments.table == "families"
    study = load_study(str(CURVES / "families.yaml") if families else "quickstart")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = create_store(Store(arguments.store))
    assert study.search.time_budget_s is not None
    plan = TimePlan(budget_s=study.search.time_budget_s, graduation_share=0.5, max_students=8)
    prepared = prepare(study, store=store, plan=plan, reporter=ConsoleReporter())
    if arguments.prepare_only:
        return
    torch.set_num_threads(1)
    name = arguments.table if n_shares == 1 else f"{arguments.table}-{share}-of-{n_shares}"
    file = CURVES / f"{name}.jsonl"
    if not file.exists():
        append(file, about(study, prepared))
    known = {json.loads(line).get("number") for line in file.read_text().splitlines()}
    n_students = arguments.students or (40 if families else 300)
    for number, (family, point) in enumerate(islice(points_of(study, families=families), n_students)):
        if number % n_shares == share and number not in known:
            line = measure(prepared, study, point, longer=families)
            append(file, {"number": number, "family": family, "point": point, **line})


def about(study: StudySpec, prepared: Prepared) -> dict[str, Any]:
    """The first line of a table: what its other lines share."""
    return {
        "study": study.to_json(),
        "identity": prepared.identity,
        "training_sentences": prepared.n_sentences,
        "teacher_latency_ms": prepared.predictor.predict(prepared.teacher.spec),
        **provenance(prepared.device),
    }


def append(file: Path, line: Mapping[str, Any]) -> None:
    """One more line, also for people to see."""
    text = json.dumps(line)
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as opened:
        opened.write(text + "\n")
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
