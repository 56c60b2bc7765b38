# SPDX-License-Identifier: Apache-2.0
"""Sobol indices: how much of the variance of fidelity and of latency each dimension of a space explains.

Points are uniform over the space and independent between dimensions; a dimension that is not active at a point has no
effect there, so conditions need no special treatment. Of the variance of a function over these points,

    first_order    is the expected reduction once this dimension is known, as a share
    total_effect   is the expected remainder while all but this dimension are known, as a share

and the difference of the two is the dimension's interaction with others. Estimators: Saltelli et al. (2010) and Jansen
(1999), on scrambled Sobol points. Invalid points are left out in pairs.

The latency function is known. The fidelity function is not: functions are drawn from the surrogate's posterior, and
each has its own indices (Oakley and O'Hagan 2004; Marrel et al. 2009). The interval holds 90% of them, with the points
of each bootstrapped, so it covers both uncertainties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

Array = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

INTERVAL = 0.9
N_RESAMPLES = 200
MIN_POINTS = 32  # valid pairs of points; with fewer no indices are estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The Sobol indices of one dimension."""

    name: str
    """The dimension's name."""
    first_order: float
    """First-order Sobol index, 0 to 1."""
    total_effect: float
    """Total-effect Sobol index, 0 to 1."""
    low: float
    """Lower end of the 90% interval of `total_effect`."""
    high: float
    """Upper end of the 90% interval of `total_effect`."""


@dataclass(frozen=True, slots=True)
class Design:
    """The points of Saltelli's design at which a function is evaluated."""

    rows: Array
    """Coordinates [(dimensions + 2) * n, dimensions]: matrix A, matrix B, and for each dimension A with that column
    of B."""
    n: int
    """Rows of A and of B."""

    @classmethod
    def of(cls, n_dimensions: int, *, n: int, seed: int = 0) -> Design:
        """The design of scrambled Sobol points; `n` must be a power of two."""
        drawn = qmc.Sobol(2 * n_dimensions, scramble=True, rng=seed).random(n)
        first, second = drawn[:, :n_dimensions], drawn[:, n_dimensions:]
        mixed = np.repeat(first[None], n_dimensions, axis=0)
        for i in range(n_dimensions):
            mixed[i, :, i] = second[:, i]
        return cls(np.concatenate([first, second, mixed.reshape(-1, n_dimensions)]), n)


def importances(
    design: Design, names: Sequence[str], values: Array, usable: Booleans, *, seed: int = 0
) -> tuple[Importance, ...] | None:
    """The indices of all dimensions, the largest total effect first, from values [functions, rows] of a design.

    Rows that are not `usable` [rows] are ignored. None if too few are usable, or if a function is constant.
    """
    n, n_dimensions = design.n, len(names)
    values = values.reshape(len(values), n_dimensions + 2, n)
    usable = usable.reshape(n_dimensions + 2, n)
    if min(np.sum(usable[0] & usable[1] & row) for row in usable[2:]) < MIN_POINTS:
        return None
    everything = np.arange(n)
    shares = [_sobol_indices(each, usable, everything) for each in values]
    if any(each is None for each in shares):
        return None
    generator = np.random.default_rng(seed)
    resampled = []
    for k in range(max(N_RESAMPLES, len(values))):
        found = _sobol_indices(values[k % len(values)], usable, generator.integers(n, size=n))
        if found is not None:
            resampled.append(found[1])
    first_order = np.median([each[0] for each in shares if each is not None], axis=0)
    total = np.median([each[1] for each in shares if each is not None], axis=0)
    low, high = np.quantile(resampled, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    found_all = [
        Importance(
            name=name,
            first_order=float(np.clip(first_order[i], 0.0, min(1.0, total[i]))),
            total_effect=float(min(1.0, total[i])),
            low=float(min(low[i], total[i], 1.0)),
            high=float(min(max(high[i], total[i]), 1.0)),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(found_all, key=lambda each: (-each.total_effect, each.name)))


def evaluate(rows: Array, function: Callable[[Array], float | None]) -> tuple[Array, Booleans]:
    """Values [1, rows] of a function of one row, and the mask [rows] of those that are not None."""
    found = [function(row) for row in rows]
    usable = np.array([value is not None for value in found])
    return np.array([[0.0 if value is None else value for value in found]]), usable


def _sobol_indices(values: Array, usable: Booleans, rows: npt.NDArray[np.intp]) -> tuple[Array, Array] | None:
    """(first-order, total-effect) indices [dimensions] of one function at `rows`; None if it is constant."""
    first, second, mixed = values[0, rows], values[1, rows], values[2:, rows]
    has_first, has_second, has_mixed = usable[0, rows], usable[1, rows], usable[2:, rows]
    known = np.concatenate([first[has_first], second[has_second]])
    if len(known) < 2 or not np.all(np.any(has_first & has_second & has_mixed, axis=1)):
        return None
    variance = float(np.var(known))
    if variance < 1e-18:
        return None
    first, second, mixed = first - known.mean(), second - known.mean(), mixed - known.mean()
    pairs = has_first & has_mixed
    triples = pairs & has_second
    total = np.sum(pairs * (mixed - first) ** 2, axis=1) / (2.0 * variance * np.sum(pairs, axis=1))
    first_order = np.sum(triples * second * (mixed - first), axis=1) / (variance * np.sum(triples, axis=1))
    return np.asarray(first_order), np.asarray(total)
