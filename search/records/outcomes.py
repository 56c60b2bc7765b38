# SPDX-License-Identifier: Apache-2.0
"""How a trial or a graduation ended: a kind that code compares, and details that people read.

`str(outcome)` is the one place where the text of tables, MLflow tags and messages is made. Journals hold the object of
`to_json`; older ones hold the text itself, which `from_json` still reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class OutcomeKind(StrEnum):
    """Why it ended. The values are what journals hold and people read."""

    COMPLETE = "complete"
    """Trained over the whole budget."""
    GRADUATED = "graduated"
    """Distilled for longer, and finished."""
    BELOW_UNTRAINED = "below untrained"
    """Distilled for longer, and yet less like its teacher than it was before training: not registered."""
    DOMINATED = "dominated"
    """Pruned: trials that are no slower are predicted to end with less error."""
    PRUNED = "pruned"
    """Pruned at a rung by a pruner that names no other trials."""
    DUPLICATE = "duplicate"
    """Refused: another trial has the same student and recipe."""
    HOPELESS = "hopeless"
    """Refused: its predicted latency is no better than the teacher's."""
    CANNOT_BE_BUILT = "cannot be built"
    """Refused: no student has such dimensions."""
    NOT_FINITE = "not finite"
    """A loss, a vector or a fidelity is infinite or not a number."""
    OUT_OF_MEMORY = "out of memory"
    """The process could not get memory, met its limit, or was ended by Ray before its node ran out."""
    NO_SPACE = "no space"
    """The disk is full."""
    HUNG = "hung"
    """No report or heartbeat within the limit."""
    WORKER_DIED = "worker died"
    """Its process ended while its node went on."""
    NODE_DIED = "node died"
    """Its process ended with its node."""
    WORKER_UNREACHABLE = "worker unreachable"
    """The connection to its process broke; whether process or node died is not known."""
    EXCEPTION = "exception"
    """Any other exception."""
    TIME_BUDGET = "time budget"
    """The time was used up."""
    INTERRUPTED = "interrupted"
    """Ctrl-C, or an error that ended the whole command."""
    DRIVER_ENDED = "driver ended"
    """The process that searched was killed."""
    CHECKPOINT_NOT_FOUND = "checkpoint not found"
    """What was saved cannot be read where it is needed."""
    WORKERS_ENDED = "workers ended"
    """Graduation stopped in this command; the same command continues it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial or a graduation ended."""

    kind: OutcomeKind
    """What code compares."""
    details: str = ""
    """Details for people, in one line; may be empty."""
    rivals: tuple[int, ...] = ()
    """Numbers of the trials that a pruned one is predicted to end behind."""
    exception: str = ""
    """Name of the exception's type; only of kind `EXCEPTION`."""

    @property
    def label(self) -> str:
        """The kind in a word or two; of an exception the name of its type."""
        return self.exception or self.kind.value

    def __str__(self) -> str:
        """What people read: `kind: details`, and of an exception `Type: message`."""
        if self.kind is OutcomeKind.EXCEPTION and not self.exception:
            return self.details or self.label
        return f"{self.label}: {self.details}" if self.details else self.label

    def repeated(self, times: str) -> Outcome:
        """The same outcome after so many times, in words: `3 times at this rung`."""
        return replace(self, details=f"{self.details}; {times}" if self.details else times)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal outcome; what is empty is left out."""
        document: dict[str, Any] = {"kind": self.kind.value}
        if self.details:
            document["details"] = self.details
        if self.rivals:
            document["rivals"] = list(self.rivals)
        if self.exception:
            document["exception"] = self.exception
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | None) -> Outcome | None:
        """The outcome that `to_json` wrote, or that an older version wrote as text; None for none. Raises ValueError
        on an unknown kind."""
        if document is None or isinstance(document, str):
            return _from_text(document or "")
        return cls(
            OutcomeKind(document["kind"]),
            document.get("details", ""),
            tuple(document.get("rivals", ())),
            document.get("exception", ""),
        )


_KINDS = {kind.value: kind for kind in OutcomeKind} | {"no room": OutcomeKind.NO_SPACE}
_KIND_AND_DETAILS = re.compile(rf"({'|'.join(map(re.escape, _KINDS))})(?:[:;] |$)(.*)", re.DOTALL)
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*): ?(.*)", re.DOTALL)
_TRIAL = re.compile(r"\btrial-(\d{4,})\b")


def _from_text(text: str) -> Outcome | None:
    """What older versions wrote as `kind`, `kind: details` or, of an exception, `Type: message`; None if empty."""
    if not text:
        return None
    if text == "interrupted: the driver ended":
        return Outcome(OutcomeKind.DRIVER_ENDED)
    if found := _KIND_AND_DETAILS.fullmatch(text):
        kind, details = _KINDS[found[1]], found[2]
        rivals = dict.fromkeys(map(int, _TRIAL.findall(details))) if kind is OutcomeKind.DOMINATED else ()
        return Outcome(kind, details, tuple(rivals))
    if found := _EXCEPTION.fullmatch(text):
        return Outcome(OutcomeKind.EXCEPTION, found[2], exception=found[1])
    return Outcome(OutcomeKind.EXCEPTION, text)
