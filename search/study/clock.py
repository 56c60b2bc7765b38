# SPDX-License-Identifier: Apache-2.0
"""The time that a study has spent and its current step, saved in the study's folder for other commands."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.console.progress import Bar, Reporter
from search.storage.study_state import StateFile, StudyState

CLOCK: StateFile[float] = StateFile(
    name="clock", to_json=lambda spent_s: {"spent_s": spent_s}, from_json=lambda document: float(document["spent_s"])
)
"""Seconds spent on the study by all its commands."""
STEP: StateFile[str] = StateFile(
    name="step", to_json=lambda step: {"step": step}, from_json=lambda document: str(document["step"]), durable=False
)
"""The current step, as text for people."""
WRITE_CLOCK_S = 5.0


class Clock:
    """Counts the seconds spent on a study, those of earlier commands included."""

    def __init__(self, *, spent_s: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now() - spent_s

    def spent_s(self) -> float:
        """Seconds spent by this and all earlier commands; the time between commands does not count."""
        return self._now() - self._start


class StudyClock(Clock):
    """A clock that saves itself every `WRITE_CLOCK_S` seconds: that much time at most is uncounted after a kill.

    It is an observer of the search, so every event of a trial may trigger a save.
    """

    def __init__(self, state: StudyState, *, now: Callable[[], float] = time.monotonic) -> None:
        """Starts from the saved time of earlier commands."""
        super().__init__(spent_s=state.read(CLOCK) or 0.0, now=now)
        self._state = state
        self._written_s = self.spent_s()

    def write_if_due(self, *_: object) -> None:
        """Save the spent time if the last save is older than `WRITE_CLOCK_S`."""
        if self.spent_s() - self._written_s > WRITE_CLOCK_S:
            self.write()

    trial_started = rung_reached = trial_ended = write_if_due

    def write(self) -> None:
        """Save the spent time."""
        self._written_s = self.spent_s()
        self._state.write(CLOCK, self._written_s)


class StepRecorder:
    """A reporter that also saves the current step, which `search.cli.watch` shows."""

    def __init__(self, reporter: Reporter, state: StudyState, clock: StudyClock) -> None:
        """Progress of a step also lets `clock` save itself."""
        self._reporter = reporter
        self._state = state
        self._clock = clock

    def step(self, what: str) -> Bar:
        """Begin a step, save it, and return its progress function."""
        self._save(what)
        bar = self._reporter.step(what)

        def advance(done: int, total: int) -> None:
            self._clock.write_if_due()
            bar(done, total)

        return advance

    def say(self, line: str) -> None:
        """Save and print a line."""
        self._save(line)
        self._reporter.say(line)

    def _save(self, step: str) -> None:
        self._state.write(STEP, step)
