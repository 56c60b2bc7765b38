# SPDX-License-Identifier: Apache-2.0
"""Tells at once how much of a study's time budget is left, and ends a command whose time cannot yield a student.

A study that has a trial with a rung yields students whatever the time, so nothing of this ends it.
"""

from __future__ import annotations

from search.console.progress import Bar, Reporter, clock_text
from search.storage.study_state import StudyState
from search.study.budget import (
    CALIBRATION_STEP,
    ESTIMATE_FACTOR,
    PREPARATION_SHARE,
    STEP_SHARES,
    TEXT_STEP,
    TimePlan,
)
from search.study.clock import CLOCK, Clock
from spaces.errors import UserError
from spaces.study import format_duration
from spaces.study.spec import StudySpec


def plan_of_time(study: StudySpec) -> TimePlan:
    """The time plan of a study."""
    graduation = study.graduation
    return TimePlan(
        budget_s=study.search.time_budget_s, graduation_share=graduation.share, max_students=graduation.max_students
    )


def time_left_line(study: StudySpec, state: StudyState) -> str | None:
    """The time budget, what earlier commands have spent of it, what is left and needed; None without a budget.

    Raises ValueError if no student can come of what is left. Imports and reads little, so that it answers at once.
    """
    plan, spent_s = plan_of_time(study), state.read(CLOCK) or 0.0
    if plan.budget_s is None:
        return None
    words = [f"time budget {clock_text(plan.budget_s)}, for all commands of {study.name}"]
    words += [f"{clock_text(spent_s)} spent", f"{clock_text(plan.budget_s - spent_s)} left"]
    if not _has_rung(state):
        is_prepared = (state.folder / "references.json").is_file()  # the last result of the preparation
        least_s = plan.least_s(is_prepared=is_prepared)
        if spent_s + least_s > plan.budget_s:
            raise _too_short(study, plan, spent_s, f"the rest needs at least {clock_text(least_s)}", needed_s=0.0)
        words.append(f"at least {clock_text(least_s)} needed for a first student")
    return ": ".join([words[0], ", ".join(words[1:])])


def _has_rung(state: StudyState) -> bool:
    return any(state.folder.glob("trials/*/rung-*"))


def _too_short(study: StudySpec, plan: TimePlan, spent_s: float, reason: str, *, needed_s: float) -> UserError:
    assert plan.budget_s is not None
    advised = format_duration(plan.advisable_s(spent_s, needed_s=needed_s))
    return UserError(
        f"a time budget covers all commands of its study, and that of {study.name} is too short for a student: "
        f"{clock_text(spent_s)} of {clock_text(plan.budget_s)} are spent, and {reason}; what is prepared is kept: "
        f"continue with --time-budget {advised} or more"
    )


class PreparationReporter:
    """A reporter for the preparation: warns once when it is slow, and ends it when no trial can follow."""

    def __init__(self, reporter: Reporter, study: StudySpec, state: StudyState, clock: Clock) -> None:
        self._reporter, self._study, self._clock = reporter, study, clock
        self._plan = plan_of_time(study)
        self._start_s = clock.spent_s()
        self._continues = (state.read(CLOCK) or 0.0) > 0.0  # earlier commands have done some of the steps
        self._may_end = not _has_rung(state)
        self._needed_s = 0.0  # estimate: from the study's beginning to its first student
        self._text_begin_s: float | None = None
        self._text_s = 0.0  # of reading the text, which is long for a large one and is not repeated
        self._has_warned = False

    def step(self, what: str) -> Bar:
        """Begin a step. Raises ValueError, as its progress does, once the time is too short for a trial."""
        share = next((share for words, share in STEP_SHARES.items() if what.startswith(words)), None)
        spent_s = self._clock.spent_s()
        if what.startswith(TEXT_STEP):
            self._text_begin_s = spent_s if self._text_begin_s is None else self._text_begin_s
        elif self._text_begin_s is not None:
            self._text_s, self._text_begin_s = spent_s - self._text_begin_s, None
        if share is not None and not self._continues:
            self._needed_s = self._text_s + (spent_s - self._text_s) / share
        self._check()
        bar = self._reporter.step(what)

        def advance(done: int, total: int) -> None:
            bar(done, total)
            self._require_time()

        return bar if what.startswith(CALIBRATION_STEP) else advance  # what it has measured is stored at its end

    def say(self, line: str) -> None:
        """Print a line. Raises ValueError as `step` does."""
        self._check()
        self._reporter.say(line)

    def _check(self) -> None:
        self._require_time()
        budget_s, spent_s = self._plan.budget_s, self._clock.spent_s()
        if budget_s is None or self._has_warned:
            return
        if spent_s - self._start_s > PREPARATION_SHARE * budget_s or self._needed_s > budget_s:
            self._has_warned = True
            advised_s = max(2.0 * budget_s, self._plan.advisable_s(spent_s, needed_s=self._needed_s))
            self._reporter.say(
                f"warning: the preparation is slow here: {clock_text(spent_s)} of the time budget of "
                f"{clock_text(budget_s)} are spent, and a first student may need {clock_text(self._needed_s)}, so few "
                f"trials or none will fit; --time-budget {format_duration(advised_s)} leaves them more"
            )

    def _require_time(self) -> None:
        budget_s, spent_s = self._plan.budget_s, self._clock.spent_s()
        least_s = self._plan.least_s(is_prepared=True)
        if (
            self._may_end
            and budget_s is not None
            and max(spent_s + least_s, self._needed_s / ESTIMATE_FACTOR) > budget_s
        ):
            needed_s = max(self._needed_s, spent_s + least_s)
            reason = f"the preparation is not finished: a first student needs about {clock_text(needed_s)} here"
            raise _too_short(self._study, self._plan, spent_s, reason, needed_s=needed_s)
