# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import optuna

from search.optimiser.encoding import UnitCube
from search.optimiser.known_costs import KnownCosts
from search.optimiser.surrogate import distributions
from search.records.objective import COSINE
from search.trials.points import suggest_point
from search.trials.problem import StudentProblem
from spaces.domain import Choice, Integer, Real
from spaces.space import Space
from tests.search.toy_search import RUNGS, TEACHER, predict

SPACE = Space(
    domains={
        "n_layers": Integer(0, 4),
        "width": Choice((16, 32)),
        "n_heads": Choice((2, 3, 4)),  # 3 does not divide the width
        "sparsity": Real(0.0, 0.9),
        "hidden": Choice((0.0, 0.5)),  # a loss that needs the teacher's width
        "similarity": Real(0.0, 1.0),
        "temperature": Real(0.01, 1.0, log=True),  # of the similarity
        "learning_rate": Real(1e-4, 1e-2, log=True),
    }
)


def test_costs_of_many_points_are_those_of_each():
    limit_ms = predict(TEACHER)
    problem = StudentProblem(
        space=SPACE, teacher=TEACHER, rungs=RUNGS, predict=predict, limit_ms=limit_ms, objective=COSINE
    )
    known = KnownCosts(problem)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        suggest_point(study.ask(), SPACE)
    cube = UnitCube(distributions(study))
    coordinates = cube.random(np.random.default_rng(1), 400)
    coordinates[::5, cube.names.index("similarity")] = 0.0
    coordinates[::7, cube.names.index("sparsity")] = 0.0
    costs, found = known.of(cube, coordinates)
    n_none = 0
    for row, cost, own in zip(coordinates, costs, found, strict=True):
        point = problem.active(cube.point(row))
        expected = problem.cost(point)
        assert (expected is None) == math.isnan(cost)
        n_none += expected is None
        if expected is not None:
            assert cost == expected
            np.testing.assert_allclose(own, cube.coordinates(point), rtol=0.0, atol=1e-12)
            assert cube.point(own) == point
    assert 40 < n_none < 360
    asked = known.of(cube, coordinates)[0]
    np.testing.assert_array_equal(asked, costs)
