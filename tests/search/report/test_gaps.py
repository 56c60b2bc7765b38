# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optimiser.pareto import front_of, hypervolume, non_dominated
from search.report.gaps import gaps_of

ENDS = {"fastest_cost": -1.0, "slowest_cost": 7.0, "worst_error": 1.5}
corners = st.lists(
    st.tuples(st.integers(0, 60).map(lambda n: n / 10), st.integers(1, 120).map(lambda n: n / 100)), max_size=12
)


def area(cloud):
    reference = (ENDS["slowest_cost"], -math.log2(ENDS["worst_error"]))
    return hypervolume([(cost, -math.log2(error)) for cost, error in cloud], reference)


@given(corners)
def test_the_front_is_that_of_the_two_objectives_without_copies(cloud):
    wanted = {cloud[i] for i in non_dominated([(cost, -error) for cost, error in cloud])}
    found = [cloud[i] for i in front_of(cloud)]
    assert found == sorted(wanted)


@given(corners)
def test_a_gap_is_as_large_as_the_most_that_one_point_in_it_adds(cloud):
    for gap in gaps_of(cloud, **ENDS):
        best = (gap.low_cost, gap.low_error)
        added = area([*cloud, best]) - area(cloud)
        if gap.faster is not None and gap.more_faithful is not None:
            assert gap.area == pytest.approx(added)
        else:  # at the ends the best point may beat others, too
            assert gap.area <= added + 1e-9
        inside = (gap.low_cost + 0.3 * (gap.high_cost - gap.low_cost), gap.low_error + 1e-9)
        assert gap.contains(inside[0])
        assert area([*cloud, inside]) - area(cloud) <= added + 1e-6


@given(corners)
def test_gaps_do_not_overlap_and_no_corner_lies_within_one(cloud):
    gaps = gaps_of(cloud, **ENDS)
    for gap, other in pairwise(gaps):
        assert gap.high_cost <= other.low_cost
        assert gap.low_error >= other.high_error
    for gap in gaps:
        assert not any(gap.contains(cost) and error < gap.high_error for cost, error in cloud)


def test_a_gap_of_more_than_one_and_a_half_times_the_mean_is_wide():
    # Between neighbours 1, 1, 1 and 3 halvings of the error, so 1.5 in the mean; then 2 doublings and one halving.
    cloud = [(0.0, 0.8), (1.0, 0.4), (2.0, 0.2), (3.0, 0.1), (4.0, 0.0125)]
    gaps = gaps_of(cloud, fastest_cost=0.0, slowest_cost=7.0, worst_error=1.0)
    assert [gap.area for gap in gaps] == pytest.approx([1.0, 1.0, 1.0, 3.0, 3.0])
    assert [gap.wide for gap in gaps] == [False, False, False, True, True]
    assert [(gap.faster, gap.more_faithful) for gap in gaps] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, None)]


def test_nobody_can_say_what_is_usual_of_two_gaps():
    gaps = gaps_of([(0.0, 0.8), (1.0, 0.7), (4.0, 0.2)], fastest_cost=0.0, slowest_cost=6.0, worst_error=1.0)
    assert all(gap.wide for gap in gaps)


def test_one_student_has_the_ends_alone_and_none_has_nothing():
    ends = gaps_of([(1.0, 0.5)], fastest_cost=0.0, slowest_cost=6.0, worst_error=1.0)
    assert [(gap.low_cost, gap.high_cost, gap.low_error, gap.high_error) for gap in ends] == [
        (0.0, 1.0, 0.5, 1.0),
        (1.0, 6.0, 0.25, 0.5),
    ]
    assert gaps_of([], **ENDS) == ()


def test_what_lies_beyond_the_reference_does_not_count():
    (gap,) = gaps_of([(1.0, 2.0)], **ENDS)
    assert (gap.low_cost, gap.high_cost, gap.low_error, gap.high_error) == (1.0, 7.0, 0.75, 1.5)
