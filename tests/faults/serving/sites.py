"""The sites that scenarios share: one on LMDB with two workers, one on a Redis of its own; each started when first asked for."""

from __future__ import annotations

from pathlib import Path

from moontide.settings import Settings
from moontide.stores import online_store
from tests.conftest import RedisServer
from tests.faults.serving import values
from tests.faults.serving.writing import Ledger, Writer
from tests.kafka_broker import free_port
from tests.serving_site import ServingSite

#: Short, so that a slow client is cut off within a test.
BODY_SECONDS = 1.0
WORKERS = 2


class Site:
    """A running server, its store's settings, and what is committed in it."""

    def __init__(self, folder: Path, options: dict, *, settings: dict, workers: int):
        self.options = options
        self.ledger = Ledger()
        store = online_store(Settings(**options))
        values.fill(store)
        store.close()
        limits = {"serving_body_seconds": BODY_SECONDS, **settings}
        self.server = ServingSite(folder, values.TOML, redis_url=options.get("redis_url"), settings=limits)
        self.server.start(workers=workers)

    @property
    def port(self):
        return self.server.port

    def writer(self):
        return Writer(self.options, self.ledger)

    def table(self):
        """The store, open: for what a scenario looks up by itself."""
        return online_store(Settings(**self.options))


class Sites:
    """Made as needed below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lmdb: Site | None = None
        self._redis: Site | None = None
        self.redis_server: RedisServer | None = None
        self.index_port = free_port()

    def lmdb(self) -> Site:
        """Two workers; its index is a Milvus server on `index_port` that a scenario may start."""
        if self._lmdb is None:
            folder = self.folder / "lmdb"
            options = {"online": "lmdb", "home": str(folder / "home"), "lmdb_map_size": 1 << 28}
            settings = {"lmdb_map_size": 1 << 28, "index_uri": f"http://127.0.0.1:{self.index_port}"}
            self._lmdb = Site(folder, options, settings=settings, workers=WORKERS)
        return self._lmdb

    def redis(self) -> Site:
        """One worker; Redis appends each write to a file, so that a restart loses nothing."""
        if self._redis is None:
            folder = self.folder / "redis"
            folder.mkdir(parents=True)
            self.redis_server = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always").start()
            options = {"online": "redis", "home": str(folder / "home"), "redis_url": self.redis_server.url}
            self._redis = Site(folder, options, settings={}, workers=1)
        return self._redis

    def close(self):
        for site in (self._lmdb, self._redis):
            if site is not None:
                site.server.stop()
        if self.redis_server is not None:
            self.redis_server.stop()
