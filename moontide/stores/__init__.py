"""Adapters, one file per system: online (packed records), index (Milvus), offline (Parquet).

Each function opens what the settings name and imports its client library only then.
"""

from __future__ import annotations

from moontide.settings import Settings
from moontide.stores.base import VectorIndex


def vector_index(settings: Settings) -> VectorIndex:
    """The vector index at ``settings.milvus_uri``: a Milvus server, or a milvus-lite file that only this process may open.

    Raises:
        Misconfigured: no such kind of address, refused credentials, or a file another process has open.
        Transient: the server does not answer.
    """
    from moontide.stores.index import MilvusIndex

    return MilvusIndex(settings.milvus_uri, token=settings.index_token.get_secret_value())
