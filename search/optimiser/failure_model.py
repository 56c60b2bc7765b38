# SPDX-License-Identifier: Apache-2.0
"""Where trials fail: those that diverge, run out of memory, hang or crash, as a function of the point.

The log odds of failing are a Gaussian process over the columns of the unit cube: a base, a slope along every column
(failures grow along a few, such as a learning rate or a width) and what is only so near by. Its most probable values
are found by Newton's method (Rasmussen and Williams 2006, algorithm 3.1); few failures are assumed where none were
seen. One unlucky trial among good neighbours moves it little.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

Array = npt.NDArray[np.float64]

BASE = -4.0  # log odds before anything has failed: 2 in 100
BASE_DEVIATION = 2.0
SLOPE_DEVIATION = 6.0  # of the log odds from one end of a column to the other
NEAR_DEVIATION = 4.0
NEAR_LENGTH = 0.2  # times the root of the number of columns
MOST_TRIALS = 300  # all that failed, then the latest others: a fit takes n^3 operations some times
_MOST_STEPS = 30
_ENOUGH = 1e-6


class FailureModel:
    """The probability that a trial of a point fails."""

    def __init__(self, columns: Array, failed: npt.NDArray[np.bool_]) -> None:
        """From trials (n x columns, each within 0 to 1) in their order, and whether they failed (n)."""
        order = np.lexsort((-np.arange(len(failed)), ~failed))[:MOST_TRIALS]
        self._columns, self._failed = columns[order], failed[order].astype(np.float64)
        self._pull: Array | None = None
        if failed.any():
            self._pull = self._failed - expit(_most_probable(_covariance(self._columns, self._columns), self._failed))

    def probability(self, columns: Array) -> Array:
        """Of failing, at points (n x columns); 0 as long as nothing has failed."""
        if self._pull is None:
            return np.zeros(len(columns))
        return np.asarray(expit(BASE + _covariance(columns, self._columns) @ self._pull))


def _covariance(first: Array, second: Array) -> Array:
    """Of log odds (n x m)."""
    a, b = first - 0.5, second - 0.5
    products = a @ b.T
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * products
    near = np.exp(-np.maximum(squared, 0.0) / (2.0 * NEAR_LENGTH**2 * max(1, first.shape[1])))
    return np.asarray(BASE_DEVIATION**2 + SLOPE_DEVIATION**2 * products + NEAR_DEVIATION**2 * near)


def _most_probable(covariance: Array, failed: Array) -> Array:
    """Log odds (n) of the largest posterior density."""
    odds = np.full(len(failed), BASE)
    for _ in range(_MOST_STEPS):
        probability = expit(odds)
        root = np.sqrt(probability * (1.0 - probability))
        wanted = root**2 * (odds - BASE) + failed - probability
        factor = cho_factor(np.eye(len(failed)) + root[:, None] * covariance * root, lower=True)
        pull = wanted - root * cho_solve(factor, root * (covariance @ wanted))
        step = BASE + covariance @ pull - odds
        odds = odds + step * min(1.0, 4.0 / max(float(np.max(np.abs(step))), 1e-12))  # as far as the curvature holds
        if float(np.max(np.abs(step))) < _ENOUGH:
            break
    return np.asarray(odds)
