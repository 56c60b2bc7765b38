# SPDX-License-Identifier: Apache-2.0
"""The scalar score of a student: one number of its fidelity and its speed, to rank trials and to break ties.

    score = -log2(1 - fidelity) + SPEED_WEIGHT * log2(speedup)

The first term counts how often the error 1 - fidelity was halved, the second how often the teacher's speed was
doubled; one doubling of speed is worth SPEED_WEIGHT halvings of error. The score rises with both objectives, so a
student that another dominates never scores higher than it. Only its order means anything: the sampler sees the two
objectives, and the front is decided by them alone.
"""

from __future__ import annotations

import math

SPEED_WEIGHT = 0.5
"""Halvings of error that one doubling of speed is worth: between the two ends of a front that are equally useful to
someone who has no preference (five of six layers: 0.984 at 1.2 times the speed; a table: 0.885 at 60 times)."""

LEAST_ERROR = 2.0**-14
"""Errors below this are rounding of bfloat16 training, not fidelity; it keeps the score of the teacher finite."""


def error_of(fidelity: float) -> float:
    """1 less a mean cosine, and no less than what is rounding."""
    return max(1.0 - fidelity, LEAST_ERROR)


def score(fidelity: float, speedup: float, *, speed_weight: float = SPEED_WEIGHT) -> float:
    """The scalar score of a mean cosine (at most 1) and a speed-up over the teacher (positive); -inf if either is NaN.

    Raises ValueError if the speed-up is not positive.
    """
    if math.isnan(fidelity) or math.isnan(speedup):
        return -math.inf
    if speedup <= 0.0:
        raise ValueError(f"a speed-up is positive, got {speedup}; divide the teacher's latency by the student's")
    return -math.log2(error_of(fidelity)) + speed_weight * math.log2(speedup)
