"""What `/metrics` tells, in Prometheus' text format."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feed.io.redis import TRANSIENT, FeatureStore
from feed.ranking.live import Live
from feed.ranking.types import Feed
from model_server.freshness import Freshness

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
AGE_SECONDS = (1.0, 5.0, 15.0, 60.0, 600.0, 3600.0, 86400.0, 604800.0)


class Metrics(Collector):
    """The server's own counts, and what is looked up whenever somebody asks."""

    def __init__(self, features: FeatureStore, live: Live, freshness: Freshness) -> None:
        self._features, self._live, self._freshness = features, live, freshness
        self._registry = CollectorRegistry()
        self._requests = Counter("feedloop_http_requests", "Requests answered", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "feedloop_http_request_seconds", "Seconds from a request to its answer", ["path"],
            buckets=REQUEST_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._age = Histogram(
            "feedloop_stored_feed_age_seconds", "Seconds since a stored feed that was served had been made",
            buckets=AGE_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def seen(self, path: str, status: int, seconds: float) -> None:
        """One more request to this path template."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def served(self, stored: Feed) -> None:
        """One more stored feed."""
        self._age.observe(max(0.0, time.time() - stored.made_at.timestamp()))

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What is looked up."""
        yield GaugeMetricFamily(
            "feedloop_champion_generation", "Generation of the champion that ranks; 0: none", self._live.generation
        )
        champion = GaugeMetricFamily("feedloop_champion_info", "The version that ranks", labels=["version"])
        if self._live.version is not None:
            champion.add_metric([self._live.version], 1)
        yield champion
        refresh = GaugeMetricFamily("feedloop_catalogue_refresh_age_seconds", "Seconds since the catalogue was last refreshed")
        if (age := self._live.refresh_age) is not None:
            refresh.add_metric([], age)
        yield refresh
        yield GaugeMetricFamily(
            "feedloop_stored_feeds_behind_seconds",
            "How long a stored feed of somebody served lately has not known what the features know, at most",
            self._freshness.seconds,
        )
        counters = self._counters()
        yield GaugeMetricFamily("feedloop_redis_up", "Whether Redis answers", int(counters is not None))
        events = CounterMetricFamily("feedloop_events", "What the processes have counted", labels=["process", "what"])
        for name, n in sorted((counters or {}).items()):
            process, _, what = name.partition(".")
            events.add_metric([process, what], n)
        yield events

    def _counters(self) -> dict[str, int] | None:
        """What other processes count; None if Redis does not answer."""
        try:
            return self._features.tallies()
        except TRANSIENT:
            return None
