# SPDX-License-Identifier: Apache-2.0
"""What a model is told of trials: observations, and as many of them as it can take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from search.optimiser.encoding import ModelInputs
from search.optimiser.learning_curves import Curves
from search.optimiser.pareto import front_of

Array = npt.NDArray[np.float64]

MOST_OBSERVATIONS = 500  # a model takes n^3 operations
WHOLE_OBSERVATIONS = 150  # of the latest trials: beyond the former, older ones lose rungs, and then whole trials
RUNGS_KEPT = (2, 1)  # of older trials: first so many of their last, then so many


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one trial."""

    number: int
    """The trial's number."""
    point: Mapping[str, Any]
    """Its parameters."""
    cost: float
    """The point's cost."""
    log_errors: dict[int, float]
    """By step."""
    ended: tuple[float, int] | None
    """When it ended, and its number; None while it runs."""
    complete: bool
    """Whether it was trained to the end."""
    failed: bool
    """Whether it failed or was interrupted: what it measured is true, but it will not be on any front."""

    @property
    def last(self) -> float:
        """The log error that was measured last."""
        return self.log_errors[max(self.log_errors)]

    def finished(self, log_error: float, step: int) -> Observation:
        """The trial as it would be with a final error."""
        return replace(self, log_errors={**self.log_errors, step: log_error}, complete=True)

    def with_last(self, n_rungs: int) -> Observation:
        """The trial as if it had measured at its last rungs alone."""
        return replace(self, log_errors=dict(list(self.log_errors.items())[-n_rungs:]))


def as_many_as_fit(trials: Sequence[Observation]) -> list[Observation]:
    """Of trials that measured something, by number: all, or what says the most of new points and of new curves.

    The latest keep their curves, from which one learns how a brief trial predicts a long one. Of the older ones the
    front stays, and of the others some of every time, each with its last measurements.
    """
    kept = list(trials)
    excess = sum(len(trial.log_errors) for trial in kept) - MOST_OBSERVATIONS
    if excess <= 0:
        return kept
    n_older, n_whole = len(kept), 0
    while n_older and (n_whole := n_whole + len(kept[n_older - 1].log_errors)) <= WHOLE_OBSERVATIONS:
        n_older -= 1
    for n_rungs in RUNGS_KEPT:
        for i, trial in enumerate(kept[:n_older]):
            if excess > 0:
                kept[i] = trial.with_last(n_rungs)
                excess -= len(trial.log_errors) - len(kept[i].log_errors)
    if excess > 0:
        complete = [i for i, trial in enumerate(kept) if trial.complete]
        front = {complete[i] for i in front_of([(kept[i].cost, kept[i].last) for i in complete])}
        others = [i for i in range(n_older) if i not in front]
        spread = np.linspace(0, len(others) - 1, min(excess, len(others))).round().astype(int)
        dropped = {others[i] for i in spread}
        kept = [trial for i, trial in enumerate(kept) if i not in dropped]
    return kept


def columns_of(trials: Sequence[Observation], inputs: ModelInputs) -> Array:
    """What a model takes distances of (trials x columns)."""
    coordinates = np.array([inputs.cube.coordinates(trial.point) for trial in trials])
    return inputs.columns(coordinates, np.array([trial.cost for trial in trials]))


def curves_of(trials: Sequence[Observation], inputs: ModelInputs, rungs: Sequence[int]) -> Curves:
    """What trials measured."""
    rows = [(i, step, error) for i, trial in enumerate(trials) for step, error in trial.log_errors.items()]
    budget = math.log(rungs[-1] / rungs[0]) if len(rungs) > 1 else 1.0
    return Curves(
        points=columns_of(trials, inputs),
        groups=inputs.groups,
        trial=np.array([i for i, _, _ in rows]),
        remaining=np.array([max(0.0, math.log(rungs[-1] / step)) / budget for _, step, _ in rows]),
        log_errors=np.array([error for _, _, error in rows]),
    )
