# SPDX-License-Identifier: Apache-2.0
"""Sobol indices: how much of the variance of fidelity and of latency each dimension of a space explains.

Points are uniform over the space, every dimension independently of the others; one that is not active at a point does
nothing there, so conditions need no special treatment. Of the variance of a function over these points,

    first_order    is the share that is gone, in the mean, once this dimension is known
    total_effect   is the share that is left, in the mean, while all but this dimension are known

and the difference of the two is the dimension's interaction with others. Estimators: Saltelli et al. (2010) and Jansen
(1999), on scrambled Sobol points. Points that no student can have are left out in pairs.

The function of latencies is known. That of fidelities is not: many functions that the measured trials allow are drawn
from the model of the search, and each has its own shares (Oakley and O'Hagan 2004; Marrel et al. 2009). The interval
holds 90% of them, with the points of each drawn anew, with replacement, so it covers the uncertainty of both.
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
FEWEST_POINTS = 32  # pairs of points that students can have; with fewer nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The Sobol indices of one dimension."""

    name: str
    """Of the dimension."""
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
    """Points at which a function is wanted."""

    rows: Array
    """Coordinates ((dimensions + 2) * n x dimensions): n first ones, n second ones, and n for each dimension, which
    are the first ones but for that dimension of the second ones."""
    n: int
    """First points."""

    @classmethod
    def of(cls, n_dimensions: int, *, n: int, seed: int = 0) -> Design:
        """With `n`, a power of two, first points."""
        drawn = qmc.Sobol(2 * n_dimensions, scramble=True, rng=seed).random(n)
        first, second = drawn[:, :n_dimensions], drawn[:, n_dimensions:]
        mixed = np.repeat(first[None], n_dimensions, axis=0)
        for i in range(n_dimensions):
            mixed[i, :, i] = second[:, i]
        return cls(np.concatenate([first, second, mixed.reshape(-1, n_dimensions)]), n)


def importances(
    design: Design, names: Sequence[str], values: Array, usable: Booleans, *, seed: int = 0
) -> tuple[Importance, ...] | None:
    """The shares of all dimensions, the largest first, from values (functions x rows) at the rows of a design.

    Rows that are not `usable` (rows) do not count, whatever their values. None if too few are, or if nothing varies.
    """
    n, n_dimensions = design.n, len(names)
    values = values.reshape(len(values), n_dimensions + 2, n)
    usable = usable.reshape(n_dimensions + 2, n)
    if min(np.sum(usable[0] & usable[1] & row) for row in usable[2:]) < FEWEST_POINTS:
        return None
    everything = np.arange(n)
    shares = [_shares(each, usable, everything) for each in values]
    if any(each is None for each in shares):
        return None
    generator = np.random.default_rng(seed)
    resampled = []
    for k in range(max(N_RESAMPLES, len(values))):
        found = _shares(values[k % len(values)], usable, generator.integers(n, size=n))
        if found is not None:
            resampled.append(found[1])
    alone = np.median([each[0] for each in shares if each is not None], axis=0)
    total = np.median([each[1] for each in shares if each is not None], axis=0)
    low, high = np.quantile(resampled, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    found_all = [
        Importance(
            name=name,
            first_order=float(np.clip(alone[i], 0.0, min(1.0, total[i]))),
            total_effect=float(min(1.0, total[i])),
            low=float(min(low[i], total[i], 1.0)),
            high=float(min(max(high[i], total[i]), 1.0)),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(found_all, key=lambda each: (-each.total_effect, each.name)))


def evaluate(rows: Array, function: Callable[[Array], float | None]) -> tuple[Array, Booleans]:
    """Values (1 x rows) of a function of one row, and which of them are usable: where it is not None."""
    found = [function(row) for row in rows]
    usable = np.array([value is not None for value in found])
    return np.array([[0.0 if value is None else value for value in found]]), usable


def _shares(values: Array, usable: Booleans, rows: npt.NDArray[np.intp]) -> tuple[Array, Array] | None:
    """(first-order, total-effect) indices by dimension of one function, from some rows; None if it does not vary."""
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
    alone = np.sum(triples * second * (mixed - first), axis=1) / (variance * np.sum(triples, axis=1))
    return np.asarray(alone), np.asarray(total)
