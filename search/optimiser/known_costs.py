# SPDX-License-Identifier: Apache-2.0
"""Cache of the costs of points, which a problem can compute before training."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from search.optimiser.encoding import ModelInputs, UnitCube
from search.optimiser.problem import Problem

Array = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

N_RANDOM = 256  # random points from which the range of costs and the reference point are estimated
MOST_KNOWN = 10_000  # costs in the cache


class KnownCosts:
    """Computes and caches the costs of one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[tuple[str, ...], dict[bytes, tuple[float, Booleans] | None]] = {}
        self._inputs: dict[tuple[str, ...], ModelInputs] = {}

    def of(self, cube: UnitCube, coordinates: Array) -> tuple[Array, Array]:
        """Costs (n) of points (n x dimensions, none NaN), NaN where a point has no cost; and their rounded coordinates.

        Coordinates of dimensions that are not active become NaN.
        """
        rounded = cube.rounded(coordinates)
        decides = np.array([self._problem.decides(name) for name in cube.names], bool)
        keys = np.where(decides, rounded, rounded > 0.0)
        known = self._known.setdefault(cube.names, {})
        if len(known) > MOST_KNOWN:
            known.clear()
        costs = np.full(len(rounded), math.nan)
        for i, key in enumerate(map(np.ndarray.tobytes, keys)):
            if key not in known:
                point = self._problem.active(cube.point(rounded[i]))
                cost = self._problem.cost(point)
                known[key] = None if cost is None else (cost, np.array([name in point for name in cube.names]))
            found = known[key]
            if found is not None:
                costs[i] = found[0]
                rounded[i, ~found[1]] = math.nan
        return costs, rounded

    def inputs(self, cube: UnitCube) -> ModelInputs:
        """The model's features for points of a cube; cached by the names of the dimensions."""
        if cube.names not in self._inputs:
            costs, coordinates = self.of(cube, cube.random(np.random.default_rng(0), N_RANDOM))
            known = ~np.isnan(costs)
            self._inputs[cube.names] = ModelInputs(cube, coordinates[known], costs[known])
        return self._inputs[cube.names]
