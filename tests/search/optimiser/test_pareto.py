# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optimiser.pareto import dominates, dominator, hypervolume, non_dominated

coordinates = st.integers(0, 6).map(float)  # few values, so that ties are common
awkward = coordinates | st.sampled_from([math.nan, math.inf, -math.inf])
points = st.lists(st.tuples(awkward, awkward), max_size=12)
finite_points = st.lists(st.tuples(coordinates, coordinates), max_size=8)


@given(points)
def test_front_is_what_brute_force_leaves(cloud):
    expected = {
        i
        for i, point in enumerate(cloud)
        if all(map(math.isfinite, point)) and not any(dominates(other, point) for other in cloud)
    }
    front = non_dominated(cloud)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [cloud[i][0] for i in front] == sorted(cloud[i][0] for i in front)


@given(points)
def test_every_finite_point_off_the_front_is_dominated_by_a_front_point(cloud):
    front = [cloud[i] for i in non_dominated(cloud)]
    for point in cloud:
        if all(map(math.isfinite, point)) and point not in front:
            assert any(dominates(other, point) for other in front)


@given(st.tuples(awkward, awkward), st.tuples(awkward, awkward))
def test_dominance_is_never_mutual(first, second):
    assert not (dominates(first, second) and dominates(second, first))
    assert not dominates(first, first)


def test_nan_neither_dominates_nor_stands_on_the_front():
    cloud = [(1.0, math.nan), (math.nan, 1.0), (2.0, 0.5)]
    assert non_dominated(cloud) == [2]
    assert not dominates((1.0, math.nan), (2.0, 0.5))
    assert dominates((2.0, 0.5), (1.0, math.nan))


def test_equal_points_share_the_front():
    assert non_dominated([(1.0, 0.5), (2.0, 0.4), (1.0, 0.5)]) == [0, 2]


@given(st.tuples(awkward, awkward), points)
def test_dominator_is_the_most_faithful_one_that_dominates(point, others):
    found = dominator(point, others)
    dominating = [other for other in others if dominates(other, point)]
    if found is None:
        assert not dominating
    else:
        assert others[found] in dominating
        assert others[found][1] == max(other[1] for other in dominating)


@given(finite_points)
def test_hypervolume_counts_the_unit_cells_that_points_dominate(cloud):
    reference = (7.0, -1.0)
    cells = sum(any(point[0] <= x and point[1] >= y + 1 for point in cloud) for x in range(0, 7) for y in range(-1, 6))
    assert hypervolume(cloud, reference) == pytest.approx(cells)


@given(finite_points, st.tuples(coordinates, coordinates))
def test_hypervolume_grows_only_by_points_that_are_not_dominated(cloud, extra):
    before, after = hypervolume(cloud, (10.0, -1.0)), hypervolume([*cloud, extra], (10.0, -1.0))
    new = not any(dominates(other, extra) or other == extra for other in cloud)
    assert (after > before) == new


def test_points_beyond_the_reference_count_nothing():
    assert hypervolume([(5.0, 1.0), (1.0, -2.0), (math.nan, 1.0)], (3.0, 0.0)) == 0.0


def test_a_reference_must_be_finite():
    with pytest.raises(ValueError, match="must be finite"):
        hypervolume([], (math.inf, 0.0))
