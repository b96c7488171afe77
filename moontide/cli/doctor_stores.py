"""The checks of ``moontide doctor`` that look into stores. None of them creates or changes anything."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from moontide import names, views
from moontide.cli.console import one_line, size
from moontide.cli.doctor import Finding, Level
from moontide.errors import Misconfigured, MoontideError
from moontide.live import LiveSpaces
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore

_MARKS_SHOWN = 100_000
_CHUNK = 10_000
_FULL = 0.8


def online(settings: Settings, live: LiveSpaces) -> Iterator[Finding]:
    """Reachable, how full, records per view, items the index has yet to take over."""
    if settings.online == "lmdb":
        if not (settings.lmdb_path / "data.mdb").exists():
            yield Finding(Level.NOTE, "lmdb", f"nothing in {settings.lmdb_path} yet")
            return
        yield from _lmdb(settings)
    if settings.online == "redis":
        answer = _redis(settings)
        yield answer
        if answer.ended:
            return
    store = _open(settings)
    try:
        for view in live.views():
            yield Finding(Level.OK, view.name, f"{store.count(view):,} records")
        for entry in live.spaces:
            waiting = len(store.dirty(entry.space, _MARKS_SHOWN))
            more = " or more" if waiting == _MARKS_SHOWN else ""
            level = Level.NOTE if waiting else Level.OK
            yield Finding(level, f"dirty marks {entry.space.id}", f"{waiting:,}{more} items the index has yet to take over")
    finally:
        store.close()


def _open(settings: Settings) -> OnlineStore:
    from moontide.stores import online_store

    return online_store(settings)


def _lmdb(settings: Settings) -> Iterator[Finding]:
    import lmdb

    # Opened and closed before the store is: one environment per file and process.
    try:
        with lmdb.open(str(settings.lmdb_path), readonly=True, max_readers=settings.lmdb_max_readers) as env:
            info, page = env.info(), env.stat()["psize"]
    except lmdb.Error as error:
        raise Misconfigured(
            f"online store {settings.lmdb_path}: expected an LMDB file that can be read, got: {error}; "
            "where it is damaged, move it away and load the store again"
        ) from error
    used, limit = (info["last_pgno"] + 1) * page, max(info["map_size"], settings.lmdb_map_size)
    level = Level.BAD if used > _FULL * limit else Level.OK
    advice = "; raise MOONTIDE_LMDB_MAP_SIZE in every process" if level is Level.BAD else ""
    yield Finding(level, "map", f"{size(used)} of {size(limit)} used ({100 * used / limit:.1f} %){advice}")
    readers, slots = info["num_readers"], info["max_readers"]
    level = Level.BAD if readers > _FULL * slots else Level.OK
    yield Finding(level, "reader slots", f"{readers} of {slots} taken at most so far")


def _redis(settings: Settings) -> Finding:
    import redis

    try:
        client = redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5)
        info = client.info("memory")
        client.close()
    except (redis.RedisError, ValueError) as error:
        said = f"expected an answer, got {type(error).__name__}: {one_line(str(error))[:200]}"
        return Finding(Level.BAD, "redis", said, ended=True)
    policy = info.get("maxmemory_policy", "")
    if policy not in {"", "noeviction"}:
        return Finding(
            Level.BAD, "redis", f"expected maxmemory-policy noeviction, got {policy}: records would vanish without a word"
        )
    return Finding(Level.OK, "redis", f"answers, {size(info['used_memory'])} in memory")


def offline(settings: Settings, live: LiveSpaces) -> Iterator[Finding]:
    """Files, bytes and current rows per table."""
    from moontide.stores.offline import OfflineTables

    tables = OfflineTables(settings.offline_root)
    for view in live.views():
        files = tables.tree.files(tables.folder(view))
        rows = tables.latest_heads(view).num_rows if files else 0
        yield Finding(Level.OK, view.name, f"{rows:,} entities in {len(files)} file{'' if len(files) == 1 else 's'}")


def index(settings: Settings, live: LiveSpaces) -> Iterator[Finding]:
    """Rows per space and where the alias points."""
    from moontide.stores import vector_index

    embedded = "://" not in settings.milvus_uri
    if embedded and not Path(settings.milvus_uri).exists():
        yield Finding(Level.NOTE, "milvus-lite", f"nothing at {settings.milvus_uri} yet")
        return
    try:
        opened = vector_index(settings)
        for space in (entry.space for entry in live.spaces):
            yield Finding(Level.OK, space.collection, f"{opened.count(space):,} rows")
            served = opened.resolve_alias(space.name)
            yield Finding(Level.OK if served else Level.NOTE, space.alias, f"points at {served or 'nothing yet'}")
    except Misconfigured as error:
        if not embedded or "another process" not in str(error):
            raise
        yield Finding(
            Level.NOTE, "milvus-lite", "in use by another process, which alone may open it; stop that one to look inside"
        )
        return
    opened.close()
    if embedded:
        yield Finding(Level.OK, "size", size(_bytes(Path(settings.milvus_uri))))


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(os.path.getsize(os.path.join(root, file)) for root, _, files in os.walk(path) for file in files)


def coverage(settings: Settings, live: LiveSpaces, failed: Container[str] = ()) -> Iterator[Finding]:
    """Whether what is current offline is also online, and what has a vector online is in the index.

    Args:
        failed: titles of checks that ended in an error; what they could not read is not read again.
    """
    from moontide.stores.offline import OfflineTables

    for needed in ("online store", "offline tables"):
        if needed in failed:
            yield Finding(Level.NOTE, needed, "nothing to compare: it cannot be read, see above")
            return
    if settings.online == "lmdb" and not (settings.lmdb_path / "data.mdb").exists():
        yield Finding(Level.NOTE, "online", "nothing to compare yet")
        return
    tables, rows = OfflineTables(settings.offline_root), _index_rows(settings, live)
    store = _open(settings)
    try:
        for space in (entry.space for entry in live.spaces):
            heads = tables.latest_heads(views.embedding_view(space))
            current = [
                i for i, gone in zip(heads[names.ITEM_ID].to_pylist(), heads["deleted"].to_pylist(), strict=True) if not gone
            ]
            yield from compare(space, len(current), _present(store, space, current), rows.get(space.id))
    finally:
        store.close()


def compare(space: EmbeddingSpace, offline_items: int, online_vectors: int, index_rows: int | None) -> Iterator[Finding]:
    """What the three counts of a space say; `index_rows` is None where the index cannot be looked into."""
    lacking = offline_items - online_vectors
    level = Level.BAD if lacking else Level.OK
    advice = f"; {lacking:,} are missing: run the backfill again" if lacking else ""
    yield Finding(level, f"{space.id} online", f"{online_vectors:,} of {offline_items:,} items current offline{advice}")
    if index_rows is None:
        yield Finding(Level.NOTE, f"{space.id} index", "not compared")
        return
    behind = index_rows < online_vectors
    advice = f"; {online_vectors - index_rows:,} are missing: run the backfill again" if behind else ""
    yield Finding(
        Level.BAD if behind else Level.OK,
        f"{space.id} index",
        f"{index_rows:,} rows for {online_vectors:,} vectors online{advice}",
    )


def _present(store: OnlineStore, space: EmbeddingSpace, ids: Sequence[str]) -> int:
    return sum(int(store.read_embeddings(space, ids[at : at + _CHUNK]).present.sum()) for at in range(0, len(ids), _CHUNK))


def _index_rows(settings: Settings, live: LiveSpaces) -> dict[str, int]:
    from moontide.stores import vector_index

    if "://" not in settings.milvus_uri and not Path(settings.milvus_uri).exists():
        return {}
    try:
        opened = vector_index(settings)
        try:
            return {entry.space.id: opened.count(entry.space) for entry in live.spaces}
        finally:
            opened.close()
    except MoontideError:
        # The check of the index has said it.
        return {}
