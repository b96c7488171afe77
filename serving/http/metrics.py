"""What the server counts and times, for Prometheus. `docs/reference/http.md` is the prose twin of this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

#: Seconds of one request: fine around the target of 2 ms.
SECONDS: Final = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CANDIDATES: Final = (0, 1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
ROUTES: Final = (
    "/v1/features", "/v1/prefetch", "/v1/similar", "/v1/sequence", "/healthz", "/readyz", "/metrics", "/openapi.json", "/console",
)  # fmt: skip
PREFETCHES: Final = ("hit", "stale", "late", "miss", "off")
OTHER: Final = "other"

# One "created" series beside each counter doubles a page for nobody.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one worker; thread-safe.

    Args:
        folder: where the workers of a server keep their values, of which `render` shows the sums; it must be the one that
            ``PROMETHEUS_MULTIPROC_DIR`` named when this process began. None: this process alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.registry = CollectorRegistry()
        self._requests = self._counter("moontide_serving_requests", "Requests, by page and status", "route", "status")
        self._seconds = self._histogram(
            "moontide_serving_request_seconds", "From the headers to the end of the answer", "route", buckets=SECONDS
        )
        self._candidates = self._histogram(
            "moontide_serving_request_candidates", "Candidates of one request", "service", buckets=CANDIDATES
        )
        self._served = self._counter("moontide_serving_candidates", "Candidates served", "service", "space")
        self._absent = self._counter("moontide_serving_candidates_absent", "Of those, without a vector", "service", "space")
        self._compared = self._counter("moontide_serving_behaviours", "Behaviours of served candidates", "service", "space")
        self._missing = self._counter("moontide_serving_behaviours_missing", "Of those, not compared", "service", "space")
        self._prefetch = self._counter("moontide_serving_prefetch", "Requests by what prefetch did for them", "outcome")

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request ended; `status` 499: its caller went away first."""
        route = path if path in ROUTES else OTHER
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def served(self, table: pa.Table) -> None:
        """One table of `RankingClient.features` went out."""
        said: Mapping[bytes, bytes] = table.schema.metadata or {}
        service, space = said.get(b"service", b"").decode(), said.get(b"space", b"").decode()
        self._candidates.labels(service).observe(len(table))
        present = table.column("embedding_present").to_numpy()
        counts = sum(int(chunk.flatten().to_numpy().sum()) for chunk in table.column("counts").chunks)
        missing = int(table.column("missing").to_numpy().sum())
        self._served.labels(service, space).inc(len(table))
        self._absent.labels(service, space).inc(len(table) - int(present.sum()))
        self._compared.labels(service, space).inc(counts + missing)
        self._missing.labels(service, space).inc(missing)
        outcome = said.get(b"prefetch", b"off").decode()
        self._prefetch.labels(outcome if outcome in PREFETCHES else OTHER).inc()

    def render(self) -> tuple[bytes, str]:
        """The page of ``/metrics`` and its media type."""
        registry = self.registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)
