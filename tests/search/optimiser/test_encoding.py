# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.optimiser.encoding import UnitCube

DISTRIBUTIONS = {
    "depth": IntDistribution(0, 4),
    "even": IntDistribution(2, 10, step=2),
    "tokens": IntDistribution(1, 1000, log=True),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "weight": FloatDistribution(0.0, 1.0, step=0.25),
    "only": FloatDistribution(3.0, 3.0),
    "kind": CategoricalDistribution(("dense", "switch", None)),
    "on": CategoricalDistribution((True, False)),
}
CUBE = UnitCube(DISTRIBUTIONS)


def is_valid(point):
    return all(
        DISTRIBUTIONS[name]._contains(DISTRIBUTIONS[name].to_internal_repr(value)) for name, value in point.items()
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 1.0), min_size=len(DISTRIBUTIONS), max_size=len(DISTRIBUTIONS)))
def test_every_coordinate_is_a_valid_value_and_comes_back(coordinates):
    point = CUBE.point(coordinates)
    assert set(point) == set(DISTRIBUTIONS)
    assert is_valid(point)
    again = CUBE.point(CUBE.coordinates(point))
    assert {k: v for k, v in again.items() if k != "rate"} == {k: v for k, v in point.items() if k != "rate"}
    assert again["rate"] == pytest.approx(point["rate"])


def test_children_of_partial_points_are_whole_and_valid():
    parents = np.array([CUBE.coordinates({"depth": 0}), CUBE.coordinates({"depth": 3, "kind": None, "rate": 1e-4})])
    children = CUBE.mutated(np.random.default_rng(0), parents, 200)
    assert not np.isnan(children).any()
    assert all(is_valid(CUBE.point(child)) for child in children)


def test_all_integers_and_options_are_equally_likely():
    points = [CUBE.point(row) for row in CUBE.random(np.random.default_rng(0), 6000)]
    for name, values in {"depth": range(5), "even": range(2, 11, 2), "kind": ("dense", "switch", None)}.items():
        shares = [sum(point[name] == value for point in points) / 6000 for value in values]
        assert shares == pytest.approx([1 / len(shares)] * len(shares), abs=0.03)


def test_two_options_are_one_apart_and_what_is_inactive_lies_between():
    rows = [CUBE.coordinates({"kind": kind}) for kind in ("dense", "switch", None)]
    columns = CUBE.columns(np.array([*rows, CUBE.coordinates({})]))
    assert np.linalg.norm(columns[0] - columns[1]) == pytest.approx(1.0)
    assert np.linalg.norm(columns[0] - columns[3]) == pytest.approx(math.sqrt(0.5))
    assert len(CUBE.groups) == columns.shape[1]


def test_other_distributions_are_refused():
    with pytest.raises(TypeError, match="x must be a range or a choice"):
        UnitCube({"x": object()})


def test_snapped_coordinates_are_those_of_the_points():
    cube = UnitCube(
        {
            "choice": CategoricalDistribution(("a", None, 3)),
            "many": IntDistribution(1, 3000, log=True),
            "real": FloatDistribution(1e-4, 1.0, log=True),
            "share": FloatDistribution(0.0, 0.75, step=0.25),
            "size": IntDistribution(64, 256, step=64),
        }
    )
    coordinates = np.random.default_rng(0).random((500, 5))
    coordinates[:2] = [[0.0] * 5, [1.0] * 5]
    expected = np.array([cube.coordinates(cube.point(row)) for row in coordinates])
    snapped = cube.rounded(coordinates)
    np.testing.assert_allclose(snapped, expected, rtol=0.0, atol=1e-12)
    discrete = [cube.names.index(name) for name in ("choice", "many", "share", "size")]
    np.testing.assert_array_equal(snapped[:, discrete], expected[:, discrete])
    np.testing.assert_array_equal(cube.rounded(snapped), snapped)
