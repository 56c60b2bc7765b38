# SPDX-License-Identifier: Apache-2.0
"""What the driver and the workers of a graduation exchange: tasks to the workers, state files to the driver.

FOLDER/graduation.json   progress, learning curve and outcome; its modification time is the heartbeat
FOLDER/state/            the last checkpoint of an unfinished graduation (`Distillation.restore`)
FOLDER/stable/           the checkpoint before the decay: a longer graduation continues from here
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
"""Format number of the file; a file without one was written before format numbers, and is read as format 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationTask:
    """One student's graduation."""

    name: str
    """Name of its trial."""
    spec: StudentSpec
    """The student."""
    recipe: RecipeSpec
    """How it is distilled."""
    seed: int
    """Seed of its trial: batches continue where the trial ended."""
    checkpoint: Path
    """The last checkpoint of its trial."""
    folder: Path
    """Folder of its state and result."""
    weight: float
    """Its share of the time, relative to the other students of its group."""
    tokens_per_s: float
    """Training speed of its trial, until its own is measured."""
    max_tokens: int | None
    """Most training tokens, including those of its trial; None: limited by time."""
    document: Mapping[str, Any]
    """Entries of its student.json beside the spec."""
    memory_gib: float | None
    """Memory that it may allocate beyond what its worker holds already; None: no limit."""
    heartbeat_limit_s: float
    """Seconds without a heartbeat after which it counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationJob:
    """A training job, as every worker gets it."""

    groups: tuple[tuple[GraduationTask, ...], ...]
    """The students of every group, in order."""
    workers_per_student: int
    """Workers of a group."""
    seconds: float | None
    """Seconds from the job's submission until the last student ends; None: limited by tokens."""
    folder: Path
    """Folder of files that driver and workers of this job exchange; deleted at its end."""
    tokenizer_json: str
    """The tokenizer of every student."""
    device: Device
    """What the students are trained on."""

    @property
    def stop_file(self) -> Path:
        """File that tells workers to save and end, once it exists."""
        return self.folder / "stop"

    def write_seconds_left(self, seconds: float) -> None:
        """Writes the seconds until the last student must end.

        The driver calls it repeatedly while workers start, because the clocks of nodes differ.
        """
        write_json(self.folder / "seconds-left.json", {"seconds": seconds}, durable=False)

    def seconds_left(self) -> float | None:
        """Seconds until the last student must end, as the driver wrote it last; None: limited by tokens."""
        if self.seconds is None:
            return None
        document = read_json(self.folder / "seconds-left.json")
        return self.seconds if document is None else max(0.0, document["seconds"])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """The process of a worker, `worker-RANK.json`, so that the driver can kill it if it hangs."""

    node_id: str
    """Ray's id of its node."""
    pid: int
    """Its process id on that node."""

    @classmethod
    def read(cls, folder: Path, rank: int) -> WorkerProcess | None:
        """The process of the worker of this rank, from the job's folder; None before it has started."""
        document = read_json(folder / f"worker-{rank}.json")
        return None if document is None else cls(**document)

    def write(self, folder: Path, rank: int) -> None:
        """Writes the file into the job's folder; called by the worker itself."""
        write_json(folder / f"worker-{rank}.json", {"node_id": self.node_id, "pid": self.pid}, durable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationState:
    """Progress of a student's graduation: `graduation.json`."""

    status: str = UNFINISHED
    """`unfinished`, `done` or `failed`."""
    outcome: Outcome | None = None
    """Why it failed or is unfinished; None if neither is known."""
    start_tokens: int = 0
    """Training tokens at the end of its trial."""
    decay: tuple[int, int] | None = None
    """Training tokens at which the decay begins and ends; None before it begins."""
    seconds: float = 0.0
    """Time spent on it, including evaluation."""
    curve: tuple[RungRecord, ...] = field(default=())
    """Evaluations, by rising training tokens."""
    n_deaths: int = 0
    """Deaths of its worker since its last checkpoint."""
    limits: tuple[float | None, float] | None = None
    """The `memory_gib` and `heartbeat_limit_s` of the task that failed; None if it did not, or if its workers died."""

    @property
    def n_tokens(self) -> int:
        """Training tokens at the last evaluation, including those of its trial."""
        return self.curve[-1].n_tokens if self.curve else self.start_tokens

    def begun(self) -> GraduationState:
        """The state when training continues: a finished graduation goes back to before its decay."""
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
        """The state after a failure that the student caused."""
        return replace(self, status=FAILED, outcome=outcome, limits=(task.memory_gib, task.heartbeat_limit_s))

    def may_try_again(self, task: GraduationTask) -> bool:
        """Whether it failed at a limit that is higher in this task."""
        if self.limits is None or self.outcome is None:
            return False
        memory_gib, heartbeat_limit_s = self.limits
        if self.outcome.kind is OutcomeKind.OUT_OF_MEMORY:
            return memory_gib is not None and (task.memory_gib is None or task.memory_gib > memory_gib)
        return self.outcome.kind is OutcomeKind.HUNG and task.heartbeat_limit_s > heartbeat_limit_s

    def died(self, outcome: Outcome) -> GraduationState:
        """The state after its worker died: failed after `MOST_TRIES` deaths without a checkpoint between them."""
        n_deaths = self.n_deaths + 1
        if n_deaths < MOST_TRIES.get(outcome.kind, MOST_TRIES[OutcomeKind.WORKER_DIED]):
            return replace(self, n_deaths=n_deaths)
        return replace(self, status=FAILED, outcome=outcome.repeated(f"{n_deaths} times since its last save"))

    @classmethod
    def read(cls, folder: Path) -> GraduationState | None:
        """The state in a student's folder; None if its graduation never began.

        Raises ValueError if another version wrote it in a format that cannot be read (`spaces.stored`).
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
        """Replaces the state in a student's folder."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__}
        outcome = None if self.outcome is None else self.outcome.to_json()
        document |= {KEY: FORMAT, "outcome": outcome, "curve": [rung.to_json() for rung in self.curve]}
        write_json(folder / _FILE, document, durable=True)


def touch_heartbeat(folder: Path) -> None:
    """Records a heartbeat in a student's folder, whose state must have been written."""
    (folder / _FILE).touch()


def last_heartbeat(folder: Path) -> int | None:
    """Time of the last heartbeat in ns by the file system's clock, to be compared for change; None before the first."""
    try:
        return (folder / _FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
