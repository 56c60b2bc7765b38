# SPDX-License-Identifier: Apache-2.0
"""Expected hypervolume improvement of a point with known cost and log-normal error, in closed form.

Both objectives are minimised. The cost is known, the logarithm of the error is normally distributed. A point with cost
c and error y adds to the dominated area, up to the reference point,

    integral over t from c to the reference's cost of max(0, best(t) - y)

where best(t) is the least error on the front at a cost of at most t, a step function. Its expectation is a sum over
steps, width x E[max(0, height - Y)], each the price of a put option by the formula of Black and Scholes (1973). If
hypervolume is measured over log2 of the error, the logarithm of Y is normal, and the expectation is the expected
improvement of Jones et al. (1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from search.optimiser.pareto import front_of

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The front as a step function: the least error at each cost or below, up to a reference point.

    Step k reaches from `starts[k]` to `starts[k + 1]`, the last one to `cost_limit`; the first starts at minus infinity
    and has the height `error_limit`.
    """

    starts: Array
    """Costs (steps), rising; the first is minus infinity."""
    heights: Array
    """Least errors (steps), falling; the first is `error_limit`."""
    owners: tuple[int, ...]
    """Index of the point at which each step after the first begins."""
    cost_limit: float
    """The reference's cost."""
    error_limit: float
    """The reference's error."""
    log2_error: bool
    """Whether an area is measured over log2 of the error, not over the error."""

    @classmethod
    def of(
        cls, points: Sequence[tuple[float, float]], reference: tuple[float, float], *, log2_error: bool = False
    ) -> ParetoFront:
        """The front of points (cost, error); those beyond the reference are ignored.

        Raises ValueError if the reference is not finite.
        """
        cost_limit, error_limit = reference
        if not (math.isfinite(cost_limit) and math.isfinite(error_limit)):
            raise ValueError(f"the reference must be finite, got {reference}")
        inside = [i for i, (cost, error) in enumerate(points) if cost < cost_limit and error < error_limit]
        owners = tuple(inside[i] for i in front_of([points[i] for i in inside]))
        starts = np.array([-math.inf, *(points[i][0] for i in owners)])
        heights = np.array([error_limit, *(points[i][1] for i in owners)])
        return cls(starts, heights, owners, cost_limit, error_limit, log2_error)

    def step(self, cost: float) -> int:
        """Index of the step at a cost; 0 if all points cost more."""
        return int(np.searchsorted(self.starts, cost, side="right")) - 1

    def expected_improvement(self, costs: Array, means: Array, deviations: Array) -> Array:
        """Expected improvement (n) by points of `costs` (n) whose log errors have `means` and `deviations` (n)."""
        ends = np.append(self.starts[1:], self.cost_limit)
        widths = np.maximum(0.0, ends - np.maximum(self.starts, costs[:, None]))  # n x steps
        expected = _expected_log2_gain if self.log2_error else _expected_gain
        return np.asarray(np.sum(widths * expected(self.heights, means[:, None], deviations[:, None]), axis=1))


def _expected_log2_gain(height: Array, mean: Array, deviation: Array) -> Array:
    """E[max(0, log2 height - log2 Y)] where log Y is normal; all arguments broadcast."""
    deviation = np.maximum(deviation, 1e-9)
    distance = (np.log(np.maximum(height, 1e-300)) - mean) / deviation
    density = np.exp(-(distance**2) / 2.0) / math.sqrt(2.0 * math.pi)
    return np.asarray(deviation * np.maximum(0.0, distance * ndtr(distance) + density) / math.log(2.0))


def _expected_gain(height: Array, mean: Array, deviation: Array) -> Array:
    """E[max(0, height - Y)] where log Y is normal; all arguments broadcast."""
    deviation = np.maximum(deviation, 1e-9)
    distance = (np.log(np.maximum(height, 1e-300)) - mean) / deviation
    expectation = np.exp(mean + deviation**2 / 2.0)
    gain = height * ndtr(distance) - expectation * ndtr(distance - deviation)
    return np.asarray(np.maximum(0.0, gain))
