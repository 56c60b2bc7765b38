# SPDX-License-Identifier: Apache-2.0
"""What a graduating student does next: train on, begin its decay, or end. Decided anew every second or two.

A graduation has a stable part at the peak learning rate and a decay to 0 (warm-up, stable, decay: Hu et al. 2024). It
is limited by tokens, by time, or by both; under a time limit the decay's length in tokens follows from the speed
measured in the stable part, so it ends on time on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHUNK_S = 1.5
"""Seconds of training between two decisions: how late a Ctrl-C is heard."""
MIN_STEPS = 8
"""Batches of the shortest stable part and of the shortest decay."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Train until `to_tokens` in all."""

    to_tokens: int


@dataclass(frozen=True, slots=True)
class Decay:
    """Let the learning rate fall from now to `to_tokens`."""

    to_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Evaluate and save."""


Decision = Advance | Decay | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a student's graduation ends."""

    start_tokens: int
    """Tokens seen when it began."""
    max_tokens: int | None
    """Most tokens in all; None: no limit."""
    slice_s: float | None
    """Seconds of this command for training; None: no limit."""
    decay_share: float
    """Share of the tokens, or of the time, of the decay."""
    batch_tokens: int
    """Tokens of a batch."""

    def __post_init__(self) -> None:
        if self.max_tokens is None and self.slice_s is None:
            raise ValueError("a graduation must end: give max_tokens or slice_s")


def decide(
    limits: Limits, *, n_tokens: int, decay_to: int | None, used_s: float, tokens_per_s: float
) -> Decision:
    """The next thing to do after `n_tokens` tokens and `used_s` seconds; `decay_to` is where a begun decay ends."""
    chunk = max(limits.batch_tokens, int(tokens_per_s * CHUNK_S))
    if decay_to is not None:
        return Finish() if n_tokens >= decay_to else Advance(min(decay_to, n_tokens + chunk))
    if limits.max_tokens is not None and n_tokens >= limits.max_tokens:
        return Finish()
    shortest = MIN_STEPS * limits.batch_tokens
    is_time = (
        limits.slice_s is not None
        and used_s >= (1.0 - limits.decay_share) * limits.slice_s
        and n_tokens >= limits.start_tokens + shortest
    )
    ends = [n_tokens + chunk]
    if limits.max_tokens is not None:
        n_decay = limits.decay_share * (limits.max_tokens - limits.start_tokens)
        ends.append(math.ceil(limits.max_tokens - n_decay))
    if not is_time and n_tokens < min(ends):
        return Advance(min(ends))
    ends = [] if limits.max_tokens is None else [limits.max_tokens]
    if limits.slice_s is not None:
        ends.append(n_tokens + max(shortest, int(tokens_per_s * (limits.slice_s - used_s))))
    return Decay(min(ends))


SLOWNESS_POWER = 0.5
"""Time for a student grows with (seconds a token) to this power: 1 is equal tokens, 0 is equal time."""
MIN_WEIGHT = 0.25
"""Of an equal share of the graduation's time, what the fastest student gets at least."""


def time_weights(tokens_per_s: Sequence[float]) -> list[float]:
    """Each student's share of the graduation's worker time, by its training speed; the shares add up to 1.

    Slow (deep) students get more; none gets less than `MIN_WEIGHT` of an equal share.
    """
    slowness = [(1.0 / speed) ** SLOWNESS_POWER for speed in tokens_per_s]
    least = MIN_WEIGHT * sum(slowness) / max(1, len(slowness))
    weights = [max(least, weight) for weight in slowness]
    return [weight / sum(weights) for weight in weights]


def balance(weights: Sequence[float], n_groups: int) -> list[list[int]]:
    """Indexes of `weights` for every group: heaviest first, each to the group that has least (Graham 1969).

    Within a group the lightest comes first: what one student overruns is taken from those after it, and a heavy one
    misses it least.
    """
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    loads = [0.0] * n_groups
    for index in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        lightest = min(range(n_groups), key=loads.__getitem__)
        groups[lightest].insert(0, index)
        loads[lightest] += weights[index]
    return groups
