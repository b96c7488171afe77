"""Feast online-store plug-ins: every stock Feast call, on moontide's packed and fenced records.

.. code-block:: yaml

    online_store:
        type: moontide.stores.feast_plugin.LmdbOnlineStore      # or ...RedisOnlineStore

What they add to the interface they implement: a write obeys the write rule (an older one is stale and changes nothing), sequences
merge, a tombstone hides its entity, and `FeatureView.ttl` holds at read (an expired row keeps its timestamp and has no value).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from feast.infra.online_stores.online_store import OnlineStore as FeastOnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.repo_config import FeastConfigBaseModel
from pydantic import SecretStr

from moontide import names
from moontide.settings import Settings, load_settings
from moontide.stores import online_store
from moontide.stores.base import OnlineStore, Status
from moontide.stores.feast_foreign import FeastRow
from moontide.stores.feast_values import EPOCH
from moontide.stores.feast_views import OWN_PREFIXES, BoundView, ViewBinder

logger = logging.getLogger(__name__)

#: Feast's answer per entity: event time and values; no values where nothing is served, no time where nothing was ever written.
Answer = tuple[datetime | None, dict[str, Any] | None]


class PackedFeastStore(FeastOnlineStore):  # type: ignore[misc]
    """What both plug-ins share; a subclass says which settings it opens the store with."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._store: OnlineStore | None = None
        self._binder: ViewBinder | None = None

    def settings(self, config: Any) -> Settings:
        """What this plug-in runs with: `Settings`, overridden by `online_store` of the repository's configuration."""
        raise NotImplementedError

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes run in a thread, so an event loop never waits for the store."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self, config: Any, table: Any, data: Sequence[FeastRow], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows, each fenced in the store's own transaction; a stale row changes nothing and is no error.

        Raises:
            Poison: a null `source_version`, `deleted` or required value, or an invalid id. Nothing was written.
            Misconfigured: the feature view is not the one the store knows by this name.
            Transient: the store did not answer; writing the same rows again is safe.
        """
        if not data:
            return
        bound = self._bind(config, table)
        self.packed(config).write_rows(bound.spec, bound.rows(data))
        if progress:
            progress(len(data))

    def online_read(
        self, config: Any, table: Any, entity_keys: Sequence[Any], requested_features: Sequence[str] | None = None
    ) -> list[Answer]:
        """One answer per entity key, in order. An expired or deleted entity keeps its timestamp and has no values."""
        if not entity_keys:
            return []
        bound = self._bind(config, table)
        declared = [f.name for f in table.features]
        wanted = [f for f in dict.fromkeys(requested_features or declared) if f in declared]
        return _answers(self.packed(config), bound, entity_keys, wanted)

    async def online_write_batch_async(
        self, config: Any, table: Any, data: Sequence[FeastRow], progress: Callable[[int], Any] | None
    ) -> None:
        """`online_write_batch` in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    async def online_read_async(
        self, config: Any, table: Any, entity_keys: Sequence[Any], requested_features: Sequence[str] | None = None
    ) -> list[Answer]:
        """`online_read` in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,  # noqa: FBT001
    ) -> None:
        """Check that the store knows every kept view. Creates nothing; never deletes a record of moontide's views.

        ``feast apply`` from an old checkout asks to delete whatever that checkout does not know, live spaces included. Views of
        other definitions are deleted only where ``delete_dropped_views`` is set.
        """
        for table in tables_to_keep:
            self._bind(config, table)
        if config.online_store.delete_dropped_views:
            self._drop(config, tables_to_delete)

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Delete the records of the given foreign views; moontide's own stay (`OnlineStore.drop_view` removes them)."""
        self._drop(config, tables)

    def delete_entities(self, config: Any, table: Any, entity_keys: Sequence[Any]) -> int:
        """Remove entities for good, with no tombstone; returns how many there were. Feast itself has no such call."""
        bound = self._bind(config, table)
        return self.packed(config).delete(bound.spec, [i for i in bound.ids(entity_keys) if i is not None])

    def packed(self, config: Any) -> OnlineStore:
        """The store below: its packed reads skip Feast's value per float."""
        with self._lock:
            if self._store is None:
                self._store = online_store(self.settings(config))
            return self._store

    async def initialize(self, config: Any) -> None:
        """Open the store, so that the first request does not wait for it."""
        await asyncio.to_thread(self.packed, config)

    async def close(self) -> None:
        """Release the store; the next call opens it again."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def _bind(self, config: Any, table: Any) -> BoundView:
        return self._views(config).bind(config.project, table)

    def _views(self, config: Any) -> ViewBinder:
        if self._binder is None:
            self._binder = ViewBinder(self.settings(config), config.repo_path and Path(config.repo_path))
        return self._binder

    def _drop(self, config: Any, tables: Sequence[Any]) -> None:
        views = self._views(config)
        for table in tables:
            if views.own(config.project, table.name) is not None or table.name.startswith(OWN_PREFIXES):
                logger.warning("%s: its records stay in the online store, only `OnlineStore.drop_view` deletes them", table.name)
            else:
                self.packed(config).drop_view(views.bind(config.project, table).spec)


def _answers(store: OnlineStore, bound: BoundView, entity_keys: Sequence[Any], wanted: Sequence[str]) -> list[Answer]:
    ids = bound.ids(entity_keys)
    answers: list[Answer] = [(None, None)] * len(ids)
    rows = [n for n, i in enumerate(ids) if i is not None]
    found = store.read_columns(bound.spec, [i for i in ids if i is not None], bound.fields(wanted))
    times = found.column(names.EVENT_TIMESTAMP).cast("int64").to_pylist()
    values = list(zip(*bound.values(found, wanted), strict=True)) if wanted else [()] * len(rows)
    for n, (row, status) in enumerate(zip(rows, found.column("status").to_pylist(), strict=True)):
        if status != Status.ABSENT:
            served = dict(zip(wanted, values[n], strict=True)) if status == Status.PRESENT else None
            answers[row] = (EPOCH + timedelta(microseconds=times[n]), served)
    return answers


class LmdbOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`online_store` of ``feature_store.yaml``; what is left out comes from `Settings` (``MOONTIDE_*``).

    Attributes:
        home: folder of the site; the store lies in ``<home>/online``. A relative one starts at the feature repo.
        delete_dropped_views: let ``feast apply`` delete the records of views it drops (never those of moontide's own views).
    """

    type: Literal["moontide.stores.feast_plugin.LmdbOnlineStore"] = "moontide.stores.feast_plugin.LmdbOnlineStore"
    home: str | None = None
    delete_dropped_views: bool = False


