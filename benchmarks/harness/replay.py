# SPDX-License-Identifier: Apache-2.0
"""A search replayed on simulated time: the time of a trial is its steps, and workers report asynchronously.

A worker asks for a trial, reports at every rung and asks again; who is told what, and when, is what a search on a
cluster of so many equal machines would see. Events of the same moment happen in the order in which they were caused.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.harness.problem import Point, Problem


@dataclass(slots=True)
class Running:
    """A trial that a worker trains."""

    handle: Any
    """Handle of the method, as `ask` returned it."""
    configuration: dict[str, Any]
    """What is trained."""
    curve: list[float]
    """Errors at all rungs; the method is shown those that were reached."""
    n_reached: int = 0
    """Rungs reached."""


class Method(Protocol):
    """A searcher with its rule for stopping."""

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        """A new trial: a handle and its configuration; None if there is none."""

    def reached(self, handle: Any, rung: int, error: float) -> bool:
        """Takes the error at a rung (its index) that is not the last. Returns whether the trial goes on."""

    def finished(self, handle: Any, error: float) -> None:
        """Takes the error at the last rung."""


@dataclass(frozen=True, slots=True)
class Finish:
    """A fully trained point."""

    steps: float
    """Steps of all workers when it was finished."""
    point: Point
    """Its cost and error."""


def replay(method: Method, problem: Problem, *, n_workers: int, budget: int) -> tuple[list[Finish], list[int]]:
    """What one search finishes within a budget of steps, and how many trials ended at each rung (the last: full)."""
    rungs = problem.rungs
    end = budget / n_workers
    events: list[tuple[float, int, Running]] = []
    finished: list[Finish] = []
    ended = [0] * len(rungs)
    n_events = 0

    def begin(now: float) -> None:
        asked = method.ask()
        if asked is not None:
            handle, configuration = asked
            push(now + rungs[0], Running(handle, configuration, problem.curve(configuration)))

    def push(when: float, running: Running) -> None:
        nonlocal n_events
        if when <= end + 1e-9:
            heapq.heappush(events, (when, n_events, running))
            n_events += 1

    for _ in range(n_workers):
        begin(0.0)
    while events:
        now, _, running = heapq.heappop(events)
        rung = running.n_reached
        running.n_reached += 1
        error = running.curve[rung]
        if rung == len(rungs) - 1:
            method.finished(running.handle, error)
            cost = problem.cost(running.configuration)
            assert cost is not None
            finished.append(Finish(now * n_workers, (cost, error)))
        elif method.reached(running.handle, rung, error):
            push(now + rungs[rung + 1] - rungs[rung], running)
            continue
        ended[rung] += 1
        if now + rungs[0] <= end:
            begin(now)
    return finished, ended


def fractions(problem: Problem, finished: Sequence[Finish], *, budget: int, best: float) -> dict[str, float]:
    """Shares of the hypervolume `best` that were reached at a quarter, half and all of the budget."""
    return {
        str(share): problem.hypervolume([each.point for each in finished if each.steps <= share * budget + 1e-6]) / best
        for share in (0.25, 0.5, 1.0)
    }
