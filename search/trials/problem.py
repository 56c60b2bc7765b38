# SPDX-License-Identifier: Apache-2.0
"""The optimiser's `Problem` for students: costs are predicted latencies, errors come from trials' records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial

from search.optimiser.problem import Params
from search.records.objective import Objective
from search.records.trial import TrialState
from search.trials.journal import CONTINUES, RECORD
from search.trials.points import active_point
from spaces.dimensions import DIMENSIONS
from spaces.domain import Real
from spaces.space import Space
from spaces.student import StudentSpec


class StudentProblem:
    """The `Problem` of a study: log2 of the predicted milliseconds against the error at the last rung.

    A point that cannot be built, or that is not below the latency limit, has no cost. Hypervolume is measured over log2
    of the error, so that halving a small error counts as much as halving a large one, up to twice the latency limit,
    because otherwise a student that is hardly faster than the teacher would add nothing.
    """

    log2_error = True

    def __init__(
        self,
        *,
        space: Space,
        teacher: StudentSpec,
        rungs: Sequence[int],
        predict: Callable[[StudentSpec], float],
        limit_ms: float,
        objective: Objective,
    ) -> None:
        """`predict` gives milliseconds; `limit_ms` is the latency to beat, infinity for none."""
        self.rungs = tuple(rungs)
        self.worst_cost = worst_cost(limit_ms) if math.isfinite(limit_ms) else None
        self._space = space
        self._teacher = teacher
        self._predict = predict
        self._limit_ms = limit_ms
        self._objective = objective

    def check_study(self, study: optuna.Study) -> None:
        """Raises nothing: trials without records are ignored."""

    def cost(self, point: Params) -> float | None:
        """log2 of the predicted milliseconds; None if the point cannot be built or is not below the limit."""
        try:
            spec, _ = self._space.decode(dict(point), self._teacher)
        except ValueError:
            return None
        latency_ms = self._predict(spec)
        return math.log2(latency_ms) if latency_ms < self._limit_ms else None

    def active(self, point: Params) -> Params:
        """The values of the point's active dimensions."""
        return active_point(point, self._space)

    def decides(self, name: str) -> bool:
        """False for real-valued settings of the recipe, such as a learning rate: latency does not depend on them."""
        return not (isinstance(self._space.domains[name], Real) and not DIMENSIONS[name].structural)

    def curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """Errors by rung, from the trial's record; empty without one."""
        record = trial.user_attrs.get(RECORD)
        if record is None:
            return {}
        measured = zip(self.rungs, record["rungs"], strict=False)
        values = {target: self._objective.of_json(rung["fidelity"]) for target, rung in measured}
        return {target: self._objective.error(value) for target, value in values.items()}

    def failed(self, trial: FrozenTrial) -> bool:
        """Whether a trial failed, and was not merely interrupted or postponed."""
        record = trial.user_attrs.get(RECORD)
        return record is not None and bool(record["state"] == TrialState.FAILED)

    def superseded(self, trials: Sequence[FrozenTrial]) -> frozenset[int]:
        """Numbers of the trials that another one continues."""
        begun = [trial.user_attrs for trial in trials if RECORD in trial.user_attrs]
        return frozenset(attributes[CONTINUES] for attributes in begun if CONTINUES in attributes)


def worst_cost(limit_ms: float) -> float:
    """The cost of the reference point: log2 of twice the limit in milliseconds."""
    return math.log2(limit_ms) + 1.0
