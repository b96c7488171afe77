"""Which key-value engine the settings name; its client library is imported only then."""

from __future__ import annotations

from moontide.errors import Misconfigured
from moontide.settings import Settings
from moontide.stores.kv import Clock, KeyValue


def open_engine(settings: Settings, clock: Clock) -> KeyValue:
    """Open the engine; ``memory`` is a new, empty one each time.

    Raises:
        Misconfigured: the client library is missing, or the address or folder is wrong.
        Transient: the server does not answer.
    """
    openers = {"lmdb": _lmdb, "redis": _redis, "memory": _memory}
    try:
        return openers[settings.online](settings, clock)
    except ImportError as error:
        raise Misconfigured(
            f"online store {settings.online}: expected its client library, got: {error}; pip install 'moontide[serve]'"
        ) from error


def _lmdb(settings: Settings, clock: Clock) -> KeyValue:
    from moontide.stores.kv_lmdb import LmdbKeyValue
    from moontide.stores.kv_lmdb_environment import LmdbOptions

    options = LmdbOptions(settings.lmdb_map_size, settings.lmdb_max_readers, settings.lmdb_sync)
    return LmdbKeyValue(settings.lmdb_path, options, clock)


def _redis(settings: Settings, clock: Clock) -> KeyValue:
    from moontide.stores.kv_redis import RedisKeyValue

    return RedisKeyValue(settings.redis_url.get_secret_value(), cluster=settings.redis_cluster)


def _memory(settings: Settings, clock: Clock) -> KeyValue:
    from moontide.stores.kv_memory import MemoryKeyValue

    return MemoryKeyValue()
