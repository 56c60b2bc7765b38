# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.optimiser.hypervolume_improvement import ParetoFront
from search.optimiser.pareto import hypervolume

REFERENCE = (5.0, 1.0)
points = st.lists(st.tuples(st.integers(0, 60).map(lambda n: n / 10), st.integers(1, 120).map(lambda n: n / 100)))


def area(cloud, log2_error):
    """What points (cost, error) dominate, by the oracle."""
    height = math.log2 if log2_error else float
    return hypervolume([(cost, -height(error)) for cost, error in cloud], (REFERENCE[0], -height(REFERENCE[1])))


def improvement(cloud, cost, mean, deviation, log2_error=False):
    front = ParetoFront.of(cloud, REFERENCE, log2_error=log2_error)
    return front.expected_improvement(np.array([cost]), np.array([mean]), np.array([deviation]))[0]


@settings(deadline=None, max_examples=100)
@given(points, st.floats(0.0, 6.0), st.floats(0.01, 1.2), st.booleans())
def test_without_doubt_it_is_the_difference_of_two_hypervolumes(cloud, cost, error, log2_error):
    expected = area([*cloud, (cost, error)], log2_error) - area(cloud, log2_error)
    assert improvement(cloud, cost, math.log(error), 0.0, log2_error) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("log2_error", [False, True])
@pytest.mark.parametrize("cost", [0.5, 1.0, 2.5, 4.9])
@pytest.mark.parametrize(("mean", "deviation"), [(-1.5, 0.3), (-0.7, 1.0), (-3.0, 0.1)])
def test_the_closed_form_is_the_mean_of_many_draws(cost, mean, deviation, log2_error):
    cloud = [(1.0, 0.6), (2.0, 0.4), (3.0, 0.2), (3.5, 0.5), (6.0, 0.1)]
    draws = np.exp(np.random.default_rng(0).normal(mean, deviation, 4000))
    before = area(cloud, log2_error)
    gains = np.array([area([*cloud, (cost, error)], log2_error) - before for error in draws])
    assert improvement(cloud, cost, mean, deviation, log2_error) == pytest.approx(
        gains.mean(), abs=4 * gains.std() / math.sqrt(len(gains)) + 1e-9
    )


def test_steps_name_the_points_that_make_them():
    front = ParetoFront.of([(3.0, 0.2), (1.0, 0.6), (2.0, 0.7), (4.0, 0.2), (0.5, 1.5)], REFERENCE)
    assert front.owners == (1, 0)
    assert front.starts.tolist() == [-math.inf, 1.0, 3.0]
    assert front.heights.tolist() == [1.0, 0.6, 0.2]
    assert [front.step(cost) for cost in (0.9, 1.0, 2.9, 9.0)] == [0, 1, 1, 2]


def test_beyond_the_reference_nothing_is_gained():
    assert improvement([], 5.0, -2.0, 0.5) == 0.0
    assert improvement([], 4.0, 3.0, 0.01) == pytest.approx(0.0, abs=1e-12)


def test_a_reference_must_be_finite():
    with pytest.raises(ValueError, match="reference must be finite"):
        ParetoFront.of([], (math.inf, 1.0))
