# SPDX-License-Identifier: Apache-2.0
"""Learning-curve extrapolation: what a brief trial predicts of a long one; its curve goes straight on.

The logarithm of the error falls with the logarithm of the training tokens, for each student at its own rate: a sparse
or narrow one starts far behind and gains long, one that stands on a static path starts ahead and gains little. So
curves cross, and the last rung alone ranks them worse than the line through the last two
(`benchmarks/curve_extrapolation.py` measures both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.records.objective import Objective

LONGER = 8
"""Times the longest brief trial, what a graduate is trained for: roughly, and ranks hardly depend on it."""


def fidelity_after(curve: Sequence[tuple[float, float]], n_tokens: float, objective: Objective) -> float:
    """The fidelity expected after `n_tokens` of (tokens, fidelity) at the rungs, at least one.

    It never falls: a rung that is worse than the one before says that the student gains no more.
    """
    last_tokens, last = curve[-1]
    if len(curve) < 2 or n_tokens <= last_tokens:
        return last
    before_tokens, before = curve[-2]
    learnt = math.log(objective.error(last) / objective.error(before))
    if learnt >= 0.0:
        return last
    steps = math.log(n_tokens / last_tokens) / math.log(last_tokens / before_tokens)
    error = max(objective.least_error, objective.error(last) * math.exp(steps * learnt))
    return max(last, objective.at_error(error))
