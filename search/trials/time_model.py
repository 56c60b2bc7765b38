# SPDX-License-Identifier: Apache-2.0
"""Predicts the time of training from the rungs that were reached, so that no trial starts that cannot finish.

Seconds per token are fitted by least squares as a linear function of the predicted latency, with non-negative intercept
and slope: inference and training both cost a constant overhead plus a time per matrix product. The measured seconds
include waiting for cores, evaluating and saving.
"""

from __future__ import annotations

from collections.abc import Iterable

from search.records.trial import RungRecord, TrialRecord


class TrainingTimeModel:
    """Estimates seconds of training from (predicted latency, seconds per token) pairs."""

    def __init__(self) -> None:
        self._n = 0
        self._latency = self._cost = self._squares = self._products = 0.0  # sums

    @classmethod
    def of(cls, records: Iterable[TrialRecord]) -> TrainingTimeModel:
        """The model fitted to the rungs of earlier trials; rungs that a trial took over from another count once."""
        model = cls()
        rungs: dict[int | None, tuple[RungRecord, ...]] = {}
        for record in records:
            rungs[record.number] = record.rungs
            done = 0
            for rung in record.rungs:
                if record.predicted_latency_ms is not None and rung not in rungs.get(record.continues, ()):
                    model.observe(record.predicted_latency_ms, n_tokens=rung.n_tokens - done, seconds=rung.seconds)
                done = rung.n_tokens
        return model

    def observe(self, latency_ms: float, *, n_tokens: int, seconds: float) -> None:
        """Adds an observation: a student of this predicted latency took `seconds` for `n_tokens`."""
        if n_tokens > 0:
            cost = seconds / n_tokens
            self._n += 1
            self._latency += latency_ms
            self._cost += cost
            self._squares += latency_ms**2
            self._products += latency_ms * cost

    def estimate(self, latency_ms: float, *, n_tokens: int) -> float | None:
        """Seconds that a student of this predicted latency needs for `n_tokens`; None before any observation."""
        if not self._n:
            return None
        mean_latency, mean_cost = self._latency / self._n, self._cost / self._n
        spread = self._squares - self._n * mean_latency**2
        slope = 0.0
        if spread > 1e-12 * self._n * max(1.0, mean_latency**2):
            slope = (self._products - self._n * mean_latency * mean_cost) / spread
        if slope <= 0.0:
            return n_tokens * mean_cost
        intercept = mean_cost - slope * mean_latency
        if intercept < 0.0:  # least squares through the origin
            slope, intercept = self._products / self._squares, 0.0
        return n_tokens * (intercept + slope * latency_ms)
