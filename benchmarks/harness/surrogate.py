# SPDX-License-Identifier: Apache-2.0
"""Learning curves without training: a surrogate of LCBench (yahpo_data, Apache-2.0) in a folder that the caller names.

The folder holds `model.onnx`, `encoding.json` and `config_space.json`. The model predicts validation accuracies of
multi-layer perceptrons on tabular tasks; all rungs of a configuration are read in one call.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from benchmarks.harness.problem import Point
from search.optimiser.pareto import hypervolume

RUNGS = (1, 3, 9, 27, 52)
"""Epochs at which a trial is evaluated; the last ends it."""
Distribution = IntDistribution | FloatDistribution

_INPUTS = (
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
_N_RANDOM = 3000


def cost(configuration: Mapping[str, Any]) -> float:
    """log10 of the weights of the funnel-shaped network, with 100 inputs: known before training."""
    units, n_layers = configuration["max_units"], configuration["num_layers"]
    widths = [units - (units - 10) * i / n_layers for i in range(n_layers + 1)]
    return math.log10(sum(a * b for a, b in pairwise(widths)) + 100 * units)


class Surrogate:
    """The model and its space; tasks are made from it."""

    def __init__(self, folder: Path) -> None:
        """Reads a folder. Raises FileNotFoundError if a file of it is missing."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        document = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        domains = {entry["name"]: entry for entry in document}
        self.tasks: tuple[str, ...] = tuple(domains["OpenML_task_id"]["choices"])
        self.space = {name: _distribution(domains[name]) for name in _INPUTS}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A trial's configuration, asked for in the usual way."""
        return {name: _suggest(trial, name, distribution) for name, distribution in self.space.items()}

    def errors(self, task: str, configurations: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
        """Validation errors in per cent (configurations x rungs)."""
        rows = np.array(
            [
                [epoch, *(configuration[name] for name in _INPUTS)]
                for configuration in configurations
                for epoch in RUNGS
            ],
            np.float32,
        )
        codes = np.full((len(rows), 1), self._codes[task], np.int32)
        (found,) = self._session.run(None, {"x_cat": codes, "x_cont": rows})
        return 100.0 - np.asarray(found, np.float64)[:, 1].reshape(len(configurations), len(RUNGS))


class Task:
    """One task, a `Problem`: cost is log10 of weights, error the validation error in per cent."""

    rungs = RUNGS
    worst_cost = None
    log2_error = False

    def __init__(self, surrogate: Surrogate, name: str) -> None:
        """Draws 3,000 random points, the same ones in every run."""
        self.name = name
        self.surrogate = surrogate
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [surrogate.suggest(study.ask()) for _ in range(_N_RANDOM)]
        errors = surrogate.errors(name, drawn)[:, -1]
        costs = np.array([cost(configuration) for configuration in drawn])
        self.reference: Point = (float(costs.max()) + 0.01, float(np.quantile(errors, 0.9)))
        self.random_points: list[Point] = list(zip(costs.tolist(), errors.tolist(), strict=True))

    def ask(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
        """There is always a new one."""
        trial = study.ask()
        return trial, self.surrogate.suggest(trial)

    def cost(self, configuration: Mapping[str, Any]) -> float:
        """See `cost`."""
        return cost(configuration)

    def active(self, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
        """All of it."""
        return configuration

    def curve(self, configuration: Mapping[str, Any]) -> list[float]:
        """Validation errors at the rungs."""
        return [float(error) for error in self.surrogate.errors(self.name, [configuration])[0]]

    def hypervolume(self, points: Sequence[Point]) -> float:
        """Hypervolume of fully trained points."""
        cost_limit, error_limit = self.reference
        return hypervolume([(value, -error) for value, error in points], (cost_limit, -error_limit))


def _suggest(trial: optuna.Trial, name: str, domain: Distribution) -> float:
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def _distribution(domain: Mapping[str, Any]) -> Distribution:
    if domain["type"] == "uniform_int":
        return IntDistribution(domain["lower"], domain["upper"], log=domain["log"])
    return FloatDistribution(domain["lower"], domain["upper"], log=domain["log"])
