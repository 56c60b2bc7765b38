# SPDX-License-Identifier: Apache-2.0
"""How long training takes, learnt from the rungs that were reached: so that no trial starts that cannot finish.

Seconds per token are a line in the predicted latency, with neither a negative intercept nor a negative slope: both
a forward pass at inference and a training step cost an overhead and a share for every product. Waiting for cores,
evaluating and saving are in the measured seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from search.trial import TrialRecord


class Pace:
    """Estimates seconds of training from (predicted latency, seconds per token) pairs."""

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []

    @classmethod
    def of(cls, records: Iterable[TrialRecord]) -> Pace:
        """What the rungs of earlier trials say."""
        pace = cls()
        for record in records:
            done = 0
            for rung in record.rungs:
                if record.predicted_latency_ms is not None:
                    pace.observe(record.predicted_latency_ms, n_tokens=rung.n_tokens - done, seconds=rung.seconds)
                done = rung.n_tokens
        return pace

    def observe(self, latency_ms: float, *, n_tokens: int, seconds: float) -> None:
        """A student of this predicted latency took `seconds` for `n_tokens`."""
        if n_tokens > 0:
            self._pairs.append((latency_ms, seconds / n_tokens))

    def estimate(self, latency_ms: float, *, n_tokens: int) -> float | None:
        """Seconds that a student of this predicted latency needs for `n_tokens`; None before any observation."""
        if not self._pairs:
            return None
        n = len(self._pairs)
        mean_latency = sum(latency for latency, _ in self._pairs) / n
        mean_cost = sum(cost for _, cost in self._pairs) / n
        spread = sum((latency - mean_latency) ** 2 for latency, _ in self._pairs)
        slope = 0.0
        if spread > 1e-12 * max(1.0, mean_latency**2):
            slope = sum((latency - mean_latency) * (cost - mean_cost) for latency, cost in self._pairs) / spread
        if slope <= 0.0:
            return n_tokens * mean_cost
        intercept = mean_cost - slope * mean_latency
        if intercept < 0.0:  # the best line through the origin
            squares = sum(latency**2 for latency, _ in self._pairs)
            slope, intercept = sum(latency * cost for latency, cost in self._pairs) / squares, 0.0
        return n_tokens * (intercept + slope * latency_ms)
