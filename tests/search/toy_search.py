# SPDX-License-Identifier: Apache-2.0
"""A search whose answers are known: a tiny teacher, latencies and learning curves in closed form.

`ToyWork` implements `TrialWork` with arithmetic, so that what is tested is who is asked, stopped and told, and how
a search goes on; real students are searched in test_tune.py.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.atomic import read_json
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import Observer, RungRecord, TrialRecord, TrialState
from search.storage.store import Store
from search.storage.study_state import CALIBRATION, StudyState
from search.trials.manager import TrialManager
from search.trials.plan import TrialPlan
from spaces.domain import Choice, Integer, Real, Value
from spaces.profile import LatencyProfile
from spaces.recipe import RecipeSpec
from spaces.space import Space
from spaces.student import Dense, EncoderSpec, StudentSpec
from spaces.study.spec import space_to_json
from trainers.distil.loop import LostCheckpointError
from trainers.measure.calibration import Calibration, CalibrationPoint
from trainers.measure.fidelity import Fidelity
from trainers.measure.predictor import LatencyPredictor

TEACHER = StudentSpec(
    vocabulary_size=100,
    output_dim=32,
    encoder=EncoderSpec(n_layers=4, width=32, n_heads=4, head_width=8, feed_forward=Dense(units=64), max_tokens=16),
)
SPACE = Space(
    domains={
        "n_layers": Integer(0, 3),
        "n_heads": Choice((2, 4)),
        "units": Choice((16, 32, 64)),
        "static_path": Choice((True, False)),
        "learning_rate": Real(1e-4, 1e-2, log=True),
    }
)
RUNGS = (100, 200, 400)


def predict(spec: StudentSpec) -> float:
    """Milliseconds: 1, and for a layer 1 and a hundredth a unit."""
    encoder = spec.encoder
    if encoder is None:
        return 1.0
    assert isinstance(encoder.feed_forward, Dense)
    return 1.0 + encoder.n_layers * (1.0 + encoder.feed_forward.units / 100)


def final_fidelity(spec: StudentSpec, recipe: RecipeSpec) -> float:
    """What a student reaches after infinitely many tokens: more with depth, less off the best learning rate."""
    encoder = spec.encoder
    capacity = 0.0 if encoder is None else encoder.n_layers + encoder.feed_forward.units / 100
    return 0.8 + 0.04 * capacity - 0.02 * abs(math.log10(recipe.learning_rate / 1e-3))


def fidelity_of(cosine: float) -> Fidelity:
    """A fidelity whose other measures do not matter."""
    return Fidelity(
        cosine=cosine,
        cosine_p5=cosine - 0.1,
        cosine_centred=cosine - 0.1,
        spearman=cosine,
        overlap_at_1=0.5,
        overlap_at_10=0.5,
        constant_baseline=0.3,
    )


def rung(
    n_tokens: int, cosine: float, *, seconds: float = 1.0, fidelity: Callable[[float], Fidelity] = fidelity_of
) -> RungRecord:
    """A rung with a given fidelity."""
    return RungRecord(
        n_tokens=n_tokens, fidelity=fidelity(cosine), loss=1 - cosine, seconds=seconds, tokens_per_s=100.0
    )


def trial_record(number, latency_ms, *cosines, state=TrialState.COMPLETE, continues=None):
    """A trial with a rung every 100 tokens, each of which took 10 seconds."""
    return TrialRecord(
        number=number,
        point={},
        spec=TEACHER,
        recipe=None,
        seed=0,
        predicted_latency_ms=latency_ms,
        state=state,
        rungs=tuple(rung(100 * (i + 1), cosine, seconds=10.0) for i, cosine in enumerate(cosines)),
        continues=continues,
    )


def plan(folder: Path, **changes: object) -> TrialPlan:
    """The toy search's plan in a folder."""
    values: dict[str, object] = {
        "name": "toy",
        "folder": folder,
        "space": SPACE,
        "teacher": TEACHER,
        "rungs": RUNGS,
        "predict": predict,
        "objective": COSINE,
        "n_startup_trials": 4,
    }
    return TrialPlan(**{**values, **changes})  # type: ignore[arg-type]


def calibration() -> Calibration:
    """What was measured of architectures whose latencies are `predict`'s."""
    specs = dict.fromkeys(SPACE.decode(point, TEACHER)[0] for point in _points())
    points = [CalibrationPoint(spec=spec, latency_ms=predict(spec)) for spec in (TEACHER, *specs)]
    return Calibration(profile=LatencyProfile(), machine="toy", points=tuple(points))


def _points() -> Iterator[dict[str, Value]]:
    for n_layers, units in itertools.product(range(4), (16, 32, 64)):
        for n_heads, static_path in itertools.product((2, 4), (True, False)):
            yield {"n_layers": n_layers, "units": units, "n_heads": n_heads, "static_path": static_path}


