# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: a running trial counts as hung if it has not reported for longer than it can need.

The expected time of a rung is estimated from the rungs of other trials. Unless the user sets a limit it is generous, so
that a slow node or a long evaluation is not taken for a hang. The same limit applies to students that graduate, between
two heartbeats (`search.graduation.job`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

EXPECTED_TIME_FACTOR = 10.0  # limit over expected time
MIN_LIMIT_S = 600.0  # a worker may wait this long for its imports and its data
DEFAULT_LIMIT_S = 3_600.0  # without an expected time, until a trial has reached a rung
MAX_POLL_GAP_S = 30.0  # a longer time between two calls means that the driver was stopped; usually it is under a second


def rung_limit_s(limit_s: float | None, *, expected_s: float | None) -> float:
    """Seconds within which a trial must report: the user's limit, else a multiple of the expected seconds.

    None means no limit by the user, and no estimate.
    """
    if limit_s is not None:
        return limit_s
    return DEFAULT_LIMIT_S if expected_s is None else max(MIN_LIMIT_S, EXPECTED_TIME_FACTOR * expected_s)


class HeartbeatMonitor:
    """The time of the last report of each running trial, by its number.

    A gap of more than `MAX_POLL_GAP_S` between two calls does not count: the driver itself was stopped (Ctrl-Z, sleep),
    and has not yet received what trials reported meanwhile.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._polled = clock()
        self._reported: dict[int, float] = {}

    def report(self, number: int) -> None:
        """Records that the trial has reported now."""
        self._reported[number] = self._now()

    def seconds_since(self, number: int) -> float:
        """Seconds since the trial's last report; the first call for a trial counts as a report."""
        now = self._now()
        return now - self._reported.setdefault(number, now)

    def _now(self) -> float:
        """The time now; after a gap, the times of all reports are shifted by it."""
        now = self._clock()
        gap_s, self._polled = now - self._polled, now
        if gap_s > MAX_POLL_GAP_S:
            self._reported = {number: reported + gap_s for number, reported in self._reported.items()}
        return now

    def forget(self, number: int) -> None:
        """Removes a trial that has ended."""
        self._reported.pop(number, None)
