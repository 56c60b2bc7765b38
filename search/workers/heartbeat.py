# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: a trial hangs if it runs, and has not reported for longer than it can possibly need.

What a rung should take is learnt from the rungs of other trials. Unless the user names a limit the watch is generous: a
slow node or a long evaluation must not look like a hang. Students that graduate are watched by the same rule, between
their heartbeats (`search.graduation.job`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

TIMES_EXPECTED = 10.0
LEAST_S = 600.0  # a worker may wait so long for its imports and its data
LONGEST_BLINK_S = 30.0  # between two looks, which are usually fractions of a second apart
UNKNOWN_S = 3_600.0  # as long as no rung was reached by any trial; a time budget may end the search before


def rung_limit_s(wanted_s: float | None, *, expected_s: float | None) -> float:
    """Seconds within which a trial must report: what the user wants, else a multiple of what is expected."""
    if wanted_s is not None:
        return wanted_s
    return UNKNOWN_S if expected_s is None else max(LEAST_S, TIMES_EXPECTED * expected_s)


class HeartbeatMonitor:
    """Knows when each running trial, by its number, was last heard of.

    Time in which nobody looked does not count: of a process that was stopped itself, what trials reported meanwhile has
    not arrived yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._heard: dict[int, float] = {}

    def heard(self, number: int) -> None:
        """The trial has reported."""
        self._heard[number] = self._look()

    def seconds_since(self, number: int) -> float:
        """Seconds since the trial was heard of; the first question counts as hearing of it."""
        now = self._look()
        return now - self._heard.setdefault(number, now)

    def _look(self) -> float:
        """The time, by which all others are shifted if it stood still for whoever looks."""
        now = self._clock()
        unseen_s, self._looked = now - self._looked, now
        if unseen_s > LONGEST_BLINK_S:
            self._heard = {number: heard + unseen_s for number, heard in self._heard.items()}
        return now

    def forget(self, number: int) -> None:
        """The trial has ended."""
        self._heard.pop(number, None)
