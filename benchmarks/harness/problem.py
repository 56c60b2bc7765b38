# SPDX-License-Identifier: Apache-2.0
"""The interface of a replayed search: known learning curves of points whose cost is known before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import optuna

Point = tuple[float, float]
"""(cost, error), both minimised."""


class Problem(Protocol):
    """Curves, costs and a reference point."""

    @property
    def rungs(self) -> Sequence[int]:
        """Steps at which a trial is evaluated; the last ends it."""

    @property
    def worst_cost(self) -> float | None:
        """Cost of the hypervolume's reference point; None if searchers do not know it."""

    @property
    def log2_error(self) -> bool:
        """Whether hypervolume is measured over log2 of the error."""

    def ask(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """A new trial of a study and its configuration; None if there is no new one."""

    def cost(self, configuration: Mapping[str, Any]) -> float | None:
        """To be minimised; None if the configuration cannot be tried."""

    def active(self, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
        """The active part of a configuration."""

    def curve(self, configuration: Mapping[str, Any]) -> list[float]:
        """Errors at the rungs, to be minimised."""

    def hypervolume(self, points: Sequence[Point]) -> float:
        """Hypervolume of fully trained points."""