class LmdbOnlineStore(PackedFeastStore):
    """Feast on the embedded store: one LMDB file that many processes read and write."""

    def settings(self, config: Any) -> Settings:
        """See `PackedFeastStore.settings`."""
        home = config.online_store.home
        placed = {} if home is None else {"home": Path(config.repo_path or ".") / home}
        return load_settings(online="lmdb", **placed)


class RedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`online_store` of ``feature_store.yaml``; what is left out comes from `Settings` (``MOONTIDE_*``).

    Attributes:
        url: ``redis://`` or ``rediss://`` URL.
        cluster: whether `url` is a node of a Redis Cluster.
        delete_dropped_views: let ``feast apply`` delete the records of views it drops (never those of moontide's own views).
    """

    type: Literal["moontide.stores.feast_plugin.RedisOnlineStore"] = "moontide.stores.feast_plugin.RedisOnlineStore"
    url: SecretStr | None = None
    cluster: bool | None = None
    delete_dropped_views: bool = False


class RedisOnlineStore(PackedFeastStore):
    """Feast on Redis, Valkey or Dragonfly, alone or in a cluster."""

    def settings(self, config: Any) -> Settings:
        """See `PackedFeastStore.settings`."""
        chosen = {"redis_url": config.online_store.url, "redis_cluster": config.online_store.cluster}
        return load_settings(online="redis", **{name: value for name, value in chosen.items() if value is not None})
