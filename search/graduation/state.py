# SPDX-License-Identifier: Apache-2.0
"""What graduation's driver and its workers tell each other: tasks one way, files the other.

    FOLDER/graduation.json   how far it is, its curve, its outcome; touched as long as its workers work
    FOLDER/state/            what `Distillation.restore` reads: the last save of an unfinished graduation
    FOLDER/stable/           the save before the decay: a longer graduation goes on from here
    FOLDER/student/          the graduated student
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, write_json
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import RungRecord
from search.workers.retries import MOST_TRIES
from spaces.recipe import RecipeSpec
from spaces.stored import KEY, known_fields, require_format
from spaces.student import StudentSpec
from spaces.study.spec import Device

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
_FILE = "graduation.json"
FORMAT = 1
"""Of the file; one without a format number is from before there were any, and reads as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationTask:
    """One student's graduation."""

    name: str
    """Of its trial."""
    spec: StudentSpec
    """The student."""
    recipe: RecipeSpec
    """How it is distilled."""
    seed: int
    """Of its trial: batches go on where the trial ended."""
    checkpoint: Path
    """Where its trial ended."""
    folder: Path
    """Where its state and result go."""
    weight: float
    """Its share of the time, relative to the other students of its group."""
    tokens_per_s: float
    """Speed of its trial, until its own is known."""
    max_tokens: int | None
    """Most training tokens, its trial's included; None: bounded by time."""
    document: Mapping[str, Any]
    """What its student.json says beside the spec."""
    memory_gib: float | None
    """What it may take beyond what its worker holds already; None: no limit."""
    heartbeat_limit_s: float
    """Seconds without a heartbeat after which it counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationJob:
    """What all workers know."""

    groups: tuple[tuple[GraduationTask, ...], ...]
    """The students of every group, in order."""
    workers_per_student: int
    """Workers of a group."""
    seconds: float | None
    """From the job's submission until the last student ends; None: bounded by tokens."""
    folder: Path
    """Where driver and workers of this job meet; deleted with it."""
    tokenizer_json: str
    """Of every student."""
    device: Device
    """What the students are trained on."""

    @property
    def stop_file(self) -> Path:
        """Once this exists, workers save and end."""
        return self.folder / "stop"

    def write_seconds_left(self, seconds: float) -> None:
        """By the driver, again and again while workers start: clocks of nodes differ, durations do not."""
        write_json(self.folder / "seconds-left.json", {"seconds": seconds}, durable=False)

    def seconds_left(self) -> float | None:
        """Seconds until the last student must end, as the driver has just written it; None: bounded by tokens."""
        if self.seconds is None:
            return None
        document = read_json(self.folder / "seconds-left.json")
        return self.seconds if document is None else max(0.0, document["seconds"])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """Where a worker of a job runs, so that the driver can end it when it hangs: `worker-RANK.json`."""

    node_id: str
    """Ray's id of its node."""
    pid: int
    """Its process there."""

    @classmethod
    def read(cls, folder: Path, rank: int) -> WorkerProcess | None:
        """Of the worker of this rank in the job's folder; None before it has begun."""
        document = read_json(folder / f"worker-{rank}.json")
        return None if document is None else cls(**document)

    def write(self, folder: Path, rank: int) -> None:
        """By the worker itself."""
        write_json(folder / f"worker-{rank}.json", {"node_id": self.node_id, "pid": self.pid}, durable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationState:
    """How far a student's graduation is: `graduation.json`."""

    status: str = UNFINISHED
    """`unfinished`, `done` or `failed`."""
    outcome: Outcome | None = None
    """Why it failed, or why it is unfinished; None if there is nothing to say."""
    start_tokens: int = 0
    """Tokens of its trial."""
    decay: tuple[int, int] | None = None
    """Tokens between which the learning rate falls; None before."""
    seconds: float = 0.0
    """Spent on it, evaluation included."""
    curve: tuple[RungRecord, ...] = field(default=())
    """Evaluations, by rising tokens."""
    n_deaths: int = 0
    """How often its worker ended under it since it last saved."""
    limits: tuple[float | None, float] | None = None
    """The `memory_gib` and `heartbeat_limit_s` under which it failed by itself; None if it did not."""

    @property
    def n_tokens(self) -> int:
        """Tokens at the last evaluation, its trial's included."""
        return self.curve[-1].n_tokens if self.curve else self.start_tokens

    def begun(self) -> GraduationState:
        """As it is when training goes on: of a finished graduation the decay is undone, the curve up to it stays."""
        if self.status != DONE:
            return replace(self, status=UNFINISHED, outcome=None, limits=None)
        n_tokens = self.start_tokens if self.decay is None else self.decay[0]
        curve = tuple(rung for rung in self.curve if rung.n_tokens <= n_tokens)
        return replace(self, status=UNFINISHED, outcome=None, decay=None, curve=curve)

    def rewound(self, n_tokens: int) -> GraduationState:
        """The state as it was after `n_tokens` training tokens, for a checkpoint older than the last evaluation."""
        curve = tuple(rung for rung in self.curve if rung.n_tokens <= n_tokens)
        decay = None if self.decay is None or n_tokens < self.decay[0] else self.decay
        return replace(self, decay=decay, curve=curve)

    def failed(self, outcome: Outcome, task: GraduationTask) -> GraduationState:
        """After what it did itself."""
        return replace(self, status=FAILED, outcome=outcome, limits=(task.memory_gib, task.heartbeat_limit_s))

    def may_try_again(self, task: GraduationTask) -> bool:
        """Whether it failed at a limit that the task has raised."""
        if self.limits is None or self.outcome is None:
            return False
        memory_gib, heartbeat_limit_s = self.limits
        if self.outcome.kind is OutcomeKind.OUT_OF_MEMORY:
            return memory_gib is not None and (task.memory_gib is None or task.memory_gib > memory_gib)
        return self.outcome.kind is OutcomeKind.HUNG and task.heartbeat_limit_s > heartbeat_limit_s

    def died(self, outcome: Outcome) -> GraduationState:
        """After its worker ended under it; failed if that happens again and again without a save between."""
        n_deaths = self.n_deaths + 1
        if n_deaths < MOST_TRIES.get(outcome.kind, MOST_TRIES[OutcomeKind.WORKER_DIED]):
            return replace(self, n_deaths=n_deaths)
        return replace(self, status=FAILED, outcome=outcome.repeated(f"{n_deaths} times since its last save"))

    @classmethod
    def read(cls, folder: Path) -> GraduationState | None:
        """The state of a student's folder; None if its graduation never began.

        Raises ValueError for one that another version wrote and that cannot be read (`spaces.stored`).
        """
        document = read_json(folder / _FILE)
        if document is None:
            return None
        require_format(document, FORMAT, what=str(folder / _FILE))
        known = known_fields(cls, document, what=str(folder / _FILE))
        pairs = {name: tuple(known[name]) for name in ("decay", "limits") if known.get(name) is not None}
        curve = tuple(RungRecord.from_json(rung) for rung in known.get("curve", ()))
        outcome = Outcome.from_json(known.get("outcome"))
        return cls(**{**known, **pairs, "curve": curve, "outcome": outcome})

    def write(self, folder: Path) -> None:
        """Replace the state of a student's folder."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__}
        outcome = None if self.outcome is None else self.outcome.to_json()
        document |= {KEY: FORMAT, "outcome": outcome, "curve": [rung.to_json() for rung in self.curve]}
        write_json(folder / _FILE, document, durable=True)


def touch_heartbeat(folder: Path) -> None:
    """A heartbeat of a student whose state is written: its workers still work."""
    (folder / _FILE).touch()


def last_heartbeat(folder: Path) -> int | None:
    """What is another value after every heartbeat of a student's workers; None before the first."""
    try:
        return (folder / _FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
