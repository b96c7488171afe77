"""Values whose version can be read off them: whatever the server answers is exactly one committed version of each item, or wrong.

The first two codes of a vector are the digits of its version, all others follow from item and version, so that a mixture of two
versions is no third one's. Scale is a power of two: floats give the codes back exactly. Price and category of an item hold the
version of their own record.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.records import embedding_rows
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.simtier import SimTierSpec
from moontide.stores.base import OnlineStore
from moontide.views import embedding_view, item_features, user_sequence

DIM, TIERS, LENGTH = 32, 10, 40
SPACE = EmbeddingSpace("fault", 1, DIM, "sha256:" + "c" * 64)
SPEC = SimTierSpec(SPACE.id, TIERS, LENGTH)
SERVICE = "ctr_v1"
USER = "user:0"
ITEMS = 400
#: Behaviours are on items that no writer touches, so the tiers of an answer follow from the vector in the same row.
OLD = 10_000
BATCH = 100
START = 1_700_000_000_000_000
_BASE, _SCALE = 200, np.float32(1 / 128)

TOML = f"""
[[space]]
name = "{SPACE.name}"
version = {SPACE.version}
dim = {DIM}
encoder_digest = "{SPACE.encoder_digest}"
[[simtier]]
space = "{SPACE.id}"
tiers = {TIERS}
length = {LENGTH}
[[service]]
name = "{SERVICE}"
space = "{SPACE.id}"
simtier = "{SPEC.spec_id}"
item_fields = ["price", "category"]
"""


def item_id(number):
    return f"item:{number}"


def codes(numbers, versions):
    """(B, D) int8 of items at versions from 0 to 39,999."""
    numbers, versions = np.asarray(numbers, np.int64), np.asarray(versions, np.int64)
    steps = np.arange(DIM, dtype=np.int64)
    seed = (numbers * 1_000_003 + versions * 7_919 + 104_729)[:, None]
    values = (seed * (2 * steps + 1) + steps * steps * 31 + (seed >> 8) * (steps % 7)) % 255 - 127
    values[:, 0], values[:, 1] = versions // _BASE - 100, versions % _BASE - 100
    values[:, 2] = 127
    return values.astype(np.int8)


def versions_of(found):
    """(B,) the version that the first codes say; beyond any where they say none."""
    digits = found[:, :2].astype(np.int64) + 100
    return np.where((digits >= 0).all(axis=1), digits[:, 0] * _BASE + digits[:, 1], 1 << 40)


def codes_of(column):
    """(B, D) int8 of an answer's `embedding` column, zero where null; None where they are no codes."""
    flat = np.array([row or [0.0] * DIM for row in column.to_pylist()], np.float64).reshape(-1, DIM) * 128
    whole = np.rint(flat)
    return whole.astype(np.int8) if (whole == flat).all() and (np.abs(whole) <= 127).all() else None


def batch_of(number, salt=0):
    """Items of a batch; its number is their version."""
    return np.sort(np.random.default_rng([number, salt]).choice(ITEMS, BATCH, replace=False))


def write(store: OnlineStore, numbers, version):
    """The items at one version: vector and fields, each record on its own."""
    ids, count = [item_id(n) for n in numbers], len(numbers)
    vectors = Embeddings.from_codes(SPACE, codes(numbers, np.full(count, version)), np.full(count, _SCALE), ids=ids)
    at = START + version
    rows = embedding_rows(vectors, source_version=version, event_timestamp=at, encoded_at=at, content_known_at=at)
    store.write_rows(embedding_view(SPACE), rows)
    stamp, yes = pa.array([at] * count, schemas.TIMESTAMP), pa.array([True] * count)
    columns = {
        "item_id": pa.array(ids), "source_version": pa.array([version] * count, pa.int64()), "event_timestamp": stamp,
        "created": stamp, "deleted": pa.array([False] * count), "price": pa.array([float(version)] * count, pa.float32()),
        "category": pa.array([f"v{version}"] * count), "has_image": yes, "has_text": yes,
    }  # fmt: skip
    store.write_rows(item_features(), pa.table(columns, schema=schemas.ITEM_FEATURES))


def fill(store: OnlineStore):
    """Version 1 of every item, and the user's behaviours."""
    write(store, np.arange(ITEMS), 1)
    write(store, np.arange(OLD, OLD + LENGTH), 1)
    seen = [Behaviour(START + n, item_id(OLD + n), "click") for n in range(LENGTH)]
    found = BehaviourSequence(tuple(seen))
    stamp = pa.array([found.last_time], pa.int64()).cast(schemas.TIMESTAMP)
    columns = {
        "user_id": [USER], "event_timestamp": stamp, "created": stamp, "item_ids": [[b.item_id for b in seen]],
        "actions": [["click"] * LENGTH], "times": [[b.time for b in seen]], "sequence_version": [found.version],
    }  # fmt: skip
    store.write_rows(user_sequence(), pa.table(columns, schema=schemas.USER_SEQUENCE))


_HISTORY = codes(np.arange(OLD, OLD + LENGTH), np.ones(LENGTH))


def tiers(found):
    """(B, N) counts of codes against the user's behaviours, by the plain definition."""
    sides = [side.astype(np.int64) for side in (found, _HISTORY)]
    norms = [(1.0 / np.sqrt((side * side).sum(axis=1).astype(np.float64))).astype(np.float32) for side in sides]
    cosines = (sides[0] @ sides[1].T).astype(np.float32) * norms[0][:, None] * norms[1]
    tier = np.clip(np.ceil(cosines * np.float32(TIERS // 2)).astype(np.int64) + TIERS // 2 - 1, 0, TIERS - 1)
    return np.stack([np.bincount(row, minlength=TIERS) for row in tier])


def wrong(table, numbers, floor, ceiling):
    """What is wrong with an answer, in words; empty where nothing is.

    Args:
        table: of ``/v1/features``, its last row an item that does not exist.
        numbers: the items of the other rows.
        floor: (B,) versions that were committed before the request was sent: none may be older.
        ceiling: the newest version that anybody had begun to write when the answer was there.
    """
    found = codes_of(table["embedding"])
    present = table["embedding_present"].to_pylist()
    if found is None or table["item_id"].to_pylist() != [*map(item_id, numbers), "none:0"]:
        return ["ids or vectors that were never written"]
    problems = []
    if present != [True] * len(numbers) + [False] or table["missing"].to_pylist() != [0] * len(numbers) + [LENGTH]:
        problems.append("an item that is there and is not, or the other way round")
    rows, versions = found[:-1], versions_of(found[:-1])
    if (versions > ceiling).any() or not np.array_equal(rows, codes(numbers, np.minimum(versions, ceiling))):
        problems.append("a vector that is no version of its item")
    elif (versions < floor).any():
        problems.append("a vector older than a committed one")
    counts = np.array(table["counts"].to_pylist())
    if not np.array_equal(counts[:-1], tiers(rows)) or counts[-1].any():
        problems.append("tiers that are not those of the vector beside them")
    prices = table["price"].to_pylist()
    if table["category"].to_pylist() != [None if p is None else f"v{int(p)}" for p in prices] or prices[-1] is not None:
        problems.append("fields of two versions in one record")
    elif any(p is None or not low <= p <= ceiling for p, low in zip(prices, floor, strict=False)):
        problems.append("a field older than a committed one, or never written")
    return problems
