# SPDX-License-Identifier: Apache-2.0
"""Schedule of a graduation: after every chunk of training, whether to continue, begin the decay, or finish.

A graduation has a stable phase at the peak learning rate and a decay to 0 (warmup-stable-decay: Hu et al. 2024). It is
limited by tokens, by time, or by both. Under a time limit the length of the decay in tokens follows from the training
speed that was measured in the stable phase, so that it ends on time on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHUNK_S = 1.5
"""Seconds of training between two decisions, and so the longest delay until a Ctrl-C is handled."""
MIN_STEPS = 8
"""Least number of batches of the stable phase, and of the decay."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Train until `to_tokens` training tokens in all."""

    to_tokens: int


@dataclass(frozen=True, slots=True)
class Decay:
    """Begin the decay now; the learning rate is 0 at `to_tokens`."""

    to_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Evaluate and save the student."""


Decision = Advance | Decay | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a student's graduation."""

    start_tokens: int
    """Training tokens at its beginning."""
    max_tokens: int | None
    """Most training tokens in all; None: no limit."""
    slice_s: float | None
    """Seconds for training in this command; None: no limit."""
    decay_share: float
    """The decay's share of the tokens or of the time."""
    batch_tokens: int
    """Training tokens in a batch."""

    def __post_init__(self) -> None:
        if self.max_tokens is None and self.slice_s is None:
            raise ValueError("a graduation must end: give max_tokens or slice_s")


def decide(limits: Limits, *, n_tokens: int, decay_to: int | None, used_s: float, tokens_per_s: float) -> Decision:
    """The decision after `n_tokens` training tokens and `used_s` seconds.

    `decay_to` is the token count at which a begun decay ends, None before the decay.
    """
    chunk = max(limits.batch_tokens, int(tokens_per_s * CHUNK_S))
    if decay_to is not None:
        return Finish() if n_tokens >= decay_to else Advance(min(decay_to, n_tokens + chunk))
    if limits.max_tokens is not None and n_tokens >= limits.max_tokens:
        return Finish()
    shortest = MIN_STEPS * limits.batch_tokens
    is_decay_due = (
        limits.slice_s is not None
        and used_s >= (1.0 - limits.decay_share) * limits.slice_s
        and n_tokens >= limits.start_tokens + shortest
    )
    ends = [n_tokens + chunk]
    if limits.max_tokens is not None:
        n_decay = limits.decay_share * (limits.max_tokens - limits.start_tokens)
        ends.append(math.ceil(limits.max_tokens - n_decay))
    if not is_decay_due and n_tokens < min(ends):
        return Advance(min(ends))
    ends = [] if limits.max_tokens is None else [limits.max_tokens]
    if limits.slice_s is not None:
        ends.append(n_tokens + max(shortest, int(tokens_per_s * (limits.slice_s - used_s))))
    return Decay(min(ends))


SLOWNESS_POWER = 0.5
"""A student's time is proportional to its seconds per token to this power: 1 gives equal tokens, 0 equal time."""
MIN_WEIGHT = 0.25
"""Least time of a student, as a fraction of an equal share."""


def time_weights(tokens_per_s: Sequence[float]) -> list[float]:
    """Each student's share of the graduation's worker time, from its training speed; the shares sum to 1.

    Slow (deep) students get more; none gets less than `MIN_WEIGHT` of an equal share.
    """
    slowness = [(1.0 / speed) ** SLOWNESS_POWER for speed in tokens_per_s]
    least = MIN_WEIGHT * sum(slowness) / max(1, len(slowness))
    weights = [max(least, weight) for weight in slowness]
    return [weight / sum(weights) for weight in weights]


def balance(weights: Sequence[float], n_groups: int) -> list[list[int]]:
    """Indexes of `weights` for every group: in descending order, each is added to the lightest group (Graham 1969).

    Within a group the lightest comes first: if a student takes longer than planned, the next ones have less time, which
    matters least for a heavy one.
    """
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    loads = [0.0] * n_groups
    for index in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        lightest = min(range(n_groups), key=loads.__getitem__)
        groups[lightest].insert(0, index)
        loads[lightest] += weights[index]
    return groups
