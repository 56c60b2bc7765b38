# SPDX-License-Identifier: Apache-2.0
"""Probability that a trial fails (diverges, runs out of memory, hangs or crashes), as a function of the point.

Gaussian process classification with a logistic likelihood. The prior of the log odds, over the columns of the unit
cube, has a low mean, a constant, a linear kernel (failures become more frequent along a few columns, such as a learning
rate or a width) and a squared-exponential kernel for local effects. The mode of the posterior is found by Newton's
method (Rasmussen and Williams 2006, algorithm 3.1). One failed trial among successful neighbours changes it little.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

Array = npt.NDArray[np.float64]

MEAN = -4.0  # prior mean of the log odds: 2 in 100
MEAN_DEVIATION = 2.0
SLOPE_DEVIATION = 6.0  # of the log odds from one end of a column to the other
LOCAL_DEVIATION = 4.0
LOCAL_LENGTH = 0.2  # length scale, times the root of the number of columns
MOST_TRIALS = 300  # all that failed, then the latest others: a step of the fit takes n^3 operations
_MOST_STEPS = 30
_TOLERANCE = 1e-6


class FailureModel:
    """The probability that a trial of a point fails."""

    def __init__(self, columns: Array, failed: npt.NDArray[np.bool_]) -> None:
        """Fits the model to trials (n x columns, each within 0 to 1), oldest first, and whether they failed (n)."""
        order = np.lexsort((-np.arange(len(failed)), ~failed))[:MOST_TRIALS]
        self._columns, self._failed = columns[order], failed[order].astype(np.float64)
        self._gradient: Array | None = None
        if failed.any():
            mode = _posterior_mode(_covariance(self._columns, self._columns), self._failed)
            self._gradient = self._failed - expit(mode)

    def probability(self, columns: Array) -> Array:
        """Probabilities of failing (n) at points (n x columns); 0 if no trial has failed."""
        if self._gradient is None:
            return np.zeros(len(columns))
        return np.asarray(expit(MEAN + _covariance(columns, self._columns) @ self._gradient))


def _covariance(first: Array, second: Array) -> Array:
    """Prior covariance of log odds (n x m)."""
    a, b = first - 0.5, second - 0.5
    products = a @ b.T
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * products
    local = np.exp(-np.maximum(squared, 0.0) / (2.0 * LOCAL_LENGTH**2 * max(1, first.shape[1])))
    return np.asarray(MEAN_DEVIATION**2 + SLOPE_DEVIATION**2 * products + LOCAL_DEVIATION**2 * local)


def _posterior_mode(covariance: Array, failed: Array) -> Array:
    """The log odds (n) at the mode of the posterior."""
    odds = np.full(len(failed), MEAN)
    for _ in range(_MOST_STEPS):
        probability = expit(odds)
        root = np.sqrt(probability * (1.0 - probability))
        wanted = root**2 * (odds - MEAN) + failed - probability
        factor = cho_factor(np.eye(len(failed)) + root[:, None] * covariance * root, lower=True)
        gradient = wanted - root * cho_solve(factor, root * (covariance @ wanted))
        step = MEAN + covariance @ gradient - odds
        odds = odds + step * min(1.0, 4.0 / max(float(np.max(np.abs(step))), 1e-12))  # at most 4: the curvature changes
        if float(np.max(np.abs(step))) < _TOLERANCE:
            break
    return np.asarray(odds)
