# SPDX-License-Identifier: Apache-2.0
"""Claims about when a trial counts as hung."""

from __future__ import annotations

import pytest

from search.workers.heartbeat import HeartbeatMonitor, rung_limit_s


@pytest.mark.parametrize(
    ("wanted_s", "expected_s", "limit_s"),
    [
        (30.0, None, 30.0),
        (30.0, 500.0, 30.0),
        (None, None, 3_600.0),
        (None, 1.0, 600.0),
        (None, 500.0, 5_000.0),
    ],
)
def test_the_limit_is_the_users_or_ten_times_what_is_expected_or_an_hour(
    wanted_s: float | None, expected_s: float | None, limit_s: float
) -> None:
    assert rung_limit_s(wanted_s, expected_s=expected_s) == limit_s


def test_silence_begins_with_the_first_question_and_again_with_every_report() -> None:
    now = 0.0
    watch = HeartbeatMonitor(clock=lambda: now)
    assert watch.seconds_since(3) == 0.0
    now = 5.0
    assert (watch.seconds_since(3), watch.seconds_since(4)) == (5.0, 0.0)
    watch.report(3)
    now = 7.0
    assert (watch.seconds_since(3), watch.seconds_since(4)) == (2.0, 2.0)
    watch.forget(3)
    assert watch.seconds_since(3) == 0.0


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    now = 0.0
    watch = HeartbeatMonitor(clock=lambda: now)
    watch.report(1)
    watch.report(2)
    now = 20.0
    assert watch.seconds_since(1) == 20.0
    now = 4_000.0  # the process was stopped; both have reported meanwhile, and one report is read first
    watch.report(1)
    assert (watch.seconds_since(1), watch.seconds_since(2)) == (0.0, 20.0)
    now = 4_010.0
    assert (watch.seconds_since(1), watch.seconds_since(2)) == (10.0, 30.0)
