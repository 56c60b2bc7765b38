# SPDX-License-Identifier: Apache-2.0
"""What the model of a search's errors takes distances of: the dimensions of a point, and its cost.

Depth, width and units make a student large together, and what a point decides mostly follows from that; no dimension
alone says it. The cost does, and is known of every point before anything is trained.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from search.optimiser.encoding import UnitCube

Array = npt.NDArray[np.float64]


class ModelInputs:
    """Columns of points in a cube, whose costs are known."""

    def __init__(self, cube: UnitCube, coordinates: Array, costs: Array) -> None:
        """Of random points (n x dimensions) and their costs (n), which tell the range; n may be 0."""
        self.cube = cube
        """Whose points they are of."""
        self._low, high = (float(np.min(costs)), float(np.max(costs))) if len(costs) else (0.0, 0.0)
        self._range = high - self._low or 1.0
        self.groups = np.append(cube.groups, len(cube.names))
        """The dimension that each column belongs to; the cost is one more."""
        self.random_columns = self.columns(coordinates, costs)
        """Of the random points."""
        self.random_costs = costs

    def columns(self, coordinates: Array, costs: Array) -> Array:
        """Of points (n x dimensions) and costs (n): n x columns; a cost that is not known (NaN) is a middling one."""
        shares = (np.asarray(costs) - self._low) / self._range
        rows = np.asarray(coordinates).reshape(-1, len(self.cube.names))
        return np.column_stack([self.cube.columns(rows), np.where(np.isnan(shares), 0.5, shares)])
