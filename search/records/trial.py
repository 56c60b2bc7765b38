# SPDX-License-Identifier: Apache-2.0
"""The record of a trial, and the protocol of observers.

A `TrialRecord` is complete: it goes to JSON and back, so Optuna's storage (where each trial keeps its record
as a user attribute) is all that an interrupted search needs to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from search.records.objective import Objective
from search.records.outcomes import Outcome, OutcomeKind
from spaces.recipe import RecipeSpec
from spaces.stored import KEY, known_fields, require_format
from spaces.student import StudentSpec
from spaces.student_words import describe
from trainers.measure.fidelity import Fidelity

FORMAT = 1
"""Format number of a trial's record; one without it was written before format numbers, and is read as format 1."""


class TrialState(StrEnum):
    """Where a trial stands; `RUNNING` is the only state that changes."""

    RUNNING = "running"
    """Being distilled."""
    COMPLETE = "complete"
    """Distilled over the whole budget and finite: the only state that may reach the front."""
    PRUNED = "pruned"
    """Stopped at a rung: another trial is predicted to dominate it, and a new one promises more per token."""
    REFUSED = "refused"
    """Not distilled at all: cannot be built, a duplicate, or hopeless for its predicted latency."""
    FAILED = "failed"
    """Not a number, out of memory, or an exception; the outcome says which."""
    INTERRUPTED = "interrupted"
    """Ended in order by the time budget or Ctrl-C, or with its worker, node or driver; continued in a new trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RungRecord:
    """What was measured when a trial reached a rung."""

    n_tokens: int
    """Training tokens seen so far."""
    fidelity: Fidelity
    """Fidelity of the averaged weights on held-out text."""
    loss: float
    """Mean training loss since the rung before, or up to it if no batch lies between them."""
    seconds: float
    """Time since the rung before, or since the trial began: making the student and evaluating it included."""
    tokens_per_s: float
    """Training speed since the rung before, evaluation excluded; 0 if no batch lies between them."""
    untrained: Fidelity | None = None
    """Fidelity before training, of the first rung; None: of a later rung, or written before it was measured."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal record."""
        document = asdict(self)
        return document if self.untrained is not None else {k: v for k, v in document.items() if k != "untrained"}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RungRecord:
        """The record that `to_json` wrote, perhaps another version's (`spaces.stored`). Raises ValueError if it cannot
        be read."""
        known = known_fields(cls, document, what="the record of a rung")
        for name in ("fidelity", "untrained"):
            if known.get(name) is not None:
                known[name] = Fidelity.from_json(known[name])
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial: its point, the student and recipe that it decodes to, its state and measurements."""

    number: int
    """Optuna's number of the trial, from 0."""
    point: dict[str, Any]
    """Value of every active dimension of the space."""
    spec: StudentSpec | None
    """The student that the point describes; None if the point cannot be built (state `REFUSED`)."""
    recipe: RecipeSpec | None
    """How it is distilled; None if the point cannot be built."""
    seed: int
    """Seed of the initial weights and of the order of batches."""
    predicted_latency_ms: float | None
    """Latency under the study's profile; None if the point cannot be built."""
    state: TrialState = TrialState.RUNNING
    """Where the trial stands."""
    outcome: Outcome | None = None
    """Why it ended; None while it runs."""
    rungs: tuple[RungRecord, ...] = ()
    """Measurements, by rising tokens; a continued trial keeps those of the trial that it continues."""
    checkpoint: Path | None = None
    """Folder that `Distillation.restore` reads; None once deleted, or before the first rung."""
    continues: int | None = None
    """Number of the interrupted trial whose work this one goes on with; None for a fresh one."""

    @property
    def name(self) -> str:
        """The trial's name in tables, folders and MLflow."""
        return f"trial-{self.number:04d}"

    @property
    def fidelity(self) -> Fidelity | None:
        """At the last rung reached; None before the first."""
        return self.rungs[-1].fidelity if self.rungs else None

    @property
    def untrained(self) -> Fidelity | None:
        """Before training; None until the first rung, or if it was not measured."""
        return self.rungs[0].untrained if self.rungs else None

    @property
    def curve(self) -> tuple[tuple[int, Fidelity], ...]:
        """(training tokens, fidelity): before training, if it was measured, and at every rung."""
        start = () if self.untrained is None else ((0, self.untrained),)
        return (*start, *((rung.n_tokens, rung.fidelity) for rung in self.rungs))

    @property
    def n_tokens(self) -> int:
        """Training tokens seen."""
        return self.rungs[-1].n_tokens if self.rungs else 0

    @property
    def tokens_per_s(self) -> float:
        """Training speed over all rungs; above 0 once a rung is reached.

        Rungs that no batch lies between have none of their own: the second is reached without training.
        """
        seconds = before = 0.0
        for rung in self.rungs:
            if rung.tokens_per_s > 0.0:
                seconds += (rung.n_tokens - before) / rung.tokens_per_s
                before = rung.n_tokens
        return before / seconds if seconds > 0.0 else self.n_tokens / max(self.seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Time spent distilling and evaluating."""
        return sum(rung.seconds for rung in self.rungs)

    @property
    def outcome_kind(self) -> OutcomeKind | None:
        """What kind of outcome it has; None while it runs."""
        return None if self.outcome is None else self.outcome.kind

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal record."""
        return {
            KEY: FORMAT,
            "number": self.number,
            "point": self.point,
            "spec": None if self.spec is None else self.spec.to_json(),
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "seed": self.seed,
            "predicted_latency_ms": self.predicted_latency_ms,
            "state": self.state.value,
            "outcome": None if self.outcome is None else self.outcome.to_json(),
            "rungs": [rung.to_json() for rung in self.rungs],
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "continues": self.continues,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrialRecord:
        """The record that `to_json` wrote, perhaps another version's (`spaces.stored`). Raises ValueError if it cannot
        be read."""
        what = "the record of a trial"
        require_format(document, FORMAT, what=what)
        known = known_fields(cls, document, what=what)
        known["outcome"] = Outcome.from_json(known.get("outcome"))
        known["spec"] = None if known["spec"] is None else StudentSpec.from_json(known["spec"])
        known["recipe"] = None if known["recipe"] is None else RecipeSpec.from_json(known["recipe"])
        known["state"] = TrialState(known.get("state", TrialState.RUNNING))
        known["rungs"] = tuple(RungRecord.from_json(rung) for rung in known.get("rungs", ()))
        known["checkpoint"] = None if known.get("checkpoint") is None else Path(known["checkpoint"])
        return cls(**known)


class Observer(Protocol):
    """Notified, in the driver and in order, of events of trials: the live table, the MLflow writer.

    A refused trial is only ended, never started. A trial that was finished by an earlier run is not told again.
    """

    def trial_started(self, record: TrialRecord) -> None:
        """A trial begins (or a continued one goes on)."""

    def rung_reached(self, record: TrialRecord) -> None:
        """A running trial has measured its last rung in `record.rungs`."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has its final state and outcome."""


def trials_once(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The trials without those that another one continues."""
    records = tuple(records)
    continued = {record.continues for record in records}
    return tuple(record for record in records if record.number not in continued)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPoint:
    """One trial as the report draws it."""

    name: str
    """`trial-0007`."""
    student: str
    """The student in words."""
    state: str
    """complete, pruned, refused, failed, interrupted or running."""
    outcome: str
    """Why it ended."""
    latency_ms: float | None
    """Predicted before training; None if the point could not be built."""
    fidelity: float | None
    """In the study's measurement, at the last rung that it reached; None if it reached none."""
    n_tokens: int
    """Training tokens at that rung."""

    @classmethod
    def of(cls, record: TrialRecord, objective: Objective) -> TrialPoint:
        """The point of a record: with the fidelity of its last rung, whatever was measured after graduation."""
        return cls(
            name=record.name,
            student=describe(record.spec),
            state=record.state.value,
            outcome=str(record.outcome or ""),
            latency_ms=record.predicted_latency_ms,
            fidelity=None if record.fidelity is None else objective.of(record.fidelity),
            n_tokens=record.n_tokens,
        )
