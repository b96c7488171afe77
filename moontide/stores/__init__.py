"""Adapters, one file per system: online (packed records), index (Milvus), offline (Parquet).

Each function opens what the settings name and imports its client library only then.
"""

from __future__ import annotations

from moontide.errors import Misconfigured
from moontide.settings import Settings
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.kv import Clock, wall_clock


def online_store(settings: Settings, *, clock: Clock = wall_clock) -> OnlineStore:
    """The online store that ``settings.online`` names; ``memory`` is a new, empty one each time.

    `clock` gives microseconds since the epoch; it decides what has expired.

    Raises:
        Misconfigured: the client library is missing, or the address or folder is wrong.
        Transient: the server does not answer.
    """
    from moontide.stores.engines import open_engine
    from moontide.stores.online import PackedOnlineStore

    engine = open_engine(settings, clock)
    return PackedOnlineStore(engine, project=settings.project, clock=clock, sequence_length=settings.sequence_length)


def vector_index(settings: Settings, *, timeout: float = 30.0) -> VectorIndex:
    """The vector index at ``settings.milvus_uri``: a Milvus server, or a milvus-lite file that only this process may open.

    `timeout` is the seconds one call may take.

    Raises:
        Misconfigured: the client library is missing, no such kind of address, refused credentials, or a file another process has
            open.
        Transient: the server does not answer.
    """
    try:
        from moontide.stores.index import MilvusIndex
    except ImportError as error:
        raise Misconfigured(f"index: expected pymilvus and milvus-lite, got: {error}; pip install 'moontide[serve]'") from error
    return MilvusIndex(settings.milvus_uri, token=settings.index_token.get_secret_value(), timeout=timeout)
