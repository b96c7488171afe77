"""The cells in process: ids to tiers, and 30 scalars with a vector. Each is checked against the oracle before it may be timed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from benchmarks._serving_peers import DuckDb, FeastRedis, RawRedis
from benchmarks._serving_world import DIM, NAMES, SCALAR_VIEW, SPACE, TIERS_ONLY, Request, World, item_id
from moontide import Embeddings
from moontide.settings import Settings
from moontide.simtier import tier_counts_ragged
from moontide.stores import online_store
from moontide.stores.base import OnlineStore
from moontide.stores.kv import wall_clock
from serving.client import RankingClient
from serving.reading import StoreVectors
from serving.table import VectorTables
from serving.table_load import load
from serving.table_writer import TableWriter

#: Share of the pairs that a system that computes in floats may put into the next tier, at an edge.
MOVED = 1e-4
EXACT = ("moontide", "raw", "floor")
GATED = 4
Answer = Callable[[Request], NDArray[np.generic]]


@dataclass(frozen=True)
class Sides:
    """What both cells ask, opened once. `feast` is None where that peer is left out."""

    world: World
    folder: Path
    table_folder: Path
    stores: Mapping[str, OnlineStore]
    table: TableWriter
    raw: RawRedis
    feast: FeastRedis | None

    def close(self) -> None:
        """Release the stores and the table."""
        self.table.close()
        for store in self.stores.values():
            store.close()


def open_stores(world: World, homes: Mapping[str, Settings]) -> dict[str, OnlineStore]:
    """A store of each kind, filled."""
    stores = {kind: online_store(settings) for kind, settings in homes.items()}
    for store in stores.values():
        world.fill(store)
    return stores


def open_table(store: OnlineStore, world: World, folder: Path) -> TableWriter:
    """The in-process table below `folder`, loaded from the store; its writer, still open."""
    writer = TableWriter(folder, SPACE, world.size.items, wall_clock)
    load(store, writer, threading.Event())
    writer.polled()
    return writer


def tier_cells(sides: Sides, threads: int) -> dict[str, Answer]:
    """Ids to tiers by every system, then the floors of the same transport."""
    live = sides.world.live(sides.folder)
    held = VectorTables(sides.table_folder, StoreVectors(sides.stores["LMDB"]))
    cells: dict[str, Answer] = {"moontide, table": _ours(RankingClient(sides.stores["LMDB"], live, vectors=held))}
    for kind, store in sides.stores.items():
        cells[f"moontide, {kind}"] = _ours(RankingClient(store, live))
    cells["raw redis-py MGET + numpy"] = sides.raw.tiers
    cells["DuckDB"] = DuckDb(sides.world, threads).tiers
    if sides.feast is not None:
        cells["Feast SDK, Redis + numpy"] = sides.feast.tiers
    return cells | _tier_floors(sides)


def scalar_cells(sides: Sides) -> dict[str, Answer]:
    """(C, 30 + D) float32 by every system, then the floors."""
    cells: dict[str, Answer] = {f"moontide, {kind}": _matrix(store) for kind, store in sides.stores.items()}
    if sides.feast is not None:
        cells["Feast SDK, Redis, 3 views"] = sides.feast.matrix
    rows = np.concatenate([sides.world.scalars, sides.world.floats(np.arange(sides.world.size.items))], axis=1)
    cells["floor: one packed record per item, raw redis-py MGET"] = sides.raw.matrix
    cells["floor: one packed record per item, bare LMDB gets"] = _packed_lmdb(sides.folder / "packed", rows)
    return cells


def gate(cells: Mapping[str, Answer], world: World, expected: Callable[[Request], NDArray[np.generic]]) -> dict[str, float]:
    """Share of each system's values that differ from the oracle's.

    Raises:
        SystemExit: a system that must be exact is not, or another one beyond `MOVED`: nothing may be timed.
    """
    off = dict.fromkeys(cells, 0.0)
    some = world.requests[:GATED]
    truths = [expected(request) for request in some]
    for name, cell in cells.items():
        for request, truth in zip(some, truths, strict=True):
            got = cell(request)
            if got.shape != truth.shape:
                raise SystemExit(f"{name}: expected shape {truth.shape}, got {got.shape}; nothing was timed")
            difference = np.abs(got.astype(np.float64) - truth)
            off[name] += float(difference.sum()) / 2 / max(1, int(truth.sum())) / len(some)
        if off[name] > (0 if name.startswith(EXACT) else MOVED):
            raise SystemExit(f"{name}: values differ from the oracle ({off[name]:.1e}); nothing was timed")
    return off


def _ours(client: RankingClient) -> Answer:
    client.warm_up()
    return lambda request: client.read(request.user, request.ids, service=TIERS_ONLY).counts


def _matrix(store: OnlineStore) -> Answer:
    def read(request: Request) -> NDArray[np.float32]:
        found = store.read_matrix(SCALAR_VIEW, request.ids)
        vectors = store.read_embeddings(SPACE, request.ids)
        out = np.empty((len(request.ids), len(NAMES) + DIM), np.float32)
        np.nan_to_num(found.values, copy=False)
        out[:, : len(NAMES)] = found.values
        np.multiply(vectors.codes, vectors.scale[:, None], out=out[:, len(NAMES) :])
        return out

    return read


def _tier_floors(sides: Sides) -> dict[str, Answer]:
    """The bytes by the barest means of each transport, then the kernel over them with the ids numbered beforehand."""
    world, raw = sides.world, sides.raw
    vectors = world.vectors
    env = _vectors_lmdb(sides.folder / "bare", world)

    def counted(request: Request, codes: NDArray[np.int8], norms: NDArray[np.float32]) -> NDArray[np.int32]:
        here, keys = len(request.ids), world.histories[request.user]
        ones = np.ones(len(codes), np.float32)
        both = [Embeddings(SPACE, codes[s], ones[s], norms[s], norms[s] > 0) for s in (slice(here), slice(here, None))]
        ends = (np.array([0, here]), np.array([0, len(keys)]))
        return tier_counts_ragged(
            both[0], ends[0], both[1], ends[1], world.size.spec, candidate_keys=request.rows, history_keys=keys
        ).counts

    def in_process(request: Request) -> NDArray[np.int32]:
        rows = np.concatenate([request.rows, world.histories[request.user]])
        return counted(request, vectors.codes[rows], np.where(rows < 0, np.float32(0), vectors.inv_norm[rows]))

    def redis(request: Request) -> NDArray[np.int32]:
        found = raw.get(request.ids + raw.history(request.user))
        return counted(request, np.ascontiguousarray(found["codes"]), np.ascontiguousarray(found["inv_norm"]))

    def bare(request: Request) -> NDArray[np.int32]:
        blank, record = bytes(raw.record.itemsize), raw.record
        with env.begin(buffers=True) as txn:
            history = bytes(txn.get(request.user.encode())).decode().split("\n")
            found = np.frombuffer(b"".join([txn.get(i.encode()) or blank for i in request.ids + history]), record)
        return counted(request, np.ascontiguousarray(found["codes"]), np.ascontiguousarray(found["inv_norm"]))

    return {
        "floor: gather in process + kernel": in_process,
        "floor: bare LMDB gets + kernel": bare,
        "floor: raw redis-py MGET + kernel": redis,
    }


def _vectors_lmdb(folder: Path, world: World) -> lmdb.Environment:
    env = lmdb.open(str(folder), map_size=8 << 30, sync=False)
    record = np.zeros(world.size.items, RawRedis.record)
    record["codes"], record["inv_norm"] = world.vectors.codes, world.vectors.inv_norm
    with env.begin(write=True) as txn:
        for number in range(world.size.items):
            txn.put(item_id(number).encode(), record[number].tobytes())
        for user in world.histories:
            txn.put(user.encode(), "\n".join(world.history_ids(user)).encode())
    return env


def _packed_lmdb(folder: Path, rows: NDArray[np.float32]) -> Answer:
    env = lmdb.open(str(folder), map_size=8 << 30, sync=False)
    with env.begin(write=True) as txn:
        for number, row in enumerate(rows):
            txn.put(item_id(number).encode(), row.tobytes())
    blank = bytes(4 * rows.shape[1])

    def read(request: Request) -> NDArray[np.float32]:
        with env.begin(buffers=True) as txn:
            found = b"".join([txn.get(i.encode()) or blank for i in request.ids])
        return np.frombuffer(found, np.float32).reshape(len(request.ids), -1)

    return read
