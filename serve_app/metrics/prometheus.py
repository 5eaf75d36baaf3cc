"""Measures requests for Prometheus: counts, durations and tokens by model, and the state of the pools.

Every replica of the front answers `/metrics` for itself, so every series carries the replica's name: whoever scrapes
through a load balancer gets one replica or another, and sums over the label.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from ray.exceptions import RayError
from starlette.requests import Request
from starlette.responses import Response

from actors.dispatcher.statistics import PoolStatistics
from serve_app.metrics.keys_file import KeysFileMetrics, KeysFileStatus
from serve_app.metrics.observer import Observer, RequestRecord

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
GAP_SECONDS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
STATISTICS_TIMEOUT_S = 2.0
NAMES = ("model", "replica")

ReadStatistics = Callable[[], Mapping[str, Awaitable[PoolStatistics]]]


class Metrics:
    """An `Observer` that counts, and the endpoint that tells."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "exlpool_requests", "Requests by outcome.", ("endpoint", "outcome", *NAMES), registry=registry
        )
        self._active = Gauge("exlpool_active_requests", "Valid requests under way.", NAMES, registry=registry)
        self._duration = _histogram("exlpool_request_seconds", "Whole requests.", registry)
        self._queue = _histogram("exlpool_queue_seconds", "Waiting for a place.", registry)
        self._first = _histogram("exlpool_first_token_seconds", "Time to the first token of a stream.", registry)
        self._gap = _histogram("exlpool_token_gap_seconds", "Between chunks of a stream.", registry, GAP_SECONDS)
        self._gap_of: dict[str, Histogram] = {}
        self._tokens = Counter("exlpool_tokens", "Tokens by kind.", ("kind", *NAMES), registry=registry)
        self._pool = Gauge(
            "exlpool_pool", "The pool of a model, by what is counted.", ("what", *NAMES), registry=registry
        )

    def started(self, model: str) -> None:
        self._active.labels(model, self._replica).inc()

    def first_tokens(self, model: str, after_s: float) -> None:
        self._first.labels(model, self._replica).observe(after_s)

    def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
        gap = self._gap_of.get(model)  # asked for every chunk, so the series is not looked up by its labels
        if gap is None:
            gap = self._gap_of[model] = self._gap.labels(model, self._replica)
        gap.observe(gap_s)

    def ended(self, record: RequestRecord) -> None:
        labels = (record.model, self._replica)
        self._requests.labels(record.endpoint, record.outcome, *labels).inc()
        if not record.model:
            return
        self._active.labels(*labels).dec()
        self._duration.labels(*labels).observe(record.duration_s)
        if record.queue_s is not None:
            self._queue.labels(*labels).observe(record.queue_s)
        self._tokens.labels("prompt", *labels).inc(record.prompt_tokens)
        self._tokens.labels("cached", *labels).inc(record.cached_tokens)
        self._tokens.labels("completion", *labels).inc(record.completion_tokens)

    def tell_of_keys_file(self, ask: Callable[[], KeysFileStatus]) -> None:
        """Show the state of the keys file too; `ask` is called whenever somebody scrapes."""
        self._registry.register(KeysFileMetrics(self._replica, ask))

    def endpoint(self, read: ReadStatistics) -> Callable[[Request], Awaitable[Response]]:
        """`GET /metrics`; `read` asks the pools for their statistics, by model."""

        async def metrics(_: Request) -> Response:
            await asyncio.gather(*(self._read_pool(model, answer) for model, answer in read().items()))
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

        return metrics

    async def _read_pool(self, model: str, answer: Awaitable[PoolStatistics]) -> None:
        try:
            async with asyncio.timeout(STATISTICS_TIMEOUT_S):
                statistics = await answer
        except (TimeoutError, RayError):
            values = {"workers_up": 0.0}
        else:
            scheduler = statistics.scheduler
            values = {
                "workers_up": sum(state.worker_id is not None for state in statistics.workers),
                "queued_requests": sum(scheduler.queued_requests.values()),
                "running_requests": scheduler.running_requests,
                "estimated_wait_seconds": scheduler.estimated_wait_s,
                "total_pages": sum(worker.total_pages for worker in scheduler.workers),
                "free_pages": sum(worker.free_pages for worker in scheduler.workers),
                "resident_pages": sum(worker.resident_pages for worker in scheduler.workers),
            }
        for what, value in values.items():
            self._pool.labels(what, model, self._replica).set(value)


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def started(self, model: str) -> None:
        for observer in self._observers:
            observer.started(model)

    def first_tokens(self, model: str, after_s: float) -> None:
        for observer in self._observers:
            observer.first_tokens(model, after_s)

    def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
        for observer in self._observers:
            observer.later_tokens(model, gap_s, tokens)

    def ended(self, record: RequestRecord) -> None:
        for observer in self._observers:
            observer.ended(record)


def _histogram(name: str, what: str, registry: CollectorRegistry, buckets: tuple[float, ...] = SECONDS) -> Histogram:
    return Histogram(name, what, NAMES, registry=registry, buckets=buckets)
