# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.sampler import initial_point, make_sampler, suggest_point
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


def points(space, *, seed, n, n_startup_trials=3):
    """Points of one study; each is told a front-like value."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    found = []
    for number in range(n):
        study.sampler = make_sampler(seed=seed, number=number, n_startup_trials=n_startup_trials)
        trial = study.ask()
        found.append(suggest_point(trial, space))
        depth = found[-1]["n_layers"]
        study.tell(trial, [1.0 + depth, 0.8 + 0.03 * depth])
    return found


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


def test_the_seed_decides_the_points():
    first, second, other = (points(WIDE, seed=seed, n=12) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_a_point_does_not_depend_on_which_process_drew_those_before_it():
    whole = points(SPACE, seed=1, n=8)
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage, directions=["minimize", "maximize"])
    resumed = []
    for number in range(8):
        study = optuna.load_study(study_name="s", storage=storage)
        study.sampler = make_sampler(seed=1, number=number, n_startup_trials=3)
        trial = study.ask()
        resumed.append(suggest_point(trial, SPACE))
        depth = resumed[-1]["n_layers"]
        study.tell(trial, [1.0 + depth, 0.8 + 0.03 * depth])
    assert resumed == whole


def test_an_initial_point_is_completed_with_the_teachers_values_and_the_recipes_defaults():
    point = initial_point({"n_layers": 3}, SPACE, TEACHER)
    assert point == {"n_layers": 3, "n_heads": 4, "units": 64, "static_path": False, "learning_rate": 3e-4}


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
