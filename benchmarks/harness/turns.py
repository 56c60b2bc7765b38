# SPDX-License-Identifier: Apache-2.0
"""Calls that are compared take turns, as in `trainers.measure.latency`, but whatever runtime they belong to.

Round after round each has its turn, in an order shuffled per round. A turn waits until the threads of the one before
sleep, makes an untimed call that brings the weights back, and then as many timed calls as the clock's resolution needs.
Where the kernel gave a core to another process meanwhile, a call on one thread counts with the process's own time,
and one on several threads is left out while enough others remain.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from trainers.measure.latency import Latency, Turn, no_garbage_collection, summarise

Call = Callable[[int], object]
"""Does the i-th piece of work."""

MIN_ROUNDS = 7
MIN_TURN_MS = 2.0  # thousands of times the clock's resolution
LONG_CALL_MS = 100.0  # so long a call brings its weights itself, and an untimed one would cost as much again
SPINNING_SECONDS = 0.02  # OpenMP's threads look for work so long before they sleep (libgomp: 300,000 pauses)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How a call's turn goes."""

    n_untimed: int
    """Calls that bring the weights back."""
    n_timed: int
    """Calls whose time is taken together."""


def measure_in_turns(
    calls: Mapping[str, Call], *, seconds: float, n_threads: int, min_rounds: int = MIN_ROUNDS, seed: int = 0
) -> dict[str, Latency]:
    """The time of each call, after as many rounds as fit into `seconds`, at least `min_rounds`."""
    generator = np.random.default_rng(seed)
    names, turns = list(calls), {name: list[Turn]() for name in calls}
    with no_garbage_collection():
        plans = {name: _plan(call) for name, call in calls.items()}
        end = time.monotonic() + seconds
        n_rounds = 0
        while names and (n_rounds < min_rounds or time.monotonic() < end):
            for i in generator.permutation(len(names)):
                turns[names[i]].append(_take_turn(calls[names[i]], plans[names[i]], n_rounds, n_threads=n_threads))
            n_rounds += 1
    return {name: summarise(taken, min_rounds=min_rounds) for name, taken in turns.items()}


@contextmanager
def cores(n: int) -> Iterator[None]:
    """The calling thread and the threads that it starts, on the last n of its cores (the first handles interrupts)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-n:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _plan(call: Call) -> _Plan:
    """From the quicker of two calls; the first ones allocate, and are left out."""
    times = []
    for i in range(2):
        start = time.perf_counter()
        call(i)
        times.append(1e3 * (time.perf_counter() - start))
        if times[0] > LONG_CALL_MS:
            break
    quickest_ms = max(min(times), 1e-6)
    return _Plan(n_untimed=int(quickest_ms < LONG_CALL_MS), n_timed=max(1, math.ceil(MIN_TURN_MS / quickest_ms)))


def _take_turn(call: Call, plan: _Plan, n_rounds: int, *, n_threads: int) -> Turn:
    if n_threads > 1:
        time.sleep(SPINNING_SECONDS)
    first = n_rounds * (plan.n_untimed + plan.n_timed)
    for i in range(first, first + plan.n_untimed):
        call(i)
    first += plan.n_untimed
    n_switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    own_start, start = time.process_time_ns(), time.perf_counter_ns()
    for i in range(first, first + plan.n_timed):
        call(i)
    elapsed_ns, own_ns = time.perf_counter_ns() - start, time.process_time_ns() - own_start
    disturbed = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > n_switches
    if disturbed and n_threads == 1:  # nothing in a call waits, so undisturbed both clocks agree
        elapsed_ns, disturbed = min(elapsed_ns, own_ns), False
    return Turn(call_ms=elapsed_ns / plan.n_timed / 1e6, disturbed=disturbed)
