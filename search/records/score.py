# SPDX-License-Identifier: Apache-2.0
"""The scalar score of a student: one number of its error and its speed, to rank trials and to break ties.

    score = -log2(error) + SPEED_WEIGHT * log2(speedup)

The error is the objective's (`search.records.objective`): 1 less the fidelity. The first term rises by one when the
error is halved, the second by SPEED_WEIGHT when the speed is doubled. The score rises with both objectives, so a
student that another dominates never scores higher than it. Only its order means anything: the sampler sees the two
objectives, and the front is decided by them alone.
"""

from __future__ import annotations

import math

SPEED_WEIGHT = 0.5
"""Halved errors that a doubled speed is worth: between the two ends of a front that are equally useful to someone who
has no preference (five of six layers: a cosine of 0.984 at 1.2 times the speed; a table: 0.885 at 60 times)."""


def score(error: float, speedup: float, *, speed_weight: float = SPEED_WEIGHT) -> float:
    """The scalar score of an error (positive) and a speed-up over the teacher (positive); -inf if either is NaN.

    Raises ValueError if one is not positive.
    """
    if math.isnan(error) or math.isnan(speedup):
        return -math.inf
    if error <= 0.0:
        raise ValueError(f"an error is positive, got {error}; take the objective's, which has a least error")
    if speedup <= 0.0:
        raise ValueError(f"a speed-up is positive, got {speedup}; divide the teacher's latency by the student's")
    return -math.log2(error) + speed_weight * math.log2(speedup)
