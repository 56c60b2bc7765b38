# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from search.report.importance import Design, evaluate, importances


def shares(function, n_dimensions, *, n=1024, seed=0, usable=None):
    """By dimension, of a function of a row."""
    design = Design.of(n_dimensions, n=n, seed=seed)
    values, can_be = evaluate(design.rows, function)
    found = importances(design, [str(i) for i in range(n_dimensions)], values, can_be if usable is None else usable)
    return None if found is None else {int(each.name): each for each in found}


def test_of_a_sum_every_part_has_its_share_of_the_variance_and_shares_nothing():
    weights = np.array([3.0, 2.0, 1.0, 0.0])
    found = shares(lambda row: float(weights @ row), 4)
    for i, weight in enumerate(weights):
        exact = weight**2 / np.sum(weights**2)
        assert found[i].first_order == pytest.approx(exact, abs=0.02)
        assert found[i].total_effect == pytest.approx(exact, abs=0.02)
        assert found[i].low <= found[i].total_effect <= found[i].high


def test_ishigami():
    """The closed form of Ishigami and Homma (1990) for a = 7 and b = 0.1, angles of -pi to pi."""
    a, b = 7.0, 0.1

    def function(row):
        x, y, z = (2.0 * row - 1.0) * math.pi
        return math.sin(x) + a * math.sin(y) ** 2 + b * z**4 * math.sin(x)

    first = 0.5 * (1 + b * math.pi**4 / 5) ** 2
    second = a**2 / 8
    shared = b**2 * math.pi**8 * (1 / 18 - 1 / 50)
    variance = first + second + shared
    found = shares(function, 3, n=4096)
    exact = [(first, first + shared), (second, second), (0.0, shared)]
    for i, (alone, total) in enumerate(exact):
        assert found[i].first_order == pytest.approx(alone / variance, abs=0.02)
        assert found[i].total_effect == pytest.approx(total / variance, abs=0.02)


def test_a_dimension_under_a_condition_has_the_share_of_where_it_matters():
    """y is 2x - 1 where the switch is on, else 0: its variance is 1/6 in all, 0 alone by the switch."""
    found = shares(lambda row: 2.0 * row[1] - 1.0 if row[0] < 0.5 else 0.0, 2, n=4096)
    assert found[1].first_order == pytest.approx(0.5, abs=0.02)  # E over x of half of it: variance 1/12
    assert found[1].total_effect == pytest.approx(1.0, abs=0.02)
    assert found[0].first_order == pytest.approx(0.0, abs=0.02)
    assert found[0].total_effect == pytest.approx(0.5, abs=0.02)


def test_the_largest_comes_first_and_equal_ones_by_name():
    design = Design.of(3, n=256)
    values, usable = evaluate(design.rows, lambda row: float(row[1]))
    found = importances(design, ["b", "c", "a"], values, usable)
    assert [each.name for each in found] == ["c", "a", "b"]


def test_what_cannot_be_is_left_out_whatever_its_value():
    """Where the first coordinate is above 0.5 nothing can be built: there the function may be anything."""
    found = shares(lambda row: None if row[0] > 0.5 else float(row[1]), 2, n=2048)
    assert found[1].total_effect == pytest.approx(1.0, abs=0.05)
    assert found[0].total_effect == pytest.approx(0.0, abs=1e-9)


def test_nothing_is_said_of_a_constant_or_of_a_space_that_can_hardly_be_built():
    assert shares(lambda row: 1.0, 2) is None
    assert shares(lambda row: None if row[0] > 0.01 else float(row[1]), 2) is None


def test_functions_that_disagree_make_a_wide_interval():
    design = Design.of(2, n=256)
    agreed = np.stack([design.rows[:, 0]] * 20)
    torn = np.stack([design.rows[:, i % 2] for i in range(20)])
    usable = np.ones(len(design.rows), bool)
    narrow = {each.name: each for each in importances(design, ["x", "y"], agreed, usable)}
    wide = {each.name: each for each in importances(design, ["x", "y"], torn, usable)}
    assert narrow["x"].low > 0.8 and narrow["y"].high < 0.01
    assert wide["x"].low < 0.01 and wide["x"].high > 0.8


def test_equal_seeds_give_equal_shares():
    assert shares(lambda row: float(row[0] * row[1]), 2, n=128) == shares(lambda row: float(row[0] * row[1]), 2, n=128)
