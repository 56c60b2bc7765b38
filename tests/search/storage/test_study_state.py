# SPDX-License-Identifier: Apache-2.0
"""Claims about the facts of a study that survive its command."""

from __future__ import annotations

from pathlib import Path

from search.console.progress import Silent
from search.storage.study_state import StudyState
from search.study.clock import WRITE_CLOCK_S, NotedClock, NotedSteps


def test_a_killed_command_costs_the_clock_no_more_than_a_few_seconds(tmp_path: Path) -> None:
    times, state = [100.0], StudyState(tmp_path)
    clock = NotedClock(state, now=lambda: times[-1])
    bar = NotedSteps(Silent(), state, clock).step("embedding")
    for now in (103.0, 110.0, 111.0):
        times.append(now)
        bar(1, 2)
    times.append(113.0)
    clock.trial_started()
    assert NotedClock(state).spent_s() < 11.0
    times.append(117.0)
    clock.rung_reached()
    spent_s = NotedClock(state, now=lambda: 0.0).spent_s()  # killed here: what follows was never written
    assert 17.0 - WRITE_CLOCK_S <= spent_s <= 17.0
