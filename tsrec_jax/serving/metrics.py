"""The counters of the service, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# Why a recommendation was not given; all are shown from the start, so that a rate over them is never missing.
REFUSALS = ("queue_full", "expired", "not_ready", "draining", "failed", "client_gone")


class Metrics:
    """Counters of one service, in their own registry."""

    def __init__(
        self,
        *,
        queue_depth: Callable[[], float],
        items: Callable[[], float],
        ready: Callable[[], float],
        behind: Callable[[], float],
    ):
        """Registers everything.

        Args:
          queue_depth, items, ready, behind: read whenever the metrics are.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tsrec_requests", "Finished HTTP requests", ("route", "method", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "tsrec_request_seconds",
            "Seconds from a request's headers to the end of its response",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._refused = Counter(
            "tsrec_refused", "Recommendations asked for and not given", ("reason",), registry=self._registry
        )
        for reason in REFUSALS:
            self._refused.labels(reason)
        self._batch_size = Histogram("tsrec_batch_size", "Requests of a batch", buckets=_SIZES, registry=self._registry)
        self._batch_seconds = Histogram(
            "tsrec_batch_seconds", "Seconds that a batch was computed", buckets=_SECONDS, registry=self._registry
        )
        self._waited = Histogram(
            "tsrec_queue_seconds", "Seconds that an answered request waited", buckets=_SECONDS, registry=self._registry
        )
        for name, text, read in (
            ("tsrec_queue_depth", "Requests that wait", queue_depth),
            ("tsrec_items", "Items of the catalogue", items),
            ("tsrec_ready", "1 while recommendations are accepted", ready),
            ("tsrec_catalogue_behind_seconds", "Seconds since the catalogue's changes could be read", behind),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)
        self._model = Gauge("tsrec_model_info", "1 for the model that answers now", ("model",), registry=self._registry)
        self._answered = Counter("tsrec_answered", "Recommendations given", ("model",), registry=self._registry)
        self._reloads = Counter("tsrec_reloads", "Exports loaded anew", ("result",), registry=self._registry)
        for result in ("done", "failed"):
            self._reloads.labels(result)
        ProcessCollector(registry=self._registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a finished request."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Counts a recommendation that was not given, under one of `REFUSALS`."""
        self._refused.labels(reason).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Counts a batch."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def answered(self, model: str, waited: float) -> None:
        """Counts a recommendation that was given, with its model and its seconds in the queue."""
        self._answered.labels(model).inc()
        self._waited.observe(waited)

    def serves(self, model: str) -> None:
        """Shows which model answers from now on."""
        self._model.clear()
        self._model.labels(model).set(1)

    def reloaded(self, result: str) -> None:
        """Counts a reload, `done` or `failed`."""
        self._reloads.labels(result).inc()

    def text(self) -> bytes:
        """All metrics, as /metrics shows them."""
        return generate_latest(self._registry)
