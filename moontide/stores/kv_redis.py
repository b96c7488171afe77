"""The production engine: Redis, or Redis Cluster.

A key is ``mt:{<tag>}:r:<table><key>``: the tag of its bucket puts a record and the marks of its table (one hash per bucket) into
one cluster slot, so a script changes both at once. The buckets' slots are spread evenly over the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from zlib import crc32

import numpy as np
import redis
from redis import exceptions
from redis.cluster import RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from moontide.errors import Transient
from moontide.order import Outcome
from moontide.stores.kv import REMOVED, Combine, Outcomes
from moontide.stores.kv_redis_errors import RedisErrors
from moontide.stores.kv_redis_scripts import MARK, PUT, REMOVE, SWAP, UNMARK, Script

BUCKETS: Final = 64
_ROWS_PER_PIPELINE: Final = 5_000
_KEYS_PER_READ: Final = 10_000
_MERGES_PER_PIPELINE: Final = 200
_MERGE_ATTEMPTS: Final = 100
_SCAN_COUNT: Final = 1_000
_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 15.0


def _tags() -> tuple[bytes, ...]:
    """For each bucket the lowest number whose slot lies in that bucket's share of the cluster's slots."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < BUCKETS:
        tag = b"%d" % number
        found.setdefault(key_slot(tag) * BUCKETS // REDIS_CLUSTER_HASH_SLOTS, tag)
        number += 1
    return tuple(found[bucket] for bucket in range(BUCKETS))


TAGS: Final = _tags()


class RedisKeyValue:
    """`KeyValue` in Redis 6.2 or newer.

    Args:
        url: ``redis://`` or ``rediss://`` URL; the password in it is never shown.
        cluster: the URL names a node of a Redis Cluster.
    """

    def __init__(self, url: str, *, cluster: bool = False) -> None:
        self._errors = RedisErrors(url)
        self._cluster = cluster
        self._prefixes: dict[bytes, list[bytes]] = {}
        self._turn = 0
        options: dict[str, Any] = {"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": _ANSWER_SECONDS}
        with self._errors():
            self._client: Any = (RedisCluster if cluster else redis.Redis).from_url(url, **options)
            self._client.ping()

    def get(self, table: bytes, keys: Sequence[bytes], default: bytes) -> list[bytes]:
        """See `KeyValue.get`. One MGET, or one per slot on a cluster."""
        names = self._names(table, keys)
        with self._errors():
            if self._cluster:
                return self._get_by_slot(keys, names, default)
            found: list[bytes] = []
            for start in range(0, len(names), _KEYS_PER_READ):
                values = self._client.mget(names[start : start + _KEYS_PER_READ])
                found += [default if value is None else value for value in values]
            return found

    def put(self, table: bytes, keys: Sequence[bytes], records: Sequence[bytes], *, mark: bool) -> Outcomes:
        """See `KeyValue.put`."""
        return self._run(PUT, table, keys, b"1" if mark else b"", keys, records)

    def merge(self, table: bytes, keys: Sequence[bytes], combine: Combine) -> Outcomes:
        """See `KeyValue.merge`. Compare and set: a row that another writer changed meanwhile is combined again."""
        outcomes = np.full(len(keys), Outcome.EQUAL, np.int8)
        for start in range(0, len(keys), _MERGES_PER_PIPELINE):
            pending = list(range(start, min(start + _MERGES_PER_PIPELINE, len(keys))))
            for _ in range(_MERGE_ATTEMPTS):
                pending = self._merge_once(table, keys, combine, pending, outcomes)
                if not pending:
                    break
            else:
                raise Transient(
                    f"{self._errors.where}: expected to merge {len(pending)} rows, got overtaken each time; try again"
                )
        return outcomes

    def remove(self, table: bytes, keys: Sequence[bytes], *, mark: bool) -> int:
        """See `KeyValue.remove`."""
        return int(self._run(REMOVE, table, keys, REMOVED if mark else b"", keys).sum())

    def drop(self, table: bytes) -> int:
        """See `KeyValue.drop`."""
        found = 0
        for keys in self.scan(table):
            found += self._unlink(self._names(table, keys))
        self._unlink([self._marks(table, bucket) for bucket in range(BUCKETS)])
        return found

    def scan(self, table: bytes) -> Iterator[list[bytes]]:
        """See `KeyValue.scan`. Walks the keys of the whole database; while it grows or shrinks a key may come twice."""
        pattern = b"mt:{*}:r:" + _escaped(table) + b"*"
        chunk: list[bytes] = []
        with self._errors():
            for name in self._client.scan_iter(match=pattern, count=_SCAN_COUNT):
                start = name.index(b"}:r:") + 4
                if name.startswith(table, start):
                    chunk.append(name[start + len(table) :])
                if len(chunk) == _SCAN_COUNT:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def foreign_keys(self) -> int:
        """See `KeyValue.foreign_keys`: all keys of the database, those of the table too."""
        with self._errors():
            return int(self._client.dbsize())

    def mark(self, table: bytes, keys: Sequence[bytes]) -> int:
        """See `KeyValue.mark`."""
        return int(self._run(MARK, table, keys, b"", keys).sum())

    def marks(self, table: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `KeyValue.marks`. Starts at another bucket each time, so that none waits forever behind the others."""
        self._turn += 1
        names = [self._marks(table, (bucket + self._turn) % BUCKETS) for bucket in range(BUCKETS)]
        with self._errors():
            sizes = self._pipelined([("HLEN", name) for name in names])
            wanted, left = [], limit
            for name, size in zip(names, sizes, strict=True):
                if size and left > 0:
                    wanted.append(("HRANDFIELD", name, min(size, left), "WITHVALUES"))
                    left -= min(size, left)
            replies = self._pipelined(wanted)
        return [pair for flat in replies for pair in zip(flat[::2], flat[1::2], strict=True)]

    def unmark(self, table: bytes, marks: Sequence[tuple[bytes, bytes]]) -> int:
        """See `KeyValue.unmark`."""
        keys = [key for key, _ in marks]
        return int(self._run(UNMARK, table, keys, b"", keys, [token for _, token in marks]).sum())

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def _names(self, table: bytes, keys: Sequence[bytes]) -> list[bytes]:
        prefixes = self._prefixes.get(table)
        if prefixes is None:
            prefixes = self._prefixes[table] = [b"mt:{%b}:r:%b" % (tag, table) for tag in TAGS]
        return [prefixes[crc32(key) % BUCKETS] + key for key in keys]

    def _marks(self, table: bytes, bucket: int) -> bytes:
        return b"mt:{%b}:d:%b" % (TAGS[bucket], table)

    def _get_by_slot(self, keys: Sequence[bytes], names: list[bytes], default: bytes) -> list[bytes]:
        groups = list(_groups(keys, range(len(keys))))
        replies = self._pipelined([("MGET", *(names[row] for row in rows)) for _, rows in groups])
        found = [default] * len(keys)
        for (_, rows), values in zip(groups, replies, strict=True):
            for row, value in zip(rows, values, strict=True):
                if value is not None:
                    found[row] = value
        return found

    def _merge_once(
        self, table: bytes, keys: Sequence[bytes], combine: Combine, pending: list[int], outcomes: Outcomes
    ) -> list[int]:
        stored = self.get(table, [keys[row] for row in pending], b"")
        changed = [(row, old, new) for row, old in zip(pending, stored, strict=True) if (new := combine(row, old)) != old]
        rows = [row for row, _, _ in changed]
        heads, records = [old[:40] for _, old, _ in changed], [new for _, _, new in changed]
        swapped = self._run(SWAP, table, [keys[row] for row in rows], b"", heads, records)
        outcomes[[row for row, done in zip(rows, swapped, strict=True) if done]] = Outcome.APPLIED
        return [row for row, done in zip(rows, swapped, strict=True) if not done]

    def _run(self, script: Script, table: bytes, keys: Sequence[bytes], flag: bytes, *columns: Sequence[bytes]) -> Outcomes:
        """Run a script over rows, one call per bucket, many calls per round trip; returns its digit per row."""
        names = self._names(table, keys)
        digits = np.zeros(len(keys), np.int8)
        for start in range(0, len(keys), _ROWS_PER_PIPELINE):
            groups = list(_groups(keys, range(start, min(start + _ROWS_PER_PIPELINE, len(keys)))))
            calls = []
            for bucket, rows in groups:
                arguments = [column[row] for row in rows for column in columns]
                head = ("EVALSHA", script.sha, len(rows) + 1, self._marks(table, bucket))
                calls.append((*head, *(names[row] for row in rows), flag, *arguments))
            with self._errors():
                replies = self._scripted(script, calls)
            for (_, rows), reply in zip(groups, replies, strict=True):
                digits[rows] = np.frombuffer(reply, np.uint8) - ord("0")
        return digits

    def _scripted(self, script: Script, calls: list[tuple[Any, ...]]) -> list[bytes]:
        replies = self._pipelined(calls, raises=False)
        lost = [n for n, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if lost:  # the server was restarted, or has never seen the script
            self._client.script_load(script.text)
            for n, reply in zip(lost, self._pipelined([calls[n] for n in lost], raises=False), strict=True):
                replies[n] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _pipelined(self, calls: Sequence[tuple[Any, ...]], *, raises: bool = True) -> list[Any]:
        if not calls:
            return []
        pipeline = self._client.pipeline() if self._cluster else self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        replies: list[Any] = pipeline.execute(raise_on_error=raises)
        return replies

    def _unlink(self, names: list[bytes]) -> int:
        with self._errors():
            return sum(self._pipelined([("UNLINK", name) for name in names]))


def _groups(keys: Sequence[bytes], rows: range) -> Iterator[tuple[int, list[int]]]:
    """(bucket, its rows in row order) of the given rows."""
    buckets = np.fromiter((crc32(keys[row]) % BUCKETS for row in rows), np.int64, len(rows))
    order = np.argsort(buckets, kind="stable")
    cuts = np.flatnonzero(np.diff(buckets[order])) + 1
    for part in np.split(order, cuts) if len(order) else []:
        yield int(buckets[part[0]]), (part + rows.start).tolist()


def _escaped(text: bytes) -> bytes:
    """`text` as a literal in a Redis glob pattern."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]^-\\" else bytes([c]) for c in text)
