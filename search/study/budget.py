# SPDX-License-Identifier: Apache-2.0
"""How a study's time budget is split: preparation, search, graduation, final measurement.

The budget is that of the whole run, however many commands it takes: what an interrupted command used up is
remembered, so the same command goes on with what is left, and a finished study ends at once until its budget
is raised. Without a budget every part is bounded by its own count (trials, tokens) and nothing here limits it.
"""

from __future__ import annotations

from dataclasses import dataclass

CACHE_SHARE = 0.13
"""Share of the budget that the teacher may spend on embedding the corpus: more text than a student will see is idle."""
TABLE_SHARE = 0.03
"""Share of the budget for training the static table, which every static path inherits."""
CALIBRATION_SHARE = 0.03
"""Share of the budget for the latency calibration."""
TABLE_S, MAX_TABLE_S = 30.0, 300.0
"""Seconds of table training, roughly, without a budget, and at most with one: it has converged by then."""
TABLE_PASSES, TABLE_TOKENS_PER_S = 40, 150_000
"""A table has converged after so many passes over its text; the speed (of one core, roughly) tells their time."""
CALIBRATION_STUDENT_S, MIN_CALIBRATION_S = 1.0, 5.0
"""Ample seconds for each of the calibration's architectures, and the fewest for all that make sense."""
MEASURE_S = 25.0
"""Seconds kept for the final measurement, the registry and the report, before any student is counted."""
MEASURE_STUDENT_S = 3.0
"""Seconds kept for measuring and registering one student."""
MAX_RESERVE_SHARE = 0.25
"""Of a short budget, no more than this is kept for the end."""
MEASURE_SHARE, MEASURE_LATENCY_S = 0.4, 1.0
"""Of that, for the latencies, and ample seconds for one of them: a hundred turns and more."""
MIN_SEARCH_SHARE = 0.4
"""Share of the time left after a slow preparation that the search gets at least."""
AGAIN = 2.0
"""More text is embedded, and the static table trained again, once the time for it has grown by this factor."""

SENTENCES = tuple(step * 10**power for power in (3, 4, 5) for step in (10, 15, 20, 30, 40, 60, 80))
"""Sizes of the cached training text: a ladder, so that runs on like machines agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePlan:
    """Seconds for every phase; None where nothing but a count is the limit."""

    budget_s: float | None
    """Of the whole run."""
    graduation_share: float
    """Share of the budget after the search."""
    max_students: int
    """Most students that are measured and registered at the end."""

    @property
    def reserve_s(self) -> float:
        """Kept at the end for the final measurement, the registry and the report."""
        wanted = MEASURE_S + MEASURE_STUDENT_S * self.max_students
        return wanted if self.budget_s is None else min(wanted, MAX_RESERVE_SHARE * self.budget_s)

    def measure_s(self, n_students: int) -> float:
        """For the final latencies of so many students and references."""
        return min(MEASURE_SHARE * self.reserve_s, MEASURE_LATENCY_S * n_students)

    @property
    def cache_s(self) -> float | None:
        """For the teacher's outputs."""
        return None if self.budget_s is None else CACHE_SHARE * self.budget_s

    def table_s(self, n_tokens: int) -> float:
        """For training the static table on a text of so many tokens; without a budget its tokens count instead."""
        limit = TABLE_S if self.budget_s is None else min(MAX_TABLE_S, TABLE_SHARE * self.budget_s)
        return min(limit, TABLE_PASSES * n_tokens / TABLE_TOKENS_PER_S)

    def table_tokens(self, n_tokens: int) -> int:
        """Training tokens of the static table on a text of so many tokens, where no clock decides."""
        return max(1, int(self.table_s(n_tokens) * TABLE_TOKENS_PER_S))

    def calibration_s(self, n_students: int) -> float:
        """For the latency calibration on so many architectures."""
        ample = CALIBRATION_STUDENT_S * n_students
        return ample if self.budget_s is None else min(ample, max(MIN_CALIBRATION_S, CALIBRATION_SHARE * self.budget_s))

    def search_s(self, spent_s: float) -> float | None:
        """For the search, when `spent_s` seconds are spent; 0 if the search's time is over.

        The search ends at 1 - graduation_share of the budget, or later after a slow preparation: it gets at least
        a share of what is left then.
        """
        if self.budget_s is None:
            return None
        left = max(0.0, self.budget_s - self.reserve_s - spent_s)
        return min(left, max((1.0 - self.graduation_share) * self.budget_s - spent_s, MIN_SEARCH_SHARE * left))

    def graduation_s(self, spent_s: float) -> float | None:
        """For the graduation, when `spent_s` seconds are spent; 0 if its time is over."""
        return None if self.budget_s is None else max(0.0, self.budget_s - self.reserve_s - spent_s)


def n_sentences(fitting: float, *, available: int, at_least: int = 0) -> int:
    """Training sentences to cache when the time is enough for `fitting` of the `available`: a rung of the ladder.

    All, if all fit; `at_least` (what an earlier command used) is never undercut.
    """
    if fitting >= available:
        return available
    rungs = [size for size in SENTENCES if size <= fitting]
    return min(available, max(at_least, rungs[-1] if rungs else SENTENCES[0]))
