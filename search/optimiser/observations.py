# SPDX-License-Identifier: Apache-2.0
"""Trials as observations for the model, and the choice of a subset if they are too many."""

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

MOST_OBSERVATIONS = 500  # limit, because the model takes n^3 operations
LATEST_OBSERVATIONS = 150  # those of the latest trials are kept whole; older trials lose rungs, then are left out
RUNGS_KEPT = (2, 1)  # last rungs of an older trial that are kept: first 2, then, if still too many, 1


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
    """Measured log errors by step."""
    ended: tuple[float, int] | None
    """(end as a timestamp in seconds, number), to sort by; None while it runs."""
    complete: bool
    """Whether it was trained to the end."""
    failed: bool
    """Whether it failed or was interrupted: its measurements count, but it cannot be on the front."""

    @property
    def last(self) -> float:
        """The log error that was measured last."""
        return self.log_errors[max(self.log_errors)]

    def finished(self, log_error: float, step: int) -> Observation:
        """The observation of a complete trial with this final log error at the last step."""
        return replace(self, log_errors={**self.log_errors, step: log_error}, complete=True)

    def with_last(self, n_rungs: int) -> Observation:
        """The observation with its last rungs alone."""
        return replace(self, log_errors=dict(list(self.log_errors.items())[-n_rungs:]))


def limit_observations(trials: Sequence[Observation]) -> list[Observation]:
    """The trials, in their order, reduced to at most about `MOST_OBSERVATIONS` observations.

    `trials` are sorted by number, and each has an observation. The latest keep all rungs, from which the model learns
    how rungs predict final errors. Older trials are reduced to their last rungs; if that is not enough, some of those
    that are not on the front are left out, evenly over time.
    """
    kept = list(trials)
    excess = sum(len(trial.log_errors) for trial in kept) - MOST_OBSERVATIONS
    if excess <= 0:
        return kept
    n_older, n_whole = len(kept), 0
    while n_older and (n_whole := n_whole + len(kept[n_older - 1].log_errors)) <= LATEST_OBSERVATIONS:
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
    """The model's features of trials (trials x columns)."""
    coordinates = np.array([inputs.cube.coordinates(trial.point) for trial in trials])
    return inputs.columns(coordinates, np.array([trial.cost for trial in trials]))


def curves_of(trials: Sequence[Observation], inputs: ModelInputs, rungs: Sequence[int]) -> Curves:
    """The learning curves of trials, for the model."""
    rows = [(i, step, error) for i, trial in enumerate(trials) for step, error in trial.log_errors.items()]
    budget = math.log(rungs[-1] / rungs[0]) if len(rungs) > 1 else 1.0
    return Curves(
        points=columns_of(trials, inputs),
        groups=inputs.groups,
        trial=np.array([i for i, _, _ in rows]),
        remaining=np.array([max(0.0, math.log(rungs[-1] / step)) / budget for _, step, _ in rows]),
        log_errors=np.array([error for _, _, error in rows]),
    )
