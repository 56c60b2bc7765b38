# SPDX-License-Identifier: Apache-2.0
"""The time that a study has spent, and the step that it is at, written down for other commands."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.console.progress import Bar, Reporter
from search.storage.study_state import StateFile, StudyState

CLOCK: StateFile[float] = StateFile(
    name="clock", to_json=lambda spent_s: {"spent_s": spent_s}, from_json=lambda document: float(document["spent_s"])
)
"""Seconds spent on the study by all commands."""
STEP: StateFile[str] = StateFile(
    name="step", to_json=lambda step: {"step": step}, from_json=lambda document: str(document["step"]), durable=False
)
"""The step that the study is at, in words."""


class Clock:
    """Seconds spent on a study, those of earlier commands included."""

    def __init__(self, *, spent_s: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now() - spent_s

    def spent_s(self) -> float:
        """Seconds since the study's first command began, pauses between commands left out."""
        return self._now() - self._start


WRITE_CLOCK_S = 5.0


class NotedClock(Clock):
    """The study's clock, written down now and then: a kill costs its budget no more than that.

    An observer of the search, too: trials make it look at itself.
    """

    def __init__(self, state: StudyState, *, now: Callable[[], float] = time.monotonic) -> None:
        """Goes on from what was written."""
        super().__init__(spent_s=state.read(CLOCK) or 0.0, now=now)
        self._state = state
        self._written_s = self.spent_s()

    def look(self, *_: object) -> None:
        """Write it, if it is time."""
        if self.spent_s() - self._written_s > WRITE_CLOCK_S:
            self.write()

    trial_started = rung_reached = trial_ended = look

    def write(self) -> None:
        """Write it."""
        self._written_s = self.spent_s()
        self._state.write(CLOCK, self._written_s)


class NotedSteps:
    """A reporter that also writes down which step the study is at, for those who look on (`search.cli.watch`)."""

    def __init__(self, reporter: Reporter, state: StudyState, clock: NotedClock) -> None:
        """The clock looks at itself whenever a step gets on."""
        self._reporter = reporter
        self._state = state
        self._clock = clock

    def step(self, what: str) -> Bar:
        """A step begins."""
        self._note(what)
        bar = self._reporter.step(what)

        def advance(done: int, total: int) -> None:
            self._clock.look()
            bar(done, total)

        return advance

    def say(self, line: str) -> None:
        """A sentence."""
        self._note(line)
        self._reporter.say(line)

    def _note(self, step: str) -> None:
        self._state.write(STEP, step)
