# SPDX-License-Identifier: Apache-2.0
"""How a study's time budget is split: preparation, search, graduation, final measurement.

The budget covers the whole study over all its commands: the time that an interrupted command used is recorded, the
same command continues with the rest, and a complete study returns at once until its budget is raised. Without a budget
each phase is bounded by its own count (trials, tokens) only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CACHE_SHARE = 0.13
"""Share of the budget that the teacher may spend on embedding the corpus: text that no student will see is wasted."""
TABLE_SHARE = 0.03
"""Share of the budget for training the static table, from which every static path is initialised."""
CALIBRATION_SHARE = 0.03
"""Share of the budget for the latency calibration."""
TABLE_S, MAX_TABLE_S = 30.0, 300.0
"""Seconds of table training, by which it has converged: `TABLE_S` without a budget, at most `MAX_TABLE_S` with one."""
TABLE_PASSES, TABLE_TOKENS_PER_S = 40, 150_000
"""Passes over the text after which a table has converged, and the training speed (about that of one core)."""
CALIBRATION_STUDENT_S, MIN_CALIBRATION_S = 1.0, 5.0
"""Sufficient seconds for each architecture of the calibration, and the minimum for all together."""
MEASURE_S = 25.0
"""Seconds reserved for the final measurement, the registry and the report, whatever the number of students."""
MEASURE_STUDENT_S = 3.0
"""Additional seconds reserved for measuring and registering each student."""
MAX_RESERVE_SHARE = 0.25
"""Maximum share of the budget that is reserved for the end."""
MEASURE_SHARE, MEASURE_LATENCY_S = 0.4, 1.0
"""Share of the reserve for the final latencies, and sufficient seconds for one of them (a hundred repeats or more)."""
MIN_SEARCH_SHARE = 0.4
"""Minimum share of the remaining time that the search gets after a slow preparation."""
REDO_FACTOR = 2.0
"""More text is embedded, or the static table retrained, once the time for it has grown by this factor."""

LEAST_PREPARATION_S, LEAST_TRIAL_S, LEAST_END_S = 5.0, 5.0, 10.0
"""Lower bounds, on any machine: for a preparation that has stored nothing yet; for the start of Ray and one trial; for
the start of the graduation, the final measurement and the registration."""
CALIBRATION_STEP, TEXT_STEP = "measuring the latency", "tokenising"
"""The beginnings of the texts of two steps of the preparation."""
STEP_SHARES = {
    CALIBRATION_STEP: 0.06,
    TEXT_STEP: 0.14,
    "embedding the held-out": 0.16,
    "measuring how fast": 0.25,
    "embedding": 0.30,
    "training the static table": 0.48,
    "ranking": 0.62,
    "measuring the fidelity": 0.78,
}
"""Share of the time to a first student that has passed when a step of the preparation begins, by the beginning of its
text: of the quickstart on two busy cores, where short budgets fail. Other texts and teachers differ by factors."""
ESTIMATE_FACTOR = 3.0
"""A preparation ends early only if its budget is too short by this factor, because the estimate is a rough one."""
PREPARATION_SHARE = 0.3
"""Share of the budget above which a preparation is reported as slow: it should need `CACHE_SHARE` and a little more."""
SHORT_SEARCH_S = 120.0
"""A search of less time tries the fastest initial points first: the slowest ones may take all of it."""
EXTENSIONS_S = (30.0, 60.0, 120.0)
"""Seconds by which a search is extended, one after another, until a trial has reached a rung."""

TEXT_SIZES = tuple(step * 10**power for power in (2, 3, 4, 5) for step in (10, 15, 20, 30, 40, 60, 80))
"""Sizes of the cached training text, in sentences: fixed values, so that runs on similar machines use equal text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePlan:
    """Seconds for each phase; None where only a count limits it."""

    budget_s: float | None
    """Seconds for the whole study; None: no limit."""
    graduation_share: float
    """Share of the budget that is left to graduation and the end."""
    max_students: int
    """Maximum number of students that are measured and registered at the end."""

    @property
    def reserve_s(self) -> float:
        """Seconds reserved for the final measurement, the registry and the report."""
        wanted = MEASURE_S + MEASURE_STUDENT_S * self.max_students
        return wanted if self.budget_s is None else min(wanted, MAX_RESERVE_SHARE * self.budget_s)

    def least_s(self, *, is_prepared: bool) -> float:
        """A lower bound of the seconds that a study without any trial needs for its first student."""
        return (0.0 if is_prepared else LEAST_PREPARATION_S) + LEAST_TRIAL_S + LEAST_END_S

    def advisable_s(self, spent_s: float, *, needed_s: float = 0.0) -> float:
        """A time budget, in whole minutes, that should suffice after `spent_s` seconds without a student.

        `needed_s` is an estimate of the seconds from the study's beginning to its first student.
        """
        return 60.0 * math.ceil(max(needed_s, 2.0 * spent_s, spent_s + 120.0) / 60.0)

    def measure_s(self, n_students: int) -> float:
        """Seconds for the final latencies of `n_students` students and references together."""
        return min(MEASURE_SHARE * self.reserve_s, MEASURE_LATENCY_S * n_students)

    @property
    def cache_s(self) -> float | None:
        """Seconds for caching the teacher's outputs."""
        return None if self.budget_s is None else CACHE_SHARE * self.budget_s

    def table_s(self, n_tokens: int) -> float:
        """Seconds for training the static table on a text of `n_tokens`; without a budget `table_tokens` limits it."""
        limit = TABLE_S if self.budget_s is None else min(MAX_TABLE_S, TABLE_SHARE * self.budget_s)
        return min(limit, TABLE_PASSES * n_tokens / TABLE_TOKENS_PER_S)

    def table_tokens(self, n_tokens: int) -> int:
        """Training tokens of the static table on a text of `n_tokens`; the limit where there is no time budget."""
        return max(1, int(self.table_s(n_tokens) * TABLE_TOKENS_PER_S))

    def calibration_s(self, n_students: int) -> float:
        """Seconds for the latency calibration on `n_students` architectures."""
        ample = CALIBRATION_STUDENT_S * n_students
        return ample if self.budget_s is None else min(ample, max(MIN_CALIBRATION_S, CALIBRATION_SHARE * self.budget_s))

    def search_s(self, spent_s: float) -> float | None:
        """Seconds for the search after `spent_s` seconds of the study; 0 if its time is over.

        The search ends at 1 - graduation_share of the budget, or later after a slow preparation: it gets at least
        `MIN_SEARCH_SHARE` of the remaining time.
        """
        if self.budget_s is None:
            return None
        left = max(0.0, self.budget_s - self.reserve_s - spent_s)
        return min(left, max((1.0 - self.graduation_share) * self.budget_s - spent_s, MIN_SEARCH_SHARE * left))

    def graduation_s(self, spent_s: float) -> float | None:
        """Seconds for graduation after `spent_s` seconds of the study; 0 if its time is over."""
        return None if self.budget_s is None else max(0.0, self.budget_s - self.reserve_s - spent_s)


def n_sentences(fitting: float, *, available: int, at_least: int = 0) -> int:
    """The number of training sentences to cache, if the time suffices for `fitting` of the `available`.

    `available` if all fit, else the largest of `TEXT_SIZES` that fits; never below `at_least`, what an earlier command
    used.
    """
    if fitting >= available:
        return available
    sizes = [size for size in TEXT_SIZES if size <= fitting]
    return min(available, max(at_least, sizes[-1] if sizes else TEXT_SIZES[0]))
