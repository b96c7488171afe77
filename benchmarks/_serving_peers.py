"""Systems beside ours, on the same values: a Feast repository on Redis, plain redis-py, DuckDB."""

from __future__ import annotations

import struct
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import redis
from numpy.typing import NDArray

from benchmarks._serving_world import DIM, NAMES, SPACE, TIERS, Request, World, category, item_id

HALF = TIERS // 2
SPLIT = 10
#: Feast keeps a protobuf per float: beyond this only the items of the drawn requests are given to it, which favours it.
FEAST_ITEMS = 100_000
_CHUNK = 5_000
Counts = NDArray[np.int32]


def tiers_of(cosines: NDArray[np.float32], left: NDArray[np.bool_], right: NDArray[np.bool_]) -> Counts:
    """(C, N) counts of a (C, L) matrix of cosines by one bincount; rows and columns without a vector count nowhere."""
    tier = np.ceil(cosines * np.float32(HALF)).astype(np.int64) + (HALF - 1)
    np.clip(tier, 0, TIERS - 1, out=tier)
    tier += np.arange(len(cosines))[:, None] * (TIERS + 1)
    tier[~left] = TIERS
    tier[:, ~right] = TIERS
    flat = np.bincount(tier.ravel(), minlength=len(cosines) * (TIERS + 1))
    return flat[: len(cosines) * (TIERS + 1)].reshape(-1, TIERS + 1)[:, :TIERS].astype(np.int32)


def without_self(counts: Counts, candidates: list[str], history: list[str]) -> Counts:
    """A behaviour on the candidate itself has cosine 1: it leaves the top tier."""
    seen = Counter(history)
    counts[:, -1] -= np.array([seen[item] for item in candidates], np.int32)
    return counts


class RawRedis:
    """redis-py with hiredis: GET of the behaviours, one MGET of codes and norms, a float32 product, one bincount."""

    record: Final = np.dtype([("codes", "i1", DIM), ("inv_norm", "<f4")])

    def __init__(self, port: int, db: int, world: World) -> None:
        self.client = redis.Redis(port=port, db=db)
        with self.client.pipeline(transaction=False) as pipe:
            for begin in range(0, world.size.items, _CHUNK):
                some = world.vectors.take(slice(begin, begin + _CHUNK))
                for item, codes, norm in zip(some.ids or (), some.codes, some.inv_norm.tolist(), strict=True):
                    pipe.set("v:" + item, codes.tobytes() + struct.pack("<f", norm))
                pipe.execute()
            for user in world.histories:
                pipe.set("u:" + user, "\n".join(world.history_ids(user)))
            pipe.execute()

    def get(self, ids: list[str]) -> NDArray[np.void]:
        """(B,) records, zero where there is none."""
        found, blank = self.client.mget(["v:" + item for item in ids]), bytes(self.record.itemsize)
        return np.frombuffer(b"".join([value or blank for value in found]), self.record)

    def history(self, user: str) -> list[str]:
        """Ids, oldest first."""
        return self.client.get("u:" + user).decode().split("\n")

    def tiers(self, request: Request) -> Counts:
        """Ids to tiers."""
        history = self.history(request.user)
        records = self.get(request.ids + history)
        left, right = records[: len(request.ids)], records[len(request.ids) :]
        dots = left["codes"].astype(np.float32) @ right["codes"].astype(np.float32).T
        cosines = dots * left["inv_norm"][:, None] * right["inv_norm"]
        counts = tiers_of(cosines, left["inv_norm"] > 0, right["inv_norm"] > 0)
        return without_self(counts, request.ids, history)

    def packed(self, world: World) -> None:
        """Beside it, 30 floats and the vector of each item as one value: the floor of the scalar cell."""
        with self.client.pipeline(transaction=False) as pipe:
            for begin in range(0, world.size.items, _CHUNK):
                rows = np.arange(begin, min(begin + _CHUNK, world.size.items))
                values = np.concatenate([world.scalars[rows], world.floats(rows)], axis=1)
                for number, row in zip(rows.tolist(), values, strict=True):
                    pipe.set("p:" + item_id(number), row.tobytes())
                pipe.execute()

    def matrix(self, request: Request) -> NDArray[np.float32]:
        """(C, 30 + D) of `packed`."""
        found = self.client.mget(["p:" + item for item in request.ids])
        blank = bytes(4 * (len(NAMES) + DIM))
        return np.frombuffer(b"".join([value or blank for value in found]), np.float32).reshape(len(found), -1)


