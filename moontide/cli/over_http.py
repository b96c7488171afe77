"""The demo's last part: the feature server as a process of its own, asked as a ranking service would."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from moontide.cli.gather import Catalog, Site
from moontide.cli.measure import Check, columns_of, equal
from moontide.client import Client

_CANDIDATES: Final = 500
_REQUESTS: Final = 200
_WARM_UP: Final = 20
#: A demo beside other work: what is measured is how long an answer takes, not whether one comes in time.
_SECONDS: Final = 30.0


def ask(
    site: Site, catalog: Catalog, pairs: Mapping[str, Sequence[str]], url: str
) -> tuple[Check, list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Whether the server gives `RankingClient`'s values for every pair; rows of the table; the figure that is shown large."""
    service = site.service
    items, users = list(catalog.rows)[:_CANDIDATES], list(pairs)
    with Client(url, timeout=_SECONDS) as client:
        theirs, ours = columns_of(client, service, pairs), columns_of(site.client, service, pairs)
        check = equal("features over HTTP = RankingClient", ours, theirs, service)
        p50, p99 = latency(lambda n: client.features(users[n % len(users)], items, service=service.name))
    inside, _ = latency(lambda n: site.client.features(users[n % len(users)], items, service=service.name))
    row = (f"{len(items)} candidates over HTTP, p50", f"{p50:.1f} ms", f"p99 {p99:.1f} ms, Arrow; {inside:.1f} ms in process")
    return check, [row], [(f"{p50:.1f} ms", f"for {len(items)} candidates over HTTP (p50)")]


def latency(ask_one: Callable[[int], object]) -> tuple[float, float]:
    """(p50, p99) in milliseconds of `ask_one`, called with 0, 1, 2, ..."""
    took = []
    for number in range(_WARM_UP + _REQUESTS):
        start = time.perf_counter()
        ask_one(number)
        took.append(1e3 * (time.perf_counter() - start))
    return float(np.percentile(took[_WARM_UP:], 50)), float(np.percentile(took[_WARM_UP:], 99))
