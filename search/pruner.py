# SPDX-License-Identifier: Apache-2.0
"""Which trials are stopped at a rung: those that several trials, no slower and clearly ahead, already beat.

Latency is known before training, so at a rung every trial is a point (predicted latency, fidelity so far). A rule
that looks at fidelity alone (the median rule) stops the fast students and lowers the hypervolume of the front. This
rule compares a trial only with trials that are no slower, at the same rung:

  - it is stopped if at least `n_dominators` of them are clearly ahead: their error 1 - fidelity is smaller by the
    share `margin` or more (learning curves are noisy, and they cross);
  - it is a tie if as many are ahead, but not clearly. The scalar score breaks it: the trial is stopped unless its
    score at this rung is among the best 1 / `reduction` of all that have reached it.

The fastest trial so far is never stopped, and none is before `n_startup_trials` others have reached a rung.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial

LATENCY = "predicted_latency_ms"
"""User attribute of a trial that the pruner reads; trials without it are left alone."""


class DominancePruner(optuna.pruners.BasePruner):
    """Stops dominated trials; for a single-objective study that maximises fidelity, with latencies as attributes."""

    def __init__(
        self,
        *,
        score: Callable[[float, float], float],
        n_dominators: int = 2,
        margin: float = 0.1,
        reduction: float = 2.0,
        n_startup_trials: int = 10,
    ) -> None:
        """`score(fidelity, latency_ms)` breaks ties. Raises ValueError on a value outside its range."""
        if n_dominators < 1:
            raise ValueError(f"n_dominators must be at least 1, got {n_dominators}")
        if not 0.0 <= margin < 1.0:
            raise ValueError(f"margin must lie in 0 to 1 (1 excluded), got {margin}; 0.1 is a tenth less error")
        if not reduction > 1.0:
            raise ValueError(f"reduction must exceed 1, got {reduction}; 2 lets half of the ties go on")
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must not be negative, got {n_startup_trials}")
        self._score = score
        self._n_dominators = n_dominators
        self._margin = margin
        self._reduction = reduction
        self._n_startup_trials = n_startup_trials

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is stopped at the last rung that it reported."""
        return bool(self.dominators(study, trial))

    def dominators(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """The trials for which this one is stopped, most faithful first; empty if it goes on."""
        step = trial.last_step
        latency = trial.user_attrs.get(LATENCY)
        if step is None or latency is None:
            return []
        fidelity = trial.intermediate_values[step]
        if math.isnan(fidelity):
            return []  # not a number is a failure, which someone else records
        others = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and LATENCY in other.user_attrs and other.intermediate_values
        ]
        if len(others) < self._n_startup_trials or all(latency <= other.user_attrs[LATENCY] for other in others):
            return []
        rivals = [other for other in others if not math.isnan(other.intermediate_values.get(step, math.nan))]
        ahead = [
            rival
            for rival in rivals
            if rival.user_attrs[LATENCY] <= latency and rival.intermediate_values[step] > fidelity
        ]
        ahead.sort(key=lambda rival: (-rival.intermediate_values[step], rival.number))
        if len(ahead) < self._n_dominators:
            return []
        clear_error = (1.0 - self._margin) * (1.0 - fidelity)
        clearly_ahead = [rival for rival in ahead if 1.0 - rival.intermediate_values[step] <= clear_error]
        if len(clearly_ahead) >= self._n_dominators:
            return clearly_ahead
        own_score = self._score(fidelity, latency)
        n_better = sum(
            self._score(rival.intermediate_values[step], rival.user_attrs[LATENCY]) > own_score for rival in rivals
        )
        n_going_on = max(1.0, (len(rivals) + 1) / self._reduction)
        return ahead if n_better >= n_going_on else []
