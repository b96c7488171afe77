"""The figures and comparisons the demo ends with."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from moontide import names, views
from moontide.cli.console import size
from moontide.cli.gather import Catalog, Site, modality
from moontide.client import Client
from moontide.live import Service
from serving import RankingClient

_READ_ROWS: Final = 1_000
_READS: Final = 300
_WARM_UP: Final = 20


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison and its outcome, in words."""

    name: str
    passed: bool
    outcome: str


def compare(site: Site, pairs: Mapping[str, Sequence[str]]) -> list[Check]:
    """The service's features of every pair: in process, by Feast online, by Feast point in time; they must be equal."""
    from feast import FeatureStore

    rows = [{"user_id": user, "item_id": item} for user, items in pairs.items() for item in items]
    ranking = columns_of(site.client, site.service, pairs)
    feast = FeatureStore(repo_path=str(site.repo))
    service = feast.get_feature_service(site.service.name)
    online = feast.get_online_features(features=service, entity_rows=rows).to_dict()
    entities = pd.DataFrame(rows).assign(event_timestamp=datetime.now(UTC))
    past = feast.get_historical_features(entity_df=entities, features=service).to_df()
    past = past.set_index(["user_id", "item_id"]).loc[[(row["user_id"], row["item_id"]) for row in rows]].reset_index()
    return [
        equal("Feast online = RankingClient", ranking, online, site.service),
        equal("Feast point in time = RankingClient", ranking, past.to_dict("list"), site.service),
    ]


def columns_of(client: Client | RankingClient, service: Service, pairs: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """The features of every pair, as columns."""
    columns: dict[str, list[Any]] = {}
    for user, items in pairs.items():
        got = client.features(user, list(items), service=service.name).to_pydict()
        for name, values in got.items():
            columns.setdefault(name, []).extend(values)
    return columns


def equal(name: str, ours: Mapping[str, list[Any]], theirs: Mapping[str, list[Any]], service: Service) -> Check:
    """Whether two tables of a service's features, as columns, hold the same values row by row."""
    wrong: Counter[str] = Counter()
    compared = ["embedding", "counts", "missing", *service.item_fields]
    for column in compared:
        for mine, other in zip(ours[column], theirs[column], strict=True):
            wrong[column] += not _same(mine, other)
    total, bad = len(ours["missing"]) * len(compared), sum(wrong.values())
    detail = ", ".join(f"{column}: {count}" for column, count in wrong.items() if count)
    return Check(
        name, not bad, f"{total - bad:,} of {total:,} values equal" + (f" (different: {detail})" if bad else ", bit for bit")
    )


def _same(mine: Any, other: Any) -> bool:
    if mine is None or other is None:
        return _missing(mine) and _missing(other)
    if isinstance(mine, str):
        return bool(mine == other)
    left, right = np.asarray(mine, np.float32), np.asarray(other, np.float32)
    return bool(left.shape == right.shape and np.array_equal(left, right, equal_nan=True))


def _missing(value: Any) -> bool:
    return value is None or (np.ndim(value) == 0 and bool(pd.isna(value)))


def figures(site: Site, catalog: Catalog, out: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Headline figures, and the rows of the table."""
    ids = list(catalog.rows)
    kinds = Counter(modality(row) for row in catalog.rows.values())
    present = int(site.store.read_embeddings(site.service.space, ids).present.sum())
    indexed = site.index.count(site.service.space)
    latency = read_latency(site, ids)
    seconds = json.loads((out / "steps.json").read_text(encoding="utf-8"))
    encode = seconds.get("jobs.backfill_embeddings", 0.0)
    rate = len(ids) / encode if encode else 0.0
    p50, p99 = latency
    index_size = size(folder_size(Path(site.settings.milvus_uri)))
    users = site.store.count(views.user_sequence(site.service.simtier.sequence))
    tiers = site.store.count(views.simtier_view(site.service.simtier))
    headline = [
        (f"{len(ids):,}", "items encoded"),
        (f"{100 * present / len(ids):.1f} %", "of them online"),
        (f"{rate:,.0f} / s", "items, Spark start-up included"),
        (f"{p50:.2f} ms", f"to read {_READ_ROWS:,} vectors (p50)"),
        (f"{users:,}", "user sequences"),
    ]
    rows = [
        *((f"items, {kind}", f"{count:,}", "") for kind, count in kinds.most_common()),
        ("backfill", f"{rate:,.0f} items/s", f"{encode:.1f} s for the whole job, Spark start-up, stores and index included"),
        ("coverage online", f"{100 * present / len(ids):.1f} %", f"{present:,} of {len(ids):,} items have a vector"),
        ("coverage of the index", f"{100 * indexed / max(present, 1):.1f} %", f"{indexed:,} rows"),
        ("size of the index", index_size, Path(site.settings.milvus_uri).name),
        ("size of the online store", size(folder_size(site.settings.lmdb_path)), "LMDB, every view"),
        ("user sequences", f"{users:,}", "users"),
        ("tiers computed ahead", f"{tiers:,}", "(user, item) pairs"),
        (f"packed read of {_READ_ROWS:,} ids, p50", f"{p50:.2f} ms", f"{site.service.space.dim} dimensions, in process"),
        (f"packed read of {_READ_ROWS:,} ids, p99", f"{p99:.2f} ms", f"{_READS} reads"),
    ]
    return headline, rows


def read_latency(site: Site, ids: Sequence[str]) -> tuple[float, float]:
    """(p50, p99) in milliseconds of a packed read of `_READ_ROWS` random items."""
    random = np.random.default_rng(0)
    wanted = [list(random.choice(ids, _READ_ROWS)) for _ in range(8)]
    wanted = [names.require_ids(map(str, batch)) for batch in wanted]
    took = []
    for number in range(_WARM_UP + _READS):
        start = time.perf_counter()
        site.store.read_embeddings(site.service.space, wanted[number % len(wanted)])
        took.append(time.perf_counter() - start)
    return float(np.percentile(took[_WARM_UP:], 50) * 1e3), float(np.percentile(took[_WARM_UP:], 99) * 1e3)


def folder_size(path: Path) -> int:
    """Bytes on disk of a file, or of all files below a folder (holes not counted)."""
    files = [path] if path.is_file() else [Path(root, name) for root, _, found in os.walk(path) for name in found]
    return sum(file.stat().st_blocks * 512 for file in files)
