# SPDX-License-Identifier: Apache-2.0
"""How long a call of a student takes under a latency profile.

All students are measured together: round after round each takes its turn, in an order that is shuffled
per round, so that whatever else the machine does hits all alike and ratios hold even where milliseconds
drift. A turn is one untimed call, which brings the student's weights back into the caches as they are when
sentences come one after the other, then as many timed calls as the clock's resolution needs. Where the
kernel gave the core to another process meanwhile (it hits slow students more often than fast ones), a call
on one thread counts with the thread's own time, and one on several threads is left out while enough others
remain. The median of the turns is reported with a distribution-free interval.
"""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spaces.errors import UserError
from spaces.profile import LatencyProfile
from spaces.student import StudentSpec
from trainers.measure.backends.backend import Call, Runnable
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.random_student import random_student

Measurable = StudentSpec | Runnable
"""A spec is built with random weights, whose values do not matter, for the profile's runtime; a student that was built
is measured on the runtime that it was built for, whatever the profile says.
"""

N_INPUTS = 64  # different sentences in turn, so that no token row stays in the first cache
MIN_ROUNDS = 9  # the fewest turns whose order statistics hold an interval with something to spare
MIN_TURN_MS = 1.0  # thousands of times the clock's resolution
N_WARM_UP = 3  # the first calls allocate and choose kernels
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Median latency of one call, with its interval."""

    median_ms: float
    """Median over the turns, in milliseconds."""
    low_ms: float
    """Lower end of a 95% interval of the median."""
    high_ms: float
    """Upper end of a 95% interval of the median."""
    n_repeats: int
    """Number of turns in the median."""

    @property
    def interval_ms(self) -> tuple[float, float]:
        """The 95% interval of the median."""
        return (self.low_ms, self.high_ms)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One student's timed calls in one round."""

    call_ms: float
    """Mean time of its calls."""
    disturbed: bool
    """Whether another process had a core meanwhile and its time is in `call_ms`."""


def measure_latencies(
    students: Mapping[str, Measurable], profile: LatencyProfile, *, min_seconds: float = 5.0, seed: int = 0
) -> dict[str, Latency]:
    """The latency of every student by name, measured in turns until `min_seconds` have passed (all together).

    At least `MIN_ROUNDS` turns each. The inputs are random token ids of exactly the profile's length, without padding.
    Raises ValueError for a student that is too short for the profile's tokens.
    """
    for name, student in students.items():
        _check(name, student if isinstance(student, StudentSpec) else student.spec, profile)
    with limit_threads(profile.n_threads), torch.inference_mode(), no_garbage_collection():
        calls = {name: _prepare(student, profile, seed=seed) for name, student in students.items()}
        n_inner = {name: _calls_per_turn(call) for name, call in calls.items()}
        turns: dict[str, list[Turn]] = {name: [] for name in calls}
        names, generator = list(calls), np.random.default_rng(seed)
        end = time.monotonic() + min_seconds
        n_rounds = 0
        while names and (n_rounds < MIN_ROUNDS or time.monotonic() < end):
            for i in generator.permutation(len(names)):
                name = names[i]
                first = n_rounds * (n_inner[name] + 1)
                turns[name].append(_take_turn(calls[name], first=first, n=n_inner[name], n_threads=profile.n_threads))
            n_rounds += 1
    return {name: summarise(taken) for name, taken in turns.items()}


def summarise(turns: Sequence[Turn], *, min_rounds: int = MIN_ROUNDS) -> Latency:
    """Median and 95% interval of the undisturbed turns; of all, if fewer than `min_rounds` were undisturbed."""
    undisturbed = [turn.call_ms for turn in turns if not turn.disturbed]
    ordered = sorted(undisturbed if len(undisturbed) >= min_rounds else [turn.call_ms for turn in turns])
    low, high = median_ranks(len(ordered))
    return Latency(
        median_ms=float(np.median(ordered)), low_ms=ordered[low], high_ms=ordered[high], n_repeats=len(ordered)
    )


def median_ranks(n: int) -> tuple[int, int]:
    """Positions, in n ordered values, of the tightest symmetric interval that holds the median with probability 95%.

    Distribution-free: the number of values below the median is binomial(n, 1/2) whatever the distribution (David &
    Nagaraja 2003, Order Statistics, 7.1). With fewer than 6 values the whole range is given, which covers less.
    """
    tail, low = 0.0, 0
    for k in range(n // 2):
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2.0))
        if 2.0 * tail > 1.0 - CONFIDENCE:
            break
        low = k
    return low, n - 1 - low


def _take_turn(call: Call, *, first: int, n: int, n_threads: int) -> Turn:
    call(first)
    n_switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    thread_start, start = time.thread_time_ns(), time.perf_counter_ns()
    for i in range(first + 1, first + 1 + n):
        call(i)
    elapsed_ns, thread_ns = time.perf_counter_ns() - start, time.thread_time_ns() - thread_start
    disturbed = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > n_switches
    if disturbed and n_threads == 1:  # nothing in a call waits, so undisturbed both clocks agree
        elapsed_ns, disturbed = min(elapsed_ns, thread_ns), False
    return Turn(call_ms=elapsed_ns / n / 1e6, disturbed=disturbed)


def _calls_per_turn(call: Call) -> int:
    for i in range(N_WARM_UP):
        call(i)
    quickest_ms = min(_take_turn(call, first=i, n=1, n_threads=1).call_ms for i in range(N_WARM_UP))
    return max(1, math.ceil(MIN_TURN_MS / quickest_ms))


def _prepare(student: Measurable, profile: LatencyProfile, *, seed: int) -> Call:
    if isinstance(student, StudentSpec):
        student = random_student(backend_of(profile.runtime), student, n_threads=profile.n_threads)
    return student.prepare(_inputs(student.spec.vocabulary_size, profile, seed=seed))


def _inputs(vocabulary_size: int, profile: LatencyProfile, *, seed: int) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, vocabulary_size, size=(N_INPUTS, profile.batch_size, profile.n_tokens)))


def _check(name: str, spec: StudentSpec, profile: LatencyProfile) -> None:
    if spec.max_tokens is not None and profile.n_tokens > spec.max_tokens:
        raise UserError(
            f"the latency profile asks for {profile.n_tokens} tokens, {name} takes at most {spec.max_tokens}; "
            "lower n_tokens"
        )


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """Gives torch and every loaded BLAS n threads while it lasts; other runtimes are told when a student is built."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(limits=n, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collects garbage, and then none while it lasts."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
