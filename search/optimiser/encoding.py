# SPDX-License-Identifier: Apache-2.0
"""Points of a search space as rows of numbers from 0 to 1, and new points near and far from old ones.

A coordinate is one number per dimension: for a range the share of it (of its logarithm, where the range is
logarithmic), for a choice the middle of its option's equal part, NaN where a dimension is not active. Columns are what
distances are taken of: a range has one, in which an inactive dimension lies in the middle; a choice has one for each
option, so that two options differ by 1 and an inactive dimension from each of them by less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Array = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.intp]

MOST_KNOWN = 10_000  # points whose coordinates are remembered
NEAR_DEVIATIONS = (0.03, 0.1, 0.3)  # of a mutation, in shares of a range; which one is drawn by point


class UnitCube:
    """The dimensions of a space by name, from Optuna's distributions."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Raises TypeError for a distribution that is neither a range nor a choice."""
        for name, distribution in distributions.items():
            if not isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution):
                raise TypeError(f"{name} must be a range or a choice, got {distribution}")
        self.names = tuple(sorted(distributions))
        self._distributions = [distributions[name] for name in self.names]
        widths = [_n_columns(distribution) for distribution in self._distributions]
        self.groups: Indexes = np.repeat(np.arange(len(widths)), widths)
        self._known: dict[tuple[tuple[str, Any], ...], Array] = {}

    def coordinates(self, point: Mapping[str, Any]) -> Array:
        """Of a possibly partial point (dimensions); other names of it do not matter, values outside are moved in.

        Read-only, and remembered: whoever looks at a study asks for the same points again and again.
        """
        key = tuple(point.items())
        if key not in self._known:
            found = np.array(
                [
                    _coordinate(distribution, point[name]) if name in point else math.nan
                    for name, distribution in zip(self.names, self._distributions, strict=True)
                ]
            )
            found.setflags(write=False)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return self._known[key]

    def point(self, coordinates: Sequence[float] | Array) -> dict[str, Any]:
        """The point of coordinates (dimensions) without those that are NaN."""
        return {
            name: _value(distribution, float(coordinate))
            for name, distribution, coordinate in zip(self.names, self._distributions, coordinates, strict=True)
            if not math.isnan(coordinate)
        }

    def snapped(self, coordinates: Array) -> Array:
        """Coordinates of the points (n x dimensions) that given ones, none of them NaN, stand for."""
        found = coordinates.copy()
        for i, distribution in enumerate(self._distributions):
            marks = _marks(distribution)
            if marks is not None:
                coordinates_of_values, edges = marks
                found[:, i] = coordinates_of_values[np.searchsorted(edges, coordinates[:, i])]
        return found

    def columns(self, coordinates: Array) -> Array:
        """What distances are taken of (n x columns), from coordinates (n x dimensions)."""
        found = []
        for i, distribution in enumerate(self._distributions):
            column = coordinates[:, i]
            if isinstance(distribution, CategoricalDistribution):
                n_options = len(distribution.choices)
                option = np.floor(column * n_options)
                found += [np.where(option == k, math.sqrt(0.5), 0.0) for k in range(n_options)]
            else:
                found.append(np.where(np.isnan(column), 0.5, column))
        return np.stack(found, axis=1)

    def random(self, generator: np.random.Generator, n: int) -> Array:
        """Coordinates of points (n x dimensions) with every dimension active."""
        return generator.random((n, len(self.names)))

    def near(self, generator: np.random.Generator, parents: Array, n: int) -> Array:
        """Coordinates of children (n x dimensions) of parents (m x dimensions).

        A child takes the dimensions of one parent, or for one in four of two. Of these one or a few change: a range by
        a step, a choice to any option. What was not active becomes random.
        """
        n_dimensions = len(self.names)
        children = parents[generator.integers(len(parents), size=n)]
        others = parents[generator.integers(len(parents), size=n)]
        crossed = (generator.random(n) < 0.25)[:, None] & (generator.random((n, n_dimensions)) < 0.5)
        children = np.where(crossed & ~np.isnan(others), others, children)
        rate = generator.choice([1.0, 2.0, 4.0], size=n)[:, None] / n_dimensions
        changed = generator.random((n, n_dimensions)) < rate
        changed[np.arange(n), generator.integers(n_dimensions, size=n)] = True
        deviation = generator.choice(NEAR_DEVIATIONS, size=n)[:, None]
        stepped = _reflect(children + deviation * generator.standard_normal((n, n_dimensions)))
        anywhere = generator.random((n, n_dimensions))
        is_choice = np.array([isinstance(each, CategoricalDistribution) for each in self._distributions])
        children = np.where(changed, np.where(is_choice, anywhere, stepped), children)
        return np.asarray(np.where(np.isnan(children), anywhere, children))


class ModelInputs:
    """What the model takes distances of: the columns of a point in a cube, and its cost as one more.

    Depth, width and units make a student large together, and what a point decides mostly follows from that; no
    dimension alone says it. The cost does, and is known of every point before anything is trained.
    """

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


def _n_columns(distribution: BaseDistribution) -> int:
    return len(distribution.choices) if isinstance(distribution, CategoricalDistribution) else 1


def _coordinate(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _limits(distribution)
    number = math.log(value) if distribution.log else float(value)
    return min(1.0, max(0.0, (number - low) / (high - low))) if high > low else 0.5


def _value(distribution: BaseDistribution, coordinate: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        n_options = len(distribution.choices)
        return distribution.choices[min(n_options - 1, int(coordinate * n_options))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _limits(distribution)
    number = low + coordinate * (high - low)
    number = math.exp(number) if distribution.log else number
    if distribution.step is not None:
        number = distribution.low + distribution.step * round((number - distribution.low) / distribution.step)
    number = min(distribution.high, max(distribution.low, number))
    return round(number) if isinstance(distribution, IntDistribution) else number


@lru_cache(maxsize=1000)
def _marks(distribution: BaseDistribution) -> tuple[Array, Array] | None:
    """Coordinates of the values (n) and of where one value ends (n - 1); None for a continuous range."""
    if isinstance(distribution, CategoricalDistribution):
        n = len(distribution.choices)
        return (np.arange(n) + 0.5) / n, np.arange(1, n) / n
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        return None
    n = round((distribution.high - distribution.low) / distribution.step) + 1
    values = [distribution.low + k * distribution.step for k in range(n)]
    halfway = [value + distribution.step / 2.0 for value in values[:-1]]
    rough, edges = (np.array([_coordinate(distribution, each) for each in part]) for part in (values, halfway))
    return np.array([_coordinate(distribution, _value(distribution, each)) for each in rough.tolist()]), edges


def _limits(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Ends of the range, half a step further out for integers so that all of them are equally likely."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.step is not None:
        low, high = low - 0.5 * distribution.step, high + 0.5 * distribution.step
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _reflect(values: Array) -> Array:
    """Values beyond 0 or 1 come back from it."""
    values = np.abs(values)
    return np.asarray(np.clip(np.where(values > 1.0, 2.0 - values, values), 0.0, 1.0))
