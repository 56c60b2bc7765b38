# SPDX-License-Identifier: Apache-2.0
"""A space in Optuna's terms: a trial's point, a point's active part, and a study's initial points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, assert_never

import optuna

from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.recipe import RecipeSpec
from spaces.space import Space
from spaces.student import StudentSpec
from spaces.student_point import point_of


def suggest_point(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """The trial's value for every active dimension, parents first."""
    point: dict[str, Value] = {}
    for name in space.names:
        if space.active(point, name):
            point[name] = _suggest(trial, name, space.domains[name])
    return point


def active_point(point: Mapping[str, Value], space: Space) -> dict[str, Value]:
    """The values of a point's active dimensions, parents first."""
    active = space.complete(point)
    return {name: point[name] for name in space.names if name in active and name in point}


def initial_point(point: Mapping[str, Value], space: Space, teacher: StudentSpec) -> dict[str, Value]:
    """A study's initial point, completed with the teacher's values and the recipe's defaults.

    Where such a value lies outside the domain, the dimension is left to the sampler.
    """
    defaults = {**point_of(teacher), **_recipe_values()}
    filled: dict[str, Value] = dict(point)
    for name in space.names:
        if name not in filled and name in defaults and space.domains[name].contains(defaults[name]):
            filled[name] = defaults[name]
    return active_point(filled, space)


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


def _recipe_values() -> dict[str, Any]:
    recipe = asdict(RecipeSpec())
    losses = recipe.pop("losses")
    return {**losses, **recipe, "precision": str(recipe["precision"])}