def record_search(
    store: Store,
    *,
    n_trials: int,
    name: str = "toy",
    stop_after: int | None = None,
    observers: Sequence[Observer] = (),
    fidelity: Callable[[float], Fidelity] = fidelity_of,
    **changes: object,
) -> None:
    """Searches the toy study in a store, one trial at a time, as a command does that ends in order.

    `stop_after` so many rungs in all it is interrupted.
    """
    fitted = LatencyPredictor.fit(calibration())
    StudyState.of(store, name).write(CALIBRATION, calibration())
    identity = {"space": space_to_json(SPACE), "rungs": list(RUNGS), "profile": LatencyProfile().to_json()}
    if "objective" in changes:
        identity["objective"] = {"fidelity": changes["objective"].name}
    values = {"name": name, "n_trials": n_trials, "predict": fitted.predict, "identity": identity, **changes}
    manager = TrialManager(plan(store.study_folder(name), **values), observers=observers)
    n_rungs = 0
    while n_rungs != stop_after and (record := manager.ask()) is not None:
        assert record.spec is not None and record.recipe is not None
        work = ToyWork(fidelity=fidelity)
        work.start(record.spec, record.recipe, seed=0)
        for n_tokens in RUNGS[len(record.rungs) :]:
            folder = manager.plan.folder / "trials" / record.name / f"rung-{n_tokens}"
            measured = work.advance(n_tokens)
            work.save(folder)
            n_rungs += 1
            if not manager.reached(record.number, measured, folder) or n_rungs == stop_after:
                break
    manager.close(Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C"))


@dataclass
class ToyWork:
    """Learns along 1 - (1 - f) * (1 + 100 / tokens), with an accident where a test wants one."""

    seconds_per_rung: float = 0.0
    accident: str = ""
    """Of a student of 2 layers at its second rung: an error, `ENOSPC`, `memory`, `hang`, `kill`, `kill once`."""
    fidelity: Callable[[float], Fidelity] = fidelity_of
    """From what is learnt to what is measured."""
    n_tokens: int = 0
    was_restored: bool = False
    spec: StudentSpec | None = None
    recipe: RecipeSpec | None = None

    def drop(self) -> None:
        self.spec = self.recipe = None

    def start(self, spec: StudentSpec, recipe: RecipeSpec, *, seed: int) -> None:
        self.spec, self.recipe, self.n_tokens, self.was_restored = spec, recipe, 0, False

    def advance(self, n_tokens: int) -> RungRecord:
        assert self.spec is not None and self.recipe is not None
        time.sleep(self.seconds_per_rung)
        if self.n_tokens and self.spec.n_layers == 2:
            self._have_accident()
        self.n_tokens = n_tokens
        learnt, seconds = cosine_at(self.spec, self.recipe, n_tokens), max(self.seconds_per_rung, 1e-3)
        return rung(n_tokens, learnt, seconds=seconds, fidelity=self.fidelity)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "toy.json").write_text(json.dumps({"n_tokens": self.n_tokens, "pid": os.getpid()}))

    def restore(self, folder: Path) -> None:
        saved = read_json(folder / "toy.json")
        if saved is None:
            raise LostCheckpointError(f"{folder} holds no readable toy.json")
        self.n_tokens, self.was_restored = saved["n_tokens"], True

    def _have_accident(self) -> None:
        match self.accident:
            case "MemoryError":
                raise MemoryError("no room for the student")
            case "ZeroDivisionError":
                raise ZeroDivisionError("division by zero")
            case "ENOSPC":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "memory":
                np.ones(3 << 27)  # 3 GiB
            case "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill once" if not self.was_restored:
                os.kill(os.getpid(), signal.SIGKILL)


def cosine_at(spec: StudentSpec, recipe: RecipeSpec, n_tokens: int) -> float:
    """The toy's learning curve."""
    return 1.0 - (1.0 - final_fidelity(spec, recipe)) * (1.0 + 100 / n_tokens)


def train(
    manager: TrialManager, record: TrialRecord, *, work: ToyWork | None = None, rungs: int | None = None
) -> TrialRecord:
    """Works on a begun trial, for at most so many rungs; returns its record."""
    work = work or ToyWork()
    work.start(record.spec, record.recipe, seed=record.seed)
    folder = manager.plan.folder / "trials" / record.name
    if record.checkpoint is not None:
        work.restore(record.checkpoint)
    for n_done in range(len(record.rungs), len(manager.plan.rungs)):
        if rungs is not None and n_done == rungs:
            break
        measured = work.advance(manager.plan.rungs[n_done])
        work.save(folder / f"rung-{n_done + 1}")
        if not manager.reached(record.number, measured, folder / f"rung-{n_done + 1}"):
            break
    return next(one for one in manager.records if one.number == record.number)


@dataclass
class Witness:
    """An observer that remembers what it was told."""

    events: list[tuple[str, TrialRecord]] = field(default_factory=list)

    def trial_started(self, record: TrialRecord) -> None:
        self.events.append(("started", record))

    def rung_reached(self, record: TrialRecord) -> None:
        self.events.append(("rung", record))

    def trial_ended(self, record: TrialRecord) -> None:
        self.events.append(("ended", record))
