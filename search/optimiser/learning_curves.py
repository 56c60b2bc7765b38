# SPDX-License-Identifier: Apache-2.0
"""A Gaussian process model of all learning curves of a study, complete or not.

The log error of trial i with point x, when a share u of the (logarithmic) budget remains, is the sum of

    level             constant, the same for all trials
    drift(u)          the improvement that is common to all trials: a random walk in u that is 0 at u = 0
    point(x)          Matern 5/2, one length scale for each dimension: the final error as a function of the point
    shape(x, u)       the same kernel times a random walk in u: improvement that depends on the point
    offset            for each trial: the deviation of its final error from the function of the point
    walk(u)           for each trial: a random walk

All walks are 0 at u = 0, so the final log error is level + point(x) + offset. A complete trial measures it; a pruned or
running one is informative as far as its last rung predicts the final error, which is estimated from complete trials. No
parametric form of curves is assumed, and all trials are used. After the freeze-thaw model of Swersky, Snoek and Adams
(2014), with random walks in place of exponentials.

Hyperparameters maximise the posterior density, under the priors below, for values of unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.intp]

LEVEL_VARIANCE = 9.0  # wide prior of level and drift: 3 standard deviations of the values
NOISE_VARIANCE = 1e-5  # of a measurement; keeps the Cholesky factorisation stable
LENGTH_SCALE, LENGTH_FREEDOM = 0.5, 4.0  # Student's t prior of log lengths: avoids extreme lengths while trials are few
LEAST_VARIANCE = 1e-10  # lower bound of a posterior variance, against rounding
LEAST_OFFSET = 0.03  # lower bound of offset and walk, so that deviations are attributed to the trial, not to noise
MOST_FITTED = 320  # observations in a fit of the hyperparameters, each step of which takes n^3 operations
_SQRT5 = np.sqrt(5.0)


@dataclass(frozen=True, slots=True)
class Curves:
    """Learning curves as arrays."""

    points: Array
    """Features of the points (trials x columns), each within 0 to 1."""
    groups: Indexes
    """Dimension of each column (columns); the options of a choice share one."""
    trial: Indexes
    """Row of `points` for each observation (observations)."""
    remaining: Array
    """Share of the budget that remained at each observation (observations), 0 to 1."""
    log_errors: Array
    """Measured log errors (observations)."""

    def n_common_first(self, other: Curves) -> int:
        """Number of leading observations with the same trial, point and remaining share in both."""
        n = min(len(self.trial), len(other.trial))
        same = self.remaining[:n] == other.remaining[:n]
        same &= np.all(self.points[self.trial[:n]] == other.points[other.trial[:n]], axis=1)
        same &= self.trial[:n] == other.trial[:n]
        return n if bool(same.all()) else int(np.argmin(same))

    def with_final(self, points: Array, trials: Sequence[int], log_errors: Sequence[float]) -> Curves:
        """These curves with more trials at `points`, and with final log errors for some `trials`, old or new."""
        return Curves(
            points=np.concatenate([self.points, points]),
            groups=self.groups,
            trial=np.concatenate([self.trial, np.asarray(trials, np.intp)]),
            remaining=np.concatenate([self.remaining, np.zeros(len(trials))]),
            log_errors=np.concatenate([self.log_errors, np.asarray(log_errors, np.float64)]),
        )


@dataclass(frozen=True, slots=True)
class Scales:
    """Hyperparameters: length scales and standard deviations of the parts, for values of unit variance."""

    lengths: Array
    """Length scale of each dimension (dimensions)."""
    point: float
    """Standard deviation of `point`."""
    shape: float
    """Standard deviation of `shape` when the whole budget remains."""
    offset: float
    """Standard deviation of a trial's `offset`."""
    walk: float
    """Standard deviation of a trial's `walk` when the whole budget remains."""

    @classmethod
    def prior(cls, n_dimensions: int) -> Scales:
        """The hyperparameters at the mode of the prior."""
        return cls(np.full(n_dimensions, 0.5 * np.sqrt(n_dimensions)), 1.0, 0.5, 0.1, 0.25)

    @classmethod
    def of_logarithms(cls, values: Array) -> Scales:
        """The inverse of `logarithms`."""
        point, shape, offset, walk = np.exp(values[-4:])
        return cls(np.exp(values[:-4]), float(point), float(shape), float(offset), float(walk))

    def logarithms(self) -> Array:
        """Logarithms of the lengths, then of the four deviations (dimensions + 4)."""
        return np.log(np.array([*self.lengths, self.point, self.shape, self.offset, self.walk], np.float64))


