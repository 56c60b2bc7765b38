# SPDX-License-Identifier: Apache-2.0
"""The problem that sampler and pruner solve: costs that are known before training, and learning curves of an error.

`Problem` is the whole interface between the optimiser and its users. `KnownCostProblem` is the implementation for
trials that report an error with `trial.report`; `search.trials.problem` is that of a study of students.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Params = Mapping[str, Any]


class Problem(Protocol):
    """Two objectives to be minimised: a cost, a known function of the point, and an error, measured by training."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials report, rising; the last one ends a trial."""

    @property
    def worst_cost(self) -> float | None:
        """The reference point's cost: points that cost more are ignored. None: the largest cost of random points."""

    @property
    def log2_error(self) -> bool:
        """Whether hypervolume is measured over log2 of the error, not over the error itself."""

    def check_study(self, study: optuna.Study) -> None:
        """Raises ValueError if the problem cannot be read from this study."""

    def cost(self, point: Params) -> float | None:
        """A point's cost, such as the logarithm of a latency or a size; None if the point must not be tried.

        The point may lack a dimension that no trial had yet.
        """

    def active(self, point: Params) -> Params:
        """The values of a point's active dimensions, in spaces with conditions."""

    def decides(self, name: str) -> bool:
        """Whether costs and `active` depend on a dimension's value, and not only on whether it is the lowest value.

        Where it is False, costs are computed once for many points.
        """

    def curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """The trial's errors by step; those that are not positive and finite are ignored."""

    def failed(self, trial: FrozenTrial) -> bool:
        """Whether the trial failed because of its point, so that nearby points may fail too."""

    def superseded(self, trials: Sequence[FrozenTrial]) -> Collection[int]:
        """Numbers of the trials that another trial continues, whose curve is part of that trial's."""


class KnownCostProblem:
    """A problem whose trials report with `trial.report` and whose complete trials have one value."""

    worst_cost: float | None
    log2_error: bool

    def __init__(
        self,
        *,
        rungs: Sequence[int],
        cost: Callable[[Params], float | None],
        error: Callable[[float], float] | None = None,
        active: Callable[[Params], Params] = lambda point: point,
        worst_cost: float | None = None,
        log2_error: bool = False,
    ) -> None:
        """`error` turns a reported value into a positive error to be minimised; None: values are errors.

        The other arguments are the members of `Problem`. Raises ValueError unless the rungs are positive and rise.
        """
        if not rungs or rungs[0] < 1 or any(a >= b for a, b in pairwise(rungs)):
            raise ValueError(f"rungs must be positive and rise, got {tuple(rungs)}")
        self.rungs = tuple(rungs)
        self.worst_cost = worst_cost
        self.log2_error = log2_error
        self._cost = cost
        self._error = error
        self._active = active

    def check_study(self, study: optuna.Study) -> None:
        """Raises ValueError for a study that maximises, unless an `error` was given."""
        if study.directions == [StudyDirection.MAXIMIZE] and self._error is None:
            raise ValueError("the optimiser minimises an error: give `error`, or create the study to minimise")

    def cost(self, point: Params) -> float | None:
        """Calls the function that the constructor was given."""
        return self._cost(point)

    def active(self, point: Params) -> Params:
        """Calls the function that the constructor was given."""
        return self._active(point)

    def decides(self, name: str) -> bool:
        """True: every dimension may decide the cost."""
        return True

    def curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """Errors that were reported, and a complete trial's value at the last rung if it did not report there."""
        values = dict(trial.intermediate_values)
        if trial.state is TrialState.COMPLETE and len(trial.values) == 1:
            values.setdefault(self.rungs[-1], trial.values[0])
        if self._error is None:
            return values
        return {step: self._error(value) for step, value in values.items() if math.isfinite(value)}

    def failed(self, trial: FrozenTrial) -> bool:
        """Whether the trial ended as FAIL."""
        return trial.state is TrialState.FAIL

    def superseded(self, trials: Sequence[FrozenTrial]) -> Collection[int]:
        """Empty: no trial continues another."""
        return ()
