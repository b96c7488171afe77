"""What the server counts and times, for Prometheus. `docs/reference/http.md` is the prose twin of this file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
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

from serving.features import Features
from serving.http.metrics_files import reading

#: Seconds of one request: fine around the target of 2 ms.
SECONDS: Final = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CANDIDATES: Final = (0, 1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
ROUTES: Final = (
    "/v1/features", "/v1/prefetch", "/v1/similar", "/v1/sequence", "/healthz", "/readyz", "/metrics", "/openapi.json", "/console",
)  # fmt: skip
OTHER: Final = "other"
_LOOK_SECONDS: Final = 1.0

# One "created" series beside each counter doubles a page for nobody.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Bound(NamedTuple):
    """What one answer is counted in, its labels looked up once."""

    candidates: Histogram
    served: Counter
    absent: Counter
    behaviours: Counter
    missing: Counter
    prefetch: Counter


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
        self._behaviours = self._counter(
            "moontide_serving_behaviours", "Behaviours, once for each candidate compared with them", "service", "space"
        )
        self._missing = self._counter("moontide_serving_behaviours_missing", "Of those, in no tier", "service", "space")
        self._prefetch = self._counter("moontide_serving_prefetch", "Requests by what prefetch did for them", "outcome")
        self._prefetch_failed = self._counter("moontide_serving_prefetch_failed", "User sides that could not be read ahead")

        self._lost = self._gauge("moontide_serving_log_lost", "Requests that could not be written to the request log")
        self._kernel = self._gauge("moontide_serving_kernel_info", "Workers by the kernel that counts their tiers", "kernel")
        self._bound: dict[tuple[str, str, str], _Bound] = {}
        self._watched: list[Callable[[], None]] = []
        self._look = 0.0

    def kernel(self, name: str) -> None:
        """Which kernel this worker counts tiers with."""
        self._kernel.labels(name).set(1)

    def watch(self, look: Callable[[], None]) -> None:
        """Call `look`, which sets metrics of its own, about once a second while requests come, and before `render`."""
        self._watched.append(look)

    def watch_lost(self, read: Callable[[], float]) -> None:
        """Where to read how many requests the log lost."""
        self.watch(lambda: self._lost.set(read()))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request ended; `status` 499: its caller went away first."""
        route = path if path in ROUTES else OTHER
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._read_watched()

    def served(self, found: Features) -> None:
        """One answer of `RankingClient.read` goes out."""
        of = found.metadata["service"], found.metadata["space"], found.metadata["prefetch"]
        bound = self._bound.get(of) or self._bound.setdefault(of, self._bind(*of))
        count, missing = len(found), int(found.missing.sum())
        bound.candidates.observe(count)
        bound.served.inc(count)
        bound.absent.inc(count - int(np.count_nonzero(found.present)))
        bound.behaviours.inc(int(found.counts.sum()) + missing)
        bound.missing.inc(missing)
        bound.prefetch.inc()

    def _bind(self, service: str, space: str, prefetch: str) -> _Bound:
        of = service, space
        return _Bound(
            self._candidates.labels(service),
            self._served.labels(*of),
            self._absent.labels(*of),
            self._behaviours.labels(*of),
            self._missing.labels(*of),
            self._prefetch.labels(prefetch),
        )

    def prefetch_failed(self) -> None:
        """A user side could not be read ahead."""
        self._prefetch_failed.inc()

    def render(self) -> tuple[bytes, str]:
        """The page of ``/metrics`` and its media type."""
        self._read_watched(always=True)
        if self._folder is None:
            return generate_latest(self.registry), CONTENT_TYPE_LATEST
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        with reading(self._folder):
            return generate_latest(registry), CONTENT_TYPE_LATEST

    def _read_watched(self, *, always: bool = False) -> None:
        """Another worker may be the one that is asked, so what changes unseen is written down every second."""
        now = time.monotonic()
        if always or now - self._look >= _LOOK_SECONDS:
            self._look = now
            for look in self._watched:
                look()

    def shared(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of something that all workers see alike: what was seen last counts, or one that idles would hold it up."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livemostrecent")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter; the workers' are summed."""
        return self._counter(name, text, *labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)
