"""The plainest store a batching sink can write: item -> version and float32 vector in LMDB, last writer wins."""

import struct

import lmdb
import numpy as np

_VERSION = struct.Struct("<q")


class PlainLmdb:
    """Durable at each write, as LMDB is by default; no order, no space, no tombstones."""

    def __init__(self, path):
        self.env = lmdb.open(str(path), map_size=4 << 30)

    def write(self, ids, versions, vectors):
        with self.env.begin(write=True) as txn:
            for item, version, vector in zip(ids, versions, vectors, strict=True):
                txn.put(item.encode(), _VERSION.pack(version) + vector.tobytes())

    def versions(self, ids):
        with self.env.begin() as txn:
            found = [txn.get(i.encode()) for i in ids]
        return [None if f is None else _VERSION.unpack_from(f)[0] for f in found]

    def vectors(self, ids):
        with self.env.begin() as txn:
            return np.array([np.frombuffer(txn.get(i.encode()), np.float32, offset=_VERSION.size) for i in ids])
