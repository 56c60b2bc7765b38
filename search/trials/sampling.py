# SPDX-License-Identifier: Apache-2.0
"""Makes the sampler that a study names: `FrontSampler`, one of Optuna's, or a class of the user's."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from search.optimiser.sampler import FrontSampler
from search.optimiser.surrogate import Surrogate
from spaces.errors import UserError


def make_sampler(name: str, surrogate: Surrogate, *, seed: int, n_startup_trials: int) -> BaseSampler:
    """The sampler that a study with two objectives names: `front`, `tpe`, `gp`, `random`, or MODULE:CLASS.

    A class is given `seed` and `n_startup_trials` if it takes them. Raises ValueError if there is no such class, or if
    it is not a sampler of Optuna.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "front":
                return FrontSampler(surrogate, seed=seed, n_startup_trials=n_startup_trials)
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=n_startup_trials, multivariate=True, group=True, constant_liar=True
                )
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=n_startup_trials, warn_independent_sampling=False
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                sampler: BaseSampler = make_from_class_path(
                    "sampler", name, BaseSampler, seed=seed, n_startup_trials=n_startup_trials
                )
                return sampler


def make_from_class_path(what: str, name: str, base: type[Any], **arguments: Any) -> Any:
    """An instance of MODULE:CLASS, a subclass of `base`, made with those of the arguments that its constructor takes.

    Importing the module runs its code, as any import does. Raises ValueError, with the remedy, if there is no such
    class, if it is no subclass of `base`, or if it cannot be constructed.
    """
    module, _, attribute = name.partition(":")
    rule = f"search.{what} must name a class that can be imported"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UserError(f"{rule}, got {name!r}: {error}; install it, or add its folder to PYTHONPATH") from error
    except AttributeError:
        raise UserError(f"{rule}, got {name!r}: {module} has no {attribute}; correct the name") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UserError(f"search.{what} must be a subclass of Optuna's {base.__name__}, got {name!r}; derive it so")
    taken = inspect.signature(found).parameters
    try:
        return found(**{key: value for key, value in arguments.items() if key in taken})
    except TypeError as error:
        raise UserError(
            f"search.{what} {name} must be made without further arguments: {error}; write a subclass that has defaults"
        ) from error
