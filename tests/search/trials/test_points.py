# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.optimiser.encoding import UnitCube
from search.optimiser.problem import KnownCostProblem
from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate
from search.trials.points import active_point, initial_point, suggest_point
from spaces.domain import Choice, Integer, Real
from spaces.space import Space
from tests.search.toy_search import SPACE, TEACHER

optuna.logging.set_verbosity(optuna.logging.WARNING)

WIDE = Space(
    domains={
        "n_layers": Integer(0, 4),
        "feed_forward": Choice(("dense", "switch")),
        "units": Choice((16, 32)),
        "n_experts": Integer(2, 4),
        "expert_units": Integer(16, 64, step=16),
        "embedding_dim": Choice((None, 8)),
        "static_path": Choice((True, False)),
        "similarity": Real(0.0, 1.0),
        "temperature": Real(0.01, 1.0, log=True),
        "warmup_tokens": Integer(1, 1000, log=True),
    }
)

WIDE_DISTRIBUTIONS = {
    "n_layers": IntDistribution(0, 4),
    "feed_forward": CategoricalDistribution(("dense", "switch")),
    "units": CategoricalDistribution((16, 32)),
    "n_experts": IntDistribution(2, 4),
    "expert_units": IntDistribution(16, 64, step=16),
    "embedding_dim": CategoricalDistribution((None, 8)),
    "static_path": CategoricalDistribution((True, False)),
    "similarity": FloatDistribution(0.0, 1.0),
    "temperature": FloatDistribution(0.01, 1.0, log=True),
    "warmup_tokens": IntDistribution(1, 1000, log=True),
}


def points(space, *, seed, n):
    """Points of one study; each has a depth's cost and reports a fidelity that rises with it."""
    study = optuna.create_study(direction="maximize", sampler=sampler(space, seed=seed))
    for _ in range(n):
        trial = study.ask()
        depth = suggest_point(trial, space)["n_layers"]
        trial.report(0.8 + 0.03 * depth, 10)
        study.tell(trial, 0.8 + 0.03 * depth)
    return [trial.params for trial in study.trials]


def sampler(space, *, seed):
    """Ours, over a space with conditions."""
    problem = KnownCostProblem(
        rungs=(10,),
        cost=lambda point: 1.0 + point["n_layers"],
        error=lambda fidelity: 1.0 - fidelity,
        active=lambda point: active_point(point, space),
    )
    return FrontSampler(Surrogate(problem), seed=seed, n_startup_trials=3)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_points_hold_exactly_the_active_dimensions_within_their_domains(seed):
    for point in points(WIDE, seed=seed, n=6):
        assert all(WIDE.domains[name].contains(value) for name, value in point.items())
        so_far = {}
        for name in WIDE.names:
            assert (name in point) == WIDE.active(so_far, name)
            if name in point:
                so_far[name] = point[name]


@given(st.integers(0, 2**32 - 1))
def test_the_active_part_of_a_point_is_what_is_suggested(seed):
    generator = np.random.default_rng(seed)
    cube = UnitCube(WIDE_DISTRIBUTIONS)
    point = cube.point(cube.random(generator, 1)[0])
    trial = optuna.trial.FixedTrial(point)
    assert active_point(point, WIDE) == suggest_point(trial, WIDE)


def test_an_initial_point_is_completed_with_the_teachers_values_and_the_recipes_defaults():
    point = initial_point({"n_layers": 3}, SPACE, TEACHER)
    assert point == {"n_layers": 3, "n_heads": 4, "units": 64, "static_path": False}  # an absolute rate has no default
    domains = {name: domain for name, domain in SPACE.domains.items() if name != "learning_rate"}
    relative = Space(domains=domains | {"relative_learning_rate": Real(1e-4, 1e-2, log=True)})
    assert initial_point({"n_layers": 3}, relative, TEACHER) == point | {"relative_learning_rate": 2e-3}


def test_what_the_teacher_has_outside_a_domain_stays_open():
    space = Space(domains={"n_layers": Integer(0, 3), "units": Choice((16, 32))})
    assert initial_point({"n_layers": 1}, space, TEACHER) == {"n_layers": 1}


def test_inactive_dimensions_of_an_initial_point_are_left_out():
    assert initial_point({"n_layers": 0, "units": 16}, SPACE, TEACHER) == {"n_layers": 0}


@pytest.mark.parametrize("value", [None, True, 8, 0.5, "cls"])
def test_every_kind_of_option_can_be_proposed(value):
    study = optuna.create_study()
    space = Space(domains={"n_layers": Integer(1, 1)})
    object.__setattr__(space, "domains", {"n_layers": Choice((value,))})
    assert suggest_point(study.ask(), space) == {"n_layers": value}