class CurveModel:
    """The posterior of log errors given curves and hyperparameters."""

    def __init__(self, curves: Curves, scales: Scales, *, before: CurveModel | None = None) -> None:
        """Factorises the covariance of n observations, in n^3 / 3 operations.

        If `before` is a model with the same `scales` object, its Cholesky factor is extended: n^2 operations for each
        observation after the leading ones that both have in common.
        """
        self._curves, self._scales = curves, scales
        self._centre, self._unit = _standard(curves.log_errors)
        values = (curves.log_errors - self._centre) / self._unit
        self._matern, _ = _matern(_distances(curves.points, curves.points, curves.groups, scales.lengths))
        n_known = 0 if before is None or before._scales is not scales else curves.n_common_first(before._curves)
        known = np.empty((0, 0)) if before is None else before._factor[:n_known, :n_known]
        new = _covariance(curves, scales, self._matern, first=n_known)
        self._factor: Array = _extended(known, new)
        self._weights = cho_solve((self._factor, True), values, check_finite=False)

    def of_new(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (n each) of level + point(x) at points (n x columns), without a trial's offset.

        The final log error of a trial there has the same mean; its offset has the standard deviation `trial_noise`.
        """
        return self._posterior(self._shared_with_new(points), offset_variance=0.0)

    @property
    def trial_noise(self) -> float:
        """Standard deviation of a trial's offset."""
        return self._unit * self._scales.offset

    def means_of_new(self, points: Array) -> Array:
        """The means of `of_new`, in n operations each instead of n^2."""
        return self._means(self._shared_with_new(points))

    def of_trials(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the final log error of every trial of the curves."""
        return self._posterior(self._shared_with_trials(), offset_variance=self._scales.offset**2)

    def means_of_trials(self) -> Array:
        """The means of `of_trials`, in n operations each instead of n^2."""
        return self._means(self._shared_with_trials())

    def draws(self, points: Array, generator: np.random.Generator, n: int) -> Array:
        """Joint posterior draws (n x points) of level + point(x) at points (points x columns); a draw is a function."""
        scales = self._scales
        within, _ = _matern(_distances(points, points, self._curves.groups, scales.lengths))
        shared = self._shared_with_new(points)
        explained = solve_triangular(self._factor, shared, lower=True, check_finite=False)
        covariance = LEVEL_VARIANCE + scales.point**2 * within - explained.T @ explained
        covariance[np.diag_indices_from(covariance)] += 1e-6
        normal = generator.standard_normal((n, len(points)))
        values = shared.T @ self._weights + normal @ np.linalg.cholesky(covariance).T
        return np.asarray(self._centre + self._unit * values)

    def leave_one_out(self) -> Array:
        """Predictions (trials) of every trial's last log error from all other trials."""
        inverse = cho_solve((self._factor, True), np.eye(len(self._weights)), check_finite=False)
        predicted = np.empty(len(self._curves.points))
        for i in range(len(predicted)):
            own = np.flatnonzero(self._curves.trial == i)
            last = own[np.argmin(self._curves.remaining[own])]
            residual = np.linalg.solve(inverse[np.ix_(own, own)], self._weights[own])
            predicted[i] = self._curves.log_errors[last] - self._unit * residual[own == last][0]
        return predicted

    def _shared_with_new(self, points: Array) -> Array:
        """Covariances (observations x n) of the observations with final log errors at points."""
        curves, scales = self._curves, self._scales
        matern, _ = _matern(_distances(curves.points, points, curves.groups, scales.lengths))
        return np.asarray(LEVEL_VARIANCE + scales.point**2 * matern[curves.trial])

    def _shared_with_trials(self) -> Array:
        """Covariances (observations x trials) of the observations with the final log errors of all trials."""
        curves, scales = self._curves, self._scales
        shared = LEVEL_VARIANCE + scales.point**2 * self._matern[curves.trial]
        shared[np.arange(len(curves.trial)), curves.trial] += scales.offset**2
        return np.asarray(shared)

    def _means(self, shared: Array) -> Array:
        return np.asarray(self._centre + self._unit * (shared.T @ self._weights))

    def _posterior(self, shared: Array, *, offset_variance: float) -> tuple[Array, Array]:
        """Means and standard deviations (n each), from covariances (observations x n) with the predicted quantities."""
        explained = solve_triangular(self._factor, shared, lower=True, check_finite=False)
        before = LEVEL_VARIANCE + self._scales.point**2 + offset_variance
        variance = np.maximum(before - np.einsum("ij,ij->j", explained, explained), LEAST_VARIANCE)
        return self._means(shared), self._unit * np.sqrt(variance)


def fit_scales(curves: Curves) -> Scales:
    """The hyperparameters that maximise the posterior density, deterministically."""
    curves = _subset(curves)
    start = Scales.prior(int(curves.groups.max()) + 1).logarithms()
    low, high = start - 4.0, start + 4.0
    low[[-2, -1]] = np.log(LEAST_OFFSET)
    found = minimize(
        lambda logarithms: _objective(curves, logarithms, start),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": 40, "maxfun": 60},
    )
    return Scales.of_logarithms(np.round(np.asarray(found.x), 3))  # so that results do not depend on rounding errors


def _objective(curves: Curves, logarithms: Array, centre: Array) -> tuple[float, Array]:
    """Minus the log posterior density of hyperparameters, and its gradient, by their logarithms.

    The prior is centred at `centre`: Student's t for the logarithms of the lengths, normal for the others.
    """
    scales = Scales.of_logarithms(logarithms)
    centre_y, unit = _standard(curves.log_errors)
    values = (curves.log_errors - centre_y) / unit
    squares = _squares(curves.points, curves.groups)
    matern, slope = _matern(np.tensordot(scales.lengths**-2.0, squares, axes=1))
    walk = _walk(curves.remaining, curves.remaining)
    same = curves.trial[:, None] == curves.trial
    factor = cho_factor(_covariance(curves, scales, matern), lower=True, check_finite=False)
    inverse = cho_solve(factor, np.eye(len(values)), check_finite=False)
    weights = inverse @ values
    log_density = -0.5 * values @ weights - np.sum(np.log(np.diagonal(factor[0])))
    outer = inverse - np.outer(weights, weights)
    expanded = matern[np.ix_(curves.trial, curves.trial)]
    by_trial = _sum_by_trial(outer * (scales.point**2 + scales.shape**2 * walk), curves.trial, len(curves.points))
    gradient = np.array(
        [
            *(0.5 * np.tensordot(squares, by_trial * slope, axes=2) * scales.lengths**-2.0),
            scales.point**2 * np.sum(outer * expanded),
            scales.shape**2 * np.sum(outer * expanded * walk),
            scales.offset**2 * np.sum(outer * same),
            scales.walk**2 * np.sum(outer * same * walk),
        ]
    )
    away, parts = (logarithms - centre)[:-4], (logarithms - centre)[-4:]
    spread = LENGTH_FREEDOM * LENGTH_SCALE**2 + away**2
    improbable = 0.5 * (LENGTH_FREEDOM + 1.0) * np.sum(np.log(spread)) + 0.5 * parts @ parts
    return float(improbable - log_density), gradient + np.append((LENGTH_FREEDOM + 1.0) * away / spread, parts)


def _extended(factor: Array, covariance: Array) -> Array:
    """The lower Cholesky factor (n x n) of a matrix, from the factor of its leading block and its other rows."""
    n_known, n = len(factor), len(factor) + len(covariance)
    if n_known == n:
        return factor
    if not n_known:
        return np.asarray(np.linalg.cholesky(covariance))
    whole = np.zeros((n, n))
    whole[:n_known, :n_known] = factor
    across = solve_triangular(factor, covariance[:, :n_known].T, lower=True, check_finite=False)
    whole[n_known:, :n_known] = across.T
    whole[n_known:, n_known:] = np.linalg.cholesky(covariance[:, n_known:] - across.T @ across)
    return whole


def _covariance(curves: Curves, scales: Scales, matern: Array, *, first: int = 0) -> Array:
    """Covariance, with noise, of the observations from the `first` on with all observations."""
    trial, remaining = curves.trial[first:], curves.remaining[first:]
    walk = _walk(remaining, curves.remaining)
    covariance = scales.shape**2 * walk  # in place from here on, to save memory
    covariance += scales.point**2
    covariance *= matern[np.ix_(trial, curves.trial)]
    of_one_trial = np.nonzero(trial[:, None] == curves.trial)
    covariance[of_one_trial] += scales.offset**2 + scales.walk**2 * walk[of_one_trial]
    own = np.arange(len(trial))
    covariance[own, first + own] += NOISE_VARIANCE
    walk += 1.0
    walk *= LEVEL_VARIANCE
    covariance += walk
    return np.asarray(covariance)


def _walk(first: Array, second: Array) -> Array:
    """Covariance (n x m) of a random walk that is 0 where nothing remains, at remaining shares (n) and (m)."""
    return np.minimum(first[:, None], second)


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matern 5/2 of squared scaled distances, and -2 times its derivative by them."""
    distance = _SQRT5 * np.sqrt(squared)
    decay = np.exp(-distance)
    return (1.0 + distance + (5.0 / 3.0) * squared) * decay, (5.0 / 3.0) * (1.0 + distance) * decay


def _squares(points: Array, groups: Indexes) -> Array:
    """Squared differences by dimension (dimensions x n x n)."""
    squares = np.zeros((int(groups.max()) + 1, len(points), len(points)))
    for column, group in enumerate(groups):
        squares[group] += (points[:, None, column] - points[:, column]) ** 2
    return squares


def _distances(first: Array, second: Array, groups: Indexes, lengths: Array) -> Array:
    """Squared distances (n x m), scaled by the lengths."""
    a, b = first / lengths[groups], second / lengths[groups]
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def _standard(values: Array) -> tuple[float, float]:
    """Mean and standard deviation of values; the deviation is 1 if all are equal."""
    deviation = float(np.std(values))
    return float(np.mean(values)), deviation if deviation > 1e-9 else 1.0


def _sum_by_trial(matrix: Array, trial: Indexes, n_trials: int) -> Array:
    """Sums (trials x trials) of a matrix (observations x observations) over the observations of each trial."""
    belongs = (trial[:, None] == np.arange(n_trials)).astype(np.float64)
    return np.asarray(belongs.T @ matrix @ belongs)


def _subset(curves: Curves) -> Curves:
    """Curves with at most `MOST_FITTED` observations: trials that got furthest come first, among equals the latest."""
    if len(curves.trial) <= MOST_FITTED:
        return curves
    nearest = np.full(len(curves.points), np.inf)
    np.minimum.at(nearest, curves.trial, curves.remaining)
    order = np.lexsort((-np.arange(len(nearest)), nearest))
    sizes = np.bincount(curves.trial, minlength=len(nearest))[order]
    kept = np.sort(order[np.cumsum(sizes) <= MOST_FITTED])
    chosen = np.isin(curves.trial, kept)
    return Curves(
        points=curves.points[kept],
        groups=curves.groups,
        trial=np.searchsorted(kept, curves.trial[chosen]),
        remaining=curves.remaining[chosen],
        log_errors=curves.log_errors[chosen],
    )
