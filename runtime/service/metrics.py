# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of a service, with the process's memory and CPU time."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = tuple(2**i for i in range(12))  # 1 to 2048 sentences


class ServiceMetrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self, *, n_waiting: Callable[[], float]) -> None:
        """`n_waiting` returns the number of queued sentences; called whenever the metrics are read."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "understudy_requests", "Requests that were answered", ["route", "status"], registry=self._registry
        )
        self._request_seconds = Histogram(
            "understudy_request_seconds",
            "Time from a request's headers to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._sentences = Counter("understudy_sentences", "Sentences that were encoded", registry=self._registry)
        self._tokens = Counter("understudy_tokens", "Tokens that were encoded", registry=self._registry)
        self._batch_sentences = Histogram(
            "understudy_batch_sentences", "Sentences encoded together", buckets=_SIZES, registry=self._registry
        )
        self._batch_seconds = Histogram(
            "understudy_batch_seconds", "Time of encoding one batch", buckets=_SECONDS, registry=self._registry
        )
        self.in_progress = Gauge(
            "understudy_requests_in_progress", "Requests that are read, wait or are encoded", registry=self._registry
        )
        """Gauge of the requests in progress."""
        waiting = Gauge("understudy_sentences_waiting", "Sentences that no batch has taken", registry=self._registry)
        waiting.set_function(n_waiting)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_batch(self, n_sentences: int, n_tokens: int, seconds: float) -> None:
        """Count an encoded batch."""
        self._sentences.inc(n_sentences)
        self._tokens.inc(n_tokens)
        self._batch_sentences.observe(n_sentences)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
