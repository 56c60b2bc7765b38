# SPDX-License-Identifier: Apache-2.0
"""All metrics that are logged to MLflow, each with its unit, its meaning and the function that computes it.

Only the metrics of these tuples are logged, so a new metric is a new entry;
docs/metrics.md is written from them (`search.tracking.reference`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from search.records.front import Front, MeasuredStudent
from search.records.objective import Objective
from search.records.score import score
from search.records.trial import RungRecord, TrialPoint, TrialRecord, TrialState
from spaces.cost import Cost, cost
from trainers.measure.fidelity import Fidelity

Source = TypeVar("Source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Generic[Source]):
    """One metric."""

    name: str
    """As MLflow shows it."""
    unit: str
    """Unit of its value; empty if it has none."""
    meaning: str
    """Description, for docs/metrics.md."""
    value: Callable[[Source], float | None]
    """Computes its value from its source; None: not logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRung:
    """A rung of a trial and what its score needs."""

    record: TrialRecord
    """The trial."""
    rung: RungRecord
    """The rung."""
    objective: Objective
    """Which measurement is the fidelity."""
    teacher_latency_ms: float | None
    """Predicted; None: there is no score."""


FIDELITY = (
    ("cosine", "mean cosine of student's and teacher's vector of a held-out sentence"),
    ("cosine_p5", "5th percentile of these cosines"),
    ("cosine_centred", "mean cosine after the mean teacher vector is subtracted"),
    ("spearman", "rank correlation of pairwise similarities, student against teacher"),
    ("overlap_at_1", "share of sentences whose nearest neighbour is the teacher's"),
    ("overlap_at_10", "mean share of the teacher's 10 nearest neighbours that are the student's"),
    ("constant_baseline", "mean cosine of the best constant vector"),
)
"""(field of `Fidelity`, meaning)."""


def fidelity_metric(field: str) -> str:
    """Name of a rung's metric of a field of `Fidelity`."""
    return f"fidelity/{field}"


def student_fidelity_metric(field: str) -> str:
    """Name of a registered student's metric of a field of `Fidelity`."""
    return f"measured/fidelity/{field}"


def values_of(metrics: Sequence[Metric[Source]], source: Source) -> dict[str, float]:
    """The values of metrics by name, without those that are None for this source."""
    found = ((metric.name, metric.value(source)) for metric in metrics)
    return {name: float(value) for name, value in found if value is not None}


def _read(field: str) -> Callable[[Fidelity], float]:
    return lambda fidelity: float(getattr(fidelity, field))


def _of_rung(field: str, meaning: str) -> Metric[MeasuredRung]:
    read = _read(field)
    return Metric(name=fidelity_metric(field), unit="", meaning=meaning, value=lambda one: read(one.rung.fidelity))


def _of_student(field: str, meaning: str) -> Metric[MeasuredStudent]:
    read = _read(field)
    return Metric(
        name=student_fidelity_metric(field),
        unit="",
        meaning=f"{meaning}; of the registered student, as its runtime serves it",
        value=lambda one: read(one.fidelity),
    )


def _cost(record: TrialRecord) -> Cost | None:
    return None if record.spec is None else cost(record.spec)


def _of_cost(name: str, unit: str, meaning: str, read: Callable[[Cost], float]) -> Metric[TrialRecord]:
    def value(record: TrialRecord) -> float | None:
        found = _cost(record)
        return None if found is None else read(found)

    return Metric(name=name, unit=unit, meaning=meaning, value=value)


def _score(one: MeasuredRung) -> float | None:
    if one.teacher_latency_ms is None or one.record.predicted_latency_ms is None:
        return None
    error = one.objective.error(one.objective.of(one.rung.fidelity))
    return score(error, one.teacher_latency_ms / one.record.predicted_latency_ms)


TRAINING_LOSS = "training/loss"
PREDICTED_LATENCY = "cost/predicted_latency_ms"
TRAINING_TOKENS = "cost/training_tokens"
STUDENT_LATENCY = "measured/latency_ms"

START: tuple[Metric[TrialRecord], ...] = (
    Metric(
        name=PREDICTED_LATENCY,
        unit="ms",
        meaning="latency under the study's profile, predicted before training",
        value=lambda record: record.predicted_latency_ms,
    ),
    _of_cost("cost/n_parameters", "", "numbers in all tensors, zeros included", lambda one: one.n_parameters),
    _of_cost(
        "cost/n_active_parameters",
        "",
        "numbers that a sentence of 32 tokens can touch at most",
        lambda one: one.n_active_parameters,
    ),
    _of_cost("cost/flops", "operations", "of all matrix products for a sentence of 32 tokens", lambda one: one.flops),
    _of_cost("cost/n_bytes", "bytes", "of all tensors in float32", lambda one: one.n_bytes),
)
"""Metrics of a trial's run, logged once, when it begins."""

UNTRAINED: tuple[Metric[MeasuredRung], ...] = (
    *(_of_rung(field, meaning) for field, meaning in FIDELITY),
    Metric(
        name="score",
        unit="",
        meaning="-log2 of the error and half the log2 of the predicted speed-up (`search.records.score`)",
        value=_score,
    ),
)
"""Metrics of a trial's run, logged before training, at step 0, and at every rung."""

RUNG: tuple[Metric[MeasuredRung], ...] = (
    Metric(
        name=TRAINING_LOSS, unit="", meaning="mean training loss since the rung before", value=lambda one: one.rung.loss
    ),
    Metric(
        name="training/tokens_per_s",
        unit="tokens/s",
        meaning="training speed since the rung before, evaluation excluded",
        value=lambda one: one.rung.tokens_per_s,
    ),
)
"""Metrics of a trial's run, logged at every rung; the step is the number of training tokens."""

END: tuple[Metric[TrialRecord], ...] = (
    Metric(name="cost/seconds", unit="s", meaning="spent on training and evaluation", value=lambda one: one.seconds),
    Metric(name=TRAINING_TOKENS, unit="tokens", meaning="training tokens seen in all", value=lambda one: one.n_tokens),
)
"""Metrics of a trial's run, logged when it ends."""

STUDENT: tuple[Metric[MeasuredStudent], ...] = (
    Metric(
        name=STUDENT_LATENCY,
        unit="ms",
        meaning="median latency of the registered student under the study's profile",
        value=lambda one: one.latency_ms,
    ),
    Metric(
        name="measured/speedup",
        unit="x",
        meaning="the teacher's median latency in torch over the student's, of the same interleaved run",
        value=lambda one: one.speedup,
    ),
    *(_of_student(field, meaning) for field, meaning in FIDELITY),
)
"""Metrics of a registered student's logged model and of its trial's run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Source of the summary run's metrics."""

    front: Front
    """The registered front."""
    trials: Sequence[TrialPoint]
    """All trials of the study."""


def _of_state(state: TrialState) -> Metric[Summary]:
    return Metric(
        name=f"trials/{state.value}",
        unit="trials",
        meaning=f"trials that are {state.value}",
        value=lambda one: Counter(trial.state for trial in one.trials).get(state.value),
    )


SUMMARY: tuple[Metric[Summary], ...] = (
    Metric(name="front/students", unit="students", meaning="on the front", value=lambda one: len(one.front.students)),
    Metric(
        name="front/dominated",
        unit="students",
        meaning="that no student dominates, but a reference does",
        value=lambda one: len(one.front.dominated),
    ),
    *(_of_state(state) for state in TrialState),
)
"""Metrics of the summary run `front`, logged whenever a front is registered."""
