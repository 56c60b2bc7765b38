# SPDX-License-Identifier: Apache-2.0
"""Learning-curve extrapolation: the fidelity after longer training, predicted from the last two rungs of a trial.

The log error falls about linearly with the log of the training tokens (a power law), for each student at its own rate:
a sparse or narrow student starts with a large error and improves for long, a student with a static path starts with a
small error and improves little. So learning curves cross, and the last rung alone ranks students worse than the line
through the last two rungs (`benchmarks/curve_extrapolation.py` measures both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.records.objective import Objective

GRADUATION_FACTOR = 8
"""Training tokens of a graduate, as a multiple of the longest trial's: approximate, ranks hardly depend on it."""


def fidelity_after(curve: Sequence[tuple[float, float]], n_tokens: float, objective: Objective) -> float:
    """The fidelity that is predicted after `n_tokens` training tokens.

    `curve` holds (training tokens, fidelity) for each rung, at least one. The prediction is never below the last rung's
    fidelity: if the last rung is worse than the one before, no further gain is predicted.
    """
    last_tokens, last = curve[-1]
    if len(curve) < 2 or n_tokens <= last_tokens:
        return last
    before_tokens, before = curve[-2]
    log_error_change = math.log(objective.error(last) / objective.error(before))
    if log_error_change >= 0.0:
        return last
    n_steps = math.log(n_tokens / last_tokens) / math.log(last_tokens / before_tokens)
    error = max(objective.least_error, objective.error(last) * math.exp(n_steps * log_error_change))
    return max(last, objective.at_error(error))
