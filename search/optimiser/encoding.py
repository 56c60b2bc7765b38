# SPDX-License-Identifier: Apache-2.0
"""Encodes points of a search space as vectors with entries from 0 to 1, and generates random and mutated points.

Coordinates have one entry per dimension: for a range the position in it (in its logarithm, if the range is
logarithmic); for a choice of n options the middle of the option's interval of width 1 / n; NaN where a dimension is not
active. Columns are the features between which kernels measure distances: a range has one, which is 0.5 if inactive; a
choice has one for each option (one-hot, scaled so that two options have distance 1), all 0 if inactive.
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

MOST_KNOWN = 10_000  # points in the cache of coordinates
MUTATION_DEVIATIONS = (0.03, 0.1, 0.3)  # standard deviations of a mutation, as shares of a range; drawn for each child


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
        """Coordinates (dimensions) of a point, NaN where it has no value; other names are ignored, values clipped.

        The array is read-only and cached, because the same points are encoded repeatedly.
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
        """The point of these coordinates (dimensions), without the dimensions that are NaN."""
        return {
            name: _value(distribution, float(coordinate))
            for name, distribution, coordinate in zip(self.names, self._distributions, coordinates, strict=True)
            if not math.isnan(coordinate)
        }

    def rounded(self, coordinates: Array) -> Array:
        """Coordinates (n x dimensions, none NaN) rounded to those of the nearest values that the dimensions have."""
        found = coordinates.copy()
        for i, distribution in enumerate(self._distributions):
            discrete = _discrete_coordinates(distribution)
            if discrete is not None:
                coordinates_of_values, edges = discrete
                found[:, i] = coordinates_of_values[np.searchsorted(edges, coordinates[:, i])]
        return found

    def columns(self, coordinates: Array) -> Array:
        """Features (n x columns) from coordinates (n x dimensions)."""
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
        """Coordinates of random points (n x dimensions) with every dimension active."""
        return generator.random((n, len(self.names)))

    def mutated(self, generator: np.random.Generator, parents: Array, n: int) -> Array:
        """Coordinates of children (n x dimensions) of parents (m x dimensions), by crossover and mutation.

        Three of four children copy one parent, the others cross two. Then one or a few dimensions mutate: a range by a
        normal step, a choice to a random option. Dimensions that were not active become random.
        """
        n_dimensions = len(self.names)
        children = parents[generator.integers(len(parents), size=n)]
        others = parents[generator.integers(len(parents), size=n)]
        crossed = (generator.random(n) < 0.25)[:, None] & (generator.random((n, n_dimensions)) < 0.5)
        children = np.where(crossed & ~np.isnan(others), others, children)
        rate = generator.choice([1.0, 2.0, 4.0], size=n)[:, None] / n_dimensions
        changed = generator.random((n, n_dimensions)) < rate
        changed[np.arange(n), generator.integers(n_dimensions, size=n)] = True
        deviation = generator.choice(MUTATION_DEVIATIONS, size=n)[:, None]
        stepped = _reflect(children + deviation * generator.standard_normal((n, n_dimensions)))
        anywhere = generator.random((n, n_dimensions))
        is_choice = np.array([isinstance(each, CategoricalDistribution) for each in self._distributions])
        children = np.where(changed, np.where(is_choice, anywhere, stepped), children)
        return np.asarray(np.where(np.isnan(children), anywhere, children))


class ModelInputs:
    """Features of the model: the columns of a point in a cube, and its scaled cost as one more.

    The error depends mostly on a student's size, which follows from depth, width and units together, not from one
    dimension. The cost measures the size, and is known for every point before training.
    """

    def __init__(self, cube: UnitCube, coordinates: Array, costs: Array) -> None:
        """Scales costs by the range of `costs` (n), those of random points (n x dimensions); n may be 0."""
        self.cube = cube
        """The cube of the points."""
        self._low, high = (float(np.min(costs)), float(np.max(costs))) if len(costs) else (0.0, 0.0)
        self._range = high - self._low or 1.0
        self.groups = np.append(cube.groups, len(cube.names))
        """The dimension that each column belongs to; the cost is one more."""
        self.random_columns = self.columns(coordinates, costs)
        """Features of the random points (n x columns)."""
        self.random_costs = costs

    def columns(self, coordinates: Array, costs: Array) -> Array:
        """Features (n x columns) from coordinates (n x dimensions) and costs (n); an unknown cost (NaN) becomes 0.5."""
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
def _discrete_coordinates(distribution: BaseDistribution) -> tuple[Array, Array] | None:
    """Coordinates of the values (n) and of the boundaries between them (n - 1); None for a continuous range."""
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
    """Ends of the range, or of its logarithm; half a step further out, so that all steps are equally likely."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.step is not None:
        low, high = low - 0.5 * distribution.step, high + 0.5 * distribution.step
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _reflect(values: Array) -> Array:
    """Values outside 0 to 1 are reflected at the boundary."""
    values = np.abs(values)
    return np.asarray(np.clip(np.where(values > 1.0, 2.0 - values, values), 0.0, 1.0))