class FeastRedis:
    """Feast's SDK on its Redis store: an embedding, 10 and 20 scalars in two views, item fields, a sequence, tiers made ahead."""

    def __init__(self, port: int, db: int, folder: Path) -> None:
        from feast import FeatureStore

        folder.mkdir(parents=True)
        self.folder = folder
        (folder / "feature_store.yaml").write_text(
            f"project: peer\nregistry: {folder}/registry.db\nprovider: local\n"
            f"online_store:\n  type: redis\n  connection_string: 127.0.0.1:{port},db={db}\n"
            "offline_store:\n  type: dask\nentity_key_serialization_version: 3\nauth:\n  type: no_auth\n"
        )
        self.store = FeatureStore(repo_path=str(folder))
        self._at = datetime.now(UTC) - timedelta(hours=1)
        self._apply()

    def _apply(self) -> None:
        from feast import Entity, FeatureView, Field, FileSource, ValueType
        from feast.types import Array, Float32, Int32, String

        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
        schemas = {
            "item_embedding": ([item], {"embedding": Array(Float32)}),
            "item_scalars_a": ([item], dict.fromkeys(NAMES[:SPLIT], Float32)),
            "item_scalars_b": ([item], dict.fromkeys(NAMES[SPLIT:], Float32)),
            "item_features": ([item], {"price": Float32, "category": String}),
            "user_sequence": ([user], {"item_ids": Array(String)}),
            "user_item_simtier": ([user, item], {"counts": Array(Int32), "missing": Int32}),
        }
        views = []
        for name, (entities, fields) in schemas.items():
            source = FileSource(name=f"{name}_rows", path=str(self.folder / f"{name}.parquet"), timestamp_field="event_timestamp")
            frame = pd.DataFrame({e.join_key: ["none"] for e in entities} | {"event_timestamp": [self._at]})
            frame.to_parquet(self.folder / f"{name}.parquet")
            features = [Field(name=key, dtype=kind) for key, kind in fields.items()]
            views.append(FeatureView(name=name, entities=entities, schema=features, source=source))
        self.store.apply([item, user, *views])

    def fill(self, world: World) -> None:
        """Items, fields and sequences through Feast's own writes."""
        rows = np.arange(world.size.items)
        if len(rows) > FEAST_ITEMS:
            drawn = [r.rows for r in world.requests] + list(world.histories.values())
            rows = np.unique(np.concatenate(drawn))
            rows = rows[rows >= 0]
        for begin in range(0, len(rows), _CHUNK):
            some = rows[begin : begin + _CHUNK]
            scalars, price = world.scalars[some], world.scalars[some, 0]
            ids = {"item_id": [item_id(n) for n in some.tolist()]}
            self._write("item_embedding", ids | {"embedding": list(world.floats(some))})
            self._write("item_scalars_a", ids | {n: scalars[:, k] for k, n in enumerate(NAMES[:SPLIT])})
            self._write("item_scalars_b", ids | {n: scalars[:, SPLIT + k] for k, n in enumerate(NAMES[SPLIT:])})
            self._write("item_features", ids | {"price": price, "category": [category(p) for p in price.tolist()]})
        users = list(world.histories)
        self._write("user_sequence", {"user_id": users, "item_ids": [world.history_ids(u) for u in users]})

    def fill_tiers(self, requests: list[Request], counts: list[Counts], length: int) -> None:
        """Tiers of exactly these pairs, computed ahead: a feature server has no kernel."""
        for request, found in zip(requests, counts, strict=True):
            ids = {"user_id": [request.user] * len(request.ids), "item_id": request.ids}
            missing = np.where(request.rows < 0, length, 0).astype(np.int32)
            self._write("user_item_simtier", ids | {"counts": list(found), "missing": missing})

    def _write(self, view: str, columns: dict[str, object]) -> None:
        self.store.write_to_online_store(view, df=pd.DataFrame(columns | {"event_timestamp": self._at}))

    def _vectors(self, ids: list[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        rows = [{"item_id": i} for i in ids]
        found = self.store.get_online_features(features=["item_embedding:embedding"], entity_rows=rows).to_dict()["embedding"]
        there = np.array([bool(value) for value in found])
        blank = [0.0] * DIM
        return np.array([value or blank for value in found], np.float32), there

    def tiers(self, request: Request) -> Counts:
        """Ids to tiers: the sequence, then all vectors, then numpy."""
        rows = [{"user_id": request.user}]
        answer = self.store.get_online_features(features=["user_sequence:item_ids"], entity_rows=rows).to_dict()
        history = answer["item_ids"][0]
        values, there = self._vectors(request.ids + history)
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.float32(1e-30))
        count = len(request.ids)
        counts = tiers_of(values[:count] @ values[count:].T, there[:count], there[count:])
        return without_self(counts, request.ids, history)

    def matrix(self, request: Request) -> NDArray[np.float32]:
        """(C, 30 + D) from three views in one call."""
        features = [f"item_scalars_{'a' if n < SPLIT else 'b'}:{name}" for n, name in enumerate(NAMES)]
        rows = [{"item_id": i} for i in request.ids]
        answer = self.store.get_online_features(features=[*features, "item_embedding:embedding"], entity_rows=rows).to_dict()
        out = np.zeros((len(request.ids), len(NAMES) + DIM), np.float32)
        for n, name in enumerate(NAMES):
            out[:, n] = [0.0 if value is None else value for value in answer[name]]
        for n, value in enumerate(answer["embedding"]):
            if value:
                out[n, len(NAMES) :] = value
        return out


class DuckDb:
    """DuckDB in process: tables of float vectors and of behaviours, its own cosine, GROUP BY."""

    QUERY = f"""
        SELECT c.place, count(*)::INT AS pairs,
            LEAST(GREATEST(CEIL(array_cosine_similarity(a.vector, b.vector) * {HALF})::INT + {HALF - 1}, 0), {TIERS - 1}) AS tier
        FROM candidates c JOIN items a ON a.item = c.item
            CROSS JOIN (SELECT h.item, i.vector FROM history h JOIN items i ON i.item = h.item WHERE h.user_id = $user) b
        WHERE b.item <> c.item GROUP BY ALL"""

    def __init__(self, world: World, threads: int) -> None:
        import duckdb

        self._session = duckdb.connect()
        self._session.execute(f"SET threads = {threads}; SET preserve_insertion_order = false")
        self._session.execute(f"CREATE TABLE items (item VARCHAR PRIMARY KEY, vector FLOAT[{DIM}])")
        for begin in range(0, world.size.items, _CHUNK):
            some = world.vectors.take(slice(begin, begin + _CHUNK))
            flat = pa.FixedSizeListArray.from_arrays(pa.array(some.to_float().ravel()), SPACE.dim)
            self._session.register("arrow_rows", pa.table({"item": pa.array(some.ids), "vector": flat}))
            self._session.execute("INSERT INTO items SELECT * FROM arrow_rows")
        pairs = [(user, item) for user in world.histories for item in world.history_ids(user)]
        self._session.register("arrow_rows", pa.table({"user_id": [u for u, _ in pairs], "item": [i for _, i in pairs]}))
        self._session.execute("CREATE TABLE history AS SELECT * FROM arrow_rows")

    def tiers(self, request: Request) -> Counts:
        """Ids to tiers in one query."""
        self._session.register("candidates", pa.table({"place": np.arange(len(request.ids)), "item": request.ids}))
        found = self._session.sql(self.QUERY, params={"user": request.user}).to_arrow_table()
        counts = np.zeros((len(request.ids), TIERS), np.int32)
        counts[found["place"].to_numpy(), found["tier"].to_numpy()] = found["pairs"].to_numpy()
        return counts
