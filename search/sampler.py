# SPDX-License-Identifier: Apache-2.0
"""How points are proposed: a space in Optuna's terms, and the sampler that fills it.

Multi-objective TPE (Ozaki et al. 2022), multivariate over groups of dimensions that are active together: by default
it would sample every dimension alone, and a conditional space has no joint distribution. A point depends on the
seed, its number and the trials before it, not on how often the search was interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, assert_never

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.recipe import RecipeSpec
from spaces.space import Space
from spaces.student import Dense, StudentSpec


def make_sampler(*, seed: int, number: int, n_startup_trials: int) -> optuna.samplers.TPESampler:
    """The sampler that proposes the trial of a number; before `n_startup_trials` have ended it proposes at random."""
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group` is Optuna's answer to conditional spaces
        return optuna.samplers.TPESampler(
            seed=state, n_startup_trials=n_startup_trials, multivariate=True, group=True, constant_liar=True
        )


def suggest_point(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """The trial's value for every active dimension, parents first."""
    point: dict[str, Value] = {}
    for name in space.names:
        if space.active(point, name):
            point[name] = _suggest(trial, name, space.domains[name])
    return point


def initial_point(point: Mapping[str, Value], space: Space, teacher: StudentSpec) -> dict[str, Value]:
    """A study's initial point with what it leaves out: the teacher's value or the recipe's default.

    Where that lies outside the domain the dimension stays open, and the sampler fills it.
    """
    defaults = {**_teacher_values(teacher), **_recipe_values()}
    filled: dict[str, Value] = dict(point)
    for name in space.names:
        if name not in filled and name in defaults and space.domains[name].contains(defaults[name]):
            filled[name] = defaults[name]
    active: dict[str, Value] = {}
    for name in space.names:
        if name in filled and space.active(active, name):
            active[name] = filled[name]
    return active


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    match domain:
        case Real():
            return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        case Integer():
            return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
        case Choice():
            return trial.suggest_categorical(name, domain.options)
        case _:
            assert_never(domain)


def _teacher_values(teacher: StudentSpec) -> dict[str, Any]:
    encoder = teacher.encoder
    values: dict[str, Any] = {"static_path": teacher.static is not None, "sparsity": 0.0}
    if encoder is not None:
        values |= {
            "n_layers": encoder.n_layers,
            "width": encoder.width,
            "n_heads": encoder.n_heads,
            "head_width": encoder.head_width,
            "embedding_dim": encoder.embedding_dim,
            "pooling": str(encoder.pooling),
        }
        if isinstance(encoder.feed_forward, Dense):
            values |= {"feed_forward": "dense", "units": encoder.feed_forward.units}
    return values


def _recipe_values() -> dict[str, Any]:
    recipe = asdict(RecipeSpec())
    losses = recipe.pop("losses")
    return {**losses, **recipe, "precision": str(recipe["precision"])}
