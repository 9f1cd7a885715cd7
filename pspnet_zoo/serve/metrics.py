"""Measures of a server for Prometheus, and the middleware that takes them."""

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counters of one server.

    Args:
        inside: Gives the number of requests in work or waiting.
    """

    def __init__(self, inside: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        self._requests = Counter(
            "pspnet_zoo_requests", "Requests to segment an image, by status.", ["status"], registry=self._registry
        )
        self._answers = Histogram(
            "pspnet_zoo_request_seconds", "Time from a request to its answer.", registry=self._registry, buckets=_SECONDS
        )
        self._network = Histogram(
            "pspnet_zoo_network_seconds", "Time of a call of the network.", registry=self._registry, buckets=_SECONDS
        )
        self._images = Counter("pspnet_zoo_images", "Images that were segmented.", registry=self._registry)
        Gauge(
            "pspnet_zoo_requests_inside", "Requests to segment an image that are in work or wait.", registry=self._registry
        ).set_function(inside)

    def network_called(self, seconds: float, images: int) -> None:
        """Count a call of the network."""
        self._network.observe(seconds)
        self._images.inc(images)

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(str(status)).inc()
        self._answers.observe(seconds)

    def text(self) -> bytes:
        """All measures in Prometheus' text format."""
        return generate_latest(self._registry)


class AnswerMiddleware:
    """ASGI middleware that counts answers to one path, and forbids clients to store answers or to guess their types."""

    def __init__(self, app: Any, *, metrics: ServerMetrics, path: str) -> None:
        self.app, self.metrics, self.path = app, metrics, path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            if scope["path"] == self.path:
                self.metrics.answered(status, time.perf_counter() - start)
