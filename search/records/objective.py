# SPDX-License-Identifier: Apache-2.0
"""The objective: which measurement of a `Fidelity` a search maximises, its range, error and format.

Search, graduation, front, registry and report read fidelities only through an `Objective`. They compare by log2 of the
error, `high` minus the value, so that 0.98 and 0.99 are as far apart as 0.90 and 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from spaces.errors import UserError
from spaces.objective import FidelityMeasure, ObjectiveSpec
from trainers.measure.fidelity import Fidelity

ROUNDING = 2.0**-14
"""Least error of a mean of cosines and of a rank correlation: differences below it are rounding of bfloat16 training.
An overlap of 10 neighbours over the default 2,000 held-out sentences cannot show less either: 1 / 20,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A field of `Fidelity`, as tables show it."""

    field: str
    """Name of the field."""
    heading: str
    """Heading of its column."""
    label: str
    """In words, for a sentence or an axis."""
    digits: int
    """Decimals that are shown."""

    def read(self, fidelity: Fidelity) -> float:
        """The value of the measurement."""
        return float(getattr(fidelity, self.field))

    def format(self, value: float) -> str:
        """A value as it is shown: `0.9713`."""
        return f"{value:.{self.digits}f}"


MEASUREMENTS = (
    Measurement(field="cosine", heading="cosine", label="mean cosine with the teacher", digits=4),
    Measurement(field="cosine_p5", heading="5th pct.", label="5th percentile of the cosines", digits=4),
    Measurement(field="cosine_centred", heading="centred", label="mean centred cosine with the teacher", digits=4),
    Measurement(field="spearman", heading="Spearman", label="rank correlation of similarities", digits=4),
    Measurement(field="overlap_at_1", heading="top 1", label="shared nearest neighbour", digits=3),
    Measurement(field="overlap_at_10", heading="top 10", label="shared 10 nearest neighbours", digits=3),
)
"""What tables show of a fidelity, in their order. The constant baseline is the same for all rows and stands beside."""

BASELINE = "cosine"
"""The measurement that a constant vector reaches `constant_baseline` in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The fidelity of a search: larger is better, and `high` is perfect."""

    measurement: Measurement
    """The measurement that is the fidelity."""
    low: float
    """Least value."""
    high: float
    """Greatest value."""
    least_error: float
    """Errors below this are rounding."""

    @property
    def name(self) -> str:
        """As a study file names it: the field of `Fidelity`."""
        return self.measurement.field

    @property
    def label(self) -> str:
        """In words, for axes and sentences: `mean cosine with the teacher`."""
        return self.measurement.label

    def of(self, fidelity: Fidelity) -> float:
        """The value of a measured fidelity."""
        return self.measurement.read(fidelity)

    def of_json(self, document: Mapping[str, Any]) -> float:
        """The value of a fidelity's JSON object."""
        return float(document[self.name])

    def error(self, value: float) -> float:
        """`high` minus the value, at least `least_error`; NaN for NaN."""
        return value if math.isnan(value) else max(self.high - value, self.least_error)

    def at_error(self, error: float) -> float:
        """The value with this error."""
        return self.high - error

    def worsened(self, before: Fidelity | None, after: Fidelity) -> bool:
        """Whether the error rose by more than rounding; False if the fidelity before is not known."""
        return before is not None and self.error(self.of(after)) > self.error(self.of(before))

    def point(self, latency_ms: float, fidelity: Fidelity) -> tuple[float, float]:
        """(latency, value): what a front compares."""
        return latency_ms, self.of(fidelity)

    def format(self, value: float) -> str:
        """A value as people read it: `0.9713`."""
        return self.measurement.format(value)

    def require(self, name: str, value: float) -> float:
        """The value, if it lies in the range. Raises ValueError otherwise; `name` says whose value it is."""
        if not self.low <= value <= self.high:
            raise UserError(f"{name} is a {self.label}, so it must lie in {self.low:g} to {self.high:g}, got {value}")
        return value


_BY_FIELD = {measurement.field: measurement for measurement in MEASUREMENTS}
COSINE = Objective(measurement=_BY_FIELD["cosine"], low=-1.0, high=1.0, least_error=ROUNDING)
COSINE_CENTRED = Objective(measurement=_BY_FIELD["cosine_centred"], low=-1.0, high=1.0, least_error=ROUNDING)
SPEARMAN = Objective(measurement=_BY_FIELD["spearman"], low=-1.0, high=1.0, least_error=ROUNDING)
OVERLAP_AT_10 = Objective(measurement=_BY_FIELD["overlap_at_10"], low=0.0, high=1.0, least_error=ROUNDING)


def objective_of(spec: ObjectiveSpec) -> Objective:
    """The objective that a study names."""
    match spec.fidelity:
        case FidelityMeasure.COSINE:
            return COSINE
        case FidelityMeasure.COSINE_CENTRED:
            return COSINE_CENTRED
        case FidelityMeasure.SPEARMAN:
            return SPEARMAN
        case FidelityMeasure.OVERLAP_AT_10:
            return OVERLAP_AT_10
        case _:
            assert_never(spec.fidelity)


def objective_from_json(document: dict[str, Any] | None) -> Objective:
    """The objective that a study's or a front's JSON object names; None, as before there was a choice: the cosine.

    Raises ValueError for what this version does not know.
    """
    return objective_of(ObjectiveSpec.from_json(document))
